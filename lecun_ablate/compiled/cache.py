"""Files kept in the user's cache folder, by digest; damaged ones count as missing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def folder() -> Path | None:
    """Return the folder of compiled components, made if need be; None where none can be."""
    base = os.environ.get("XDG_CACHE_HOME")
    with suppress(OSError, RuntimeError):  # RuntimeError: no home folder is known
        place = (Path(base) if base else Path.home() / ".cache") / "lecun_ablate" / "compiled"
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(place, os.W_OK):
            return place
    return None


def keep(made: Path, digest: str) -> None:
    """Move a file into the folder; one in the folder's file system is there in one step.

    Another process sees all of it or nothing.
    """
    place = folder()
    assert place is not None
    made.replace(place / f"{digest}-{_checksum(made)}{made.suffix}")


def kept(digest: str, suffix: str) -> Iterator[Path]:
    """Yield the whole files of a digest. The end of a name is a checksum; others are removed."""
    place = folder()
    for file in place.glob(f"{digest}-*{suffix}") if place else ():
        with suppress(OSError):
            if file.stem == f"{digest}-{_checksum(file)}":
                yield file
            else:
                file.unlink()


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
