"""The errors that users can cause, each with its exit status."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from pathlib import Path


class LecunAblateError(Exception):
    """Something failed. The message says what, where, and what would help."""

    exit_status = 1


class NoStoreYet(LecunAblateError):
    """There is no MLflow store, because nothing has been run."""


class ConfigError(LecunAblateError):
    """A configuration that cannot be run, with all problems found, one line each."""

    exit_status = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(LecunAblateError):
    """A data set that is missing or invalid."""

    exit_status = 3


# of the system or the disk, and gone when that is mended: not what a file's author can put right
_PASSING = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE}


def unreadable(
    file: str | Path, error: OSError, problem: str = "cannot be read"
) -> LecunAblateError:
    """Return the error of a configuration's file that cannot be read."""
    message = f"{file}: {problem}: {error.strerror}"
    return LecunAblateError(message) if error.errno in _PASSING else ConfigError(message)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint with the valid name nearest to a wrong one, and all valid names."""
    valid = [str(option) for option in valid]
    folded = {option.lower(): option for option in valid}
    close = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.5)
    close = [folded[match] for match in close]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}"


def neighbours(file: str | Path, pattern: str) -> str:
    """Return a hint, in brackets, with the files beside a missing one; empty if there are none."""
    folder = Path(file).parent
    names = sorted(str(path) for path in folder.glob(pattern)) if folder.is_dir() else []
    return f" ({nearest(str(file), names)})" if names else ""
