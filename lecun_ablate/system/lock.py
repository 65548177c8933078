"""One writer at a time: an operating-system lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system.passwords import without_passwords


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the body runs; `what` names what it guards.

    Raises LecunAblateError, naming the holder, if another process has it. The file stays; what
    counts is the lock on it, which the system drops however its holder ends.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8", opener=_private)  # noqa: SIM115  (closed below)
    except OSError as error:
        whose = f" (it belongs to {_owner(path)})" if isinstance(error, PermissionError) else ""
        raise LecunAblateError(f"{path}: cannot be written: {error.strerror}{whose}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LecunAblateError(
                without_passwords(
                    f"{what} is in use by {holder}: wait until it has ended, or stop it"
                )
            ) from None
        file.truncate(0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        holder = f"process {os.getpid()} on {socket.gethostname()} ({command})"
        file.write(without_passwords(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):
        return "another user"


def _private(path: str, flags: int) -> int:
    """Open a file that nobody else may read: the locks of servers are in the shared /tmp."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
