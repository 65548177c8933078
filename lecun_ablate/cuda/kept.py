"""Compiled kernels, kept from one process to the next in cuda.core's cache of programs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class Kept:
    """The place of one program, by source, options and compiler version, in the cache folder.

    Where there is no home folder, no right to write or no room, nothing is kept, and that is all.
    """

    def __init__(self, source: str, options: Any):
        from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

        self._key = make_program_cache_key(
            code=source, code_type="c++", options=options, target_type="cubin"
        )
        try:
            self._cache = FileStreamProgramCache()
        except (OSError, RuntimeError):  # RuntimeError: no home folder is known
            self._cache = None

    def read(self) -> Any | None:
        """Return the program as a cuda.core.ObjectCode, or None where it is not kept."""
        from cuda.core import ObjectCode

        if self._cache is None:
            return None
        try:
            return ObjectCode.from_cubin(self._cache[self._key])
        except (KeyError, OSError):
            return None

    def write(self, code: Any) -> None:
        """Keep the program, in place of what was kept."""
        if self._cache is not None:
            with suppress(OSError):
                self._cache[self._key] = code
