"""Files that are complete or absent, even after a kill or a power cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Write a file under another name, then rename it into place.

    Its folder is created if necessary. A reader sees either the old or the new content, never a
    part. If `durable`, the new content is on disk before the old one is replaced, so it survives a
    power cut. Raises OSError, which names the file; the old content is then kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.unfinished")
    try:
        try:
            with open(unfinished, "xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk; not every file system supports this."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file_systems(folders: Iterable[Path]) -> None:
    """Wait until everything on the file systems of some folders is on disk.

    One call for many files, because syncing each of them takes many times as long. Raises OSError.
    """
    devices = {folder.stat().st_dev: folder for folder in folders if folder.exists()}
    for folder in devices.values():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _sync_file_system(descriptor, folder)
        finally:
            os.close(descriptor)


def _sync_file_system(descriptor: int, folder: Path) -> None:
    if not sys.platform.startswith("linux"):
        os.sync()
        return
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(folder))


class GroupSync:
    """Syncs writes about every `seconds`, on a background thread."""

    def __init__(self, folders: Iterable[Path], seconds: float = 2.0):
        self._folders = set(folders)
        self._seconds = seconds
        self._last = time.monotonic()
        self._dirty = False
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def written(self, folder: Path | None = None) -> None:
        """Note that something has been written, in a `folder` that may be a new one.

        Raises OSError if an earlier sync has failed.
        """
        self._dirty = True
        if folder is not None:
            self._folders.add(folder)
        busy = self._thread is not None and self._thread.is_alive()
        if busy or time.monotonic() - self._last < self._seconds:
            return
        self._raise()
        self._dirty, self._last = False, time.monotonic()
        self._thread = threading.Thread(target=self._sync, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything written is on disk. Raises OSError if that fails."""
        if self._thread is not None:
            self._thread.join()
        if self._dirty:
            self._dirty, self._last = False, time.monotonic()
            self._sync()
        self._raise()

    def _sync(self) -> None:
        try:
            sync_file_systems(list(self._folders))
        except OSError as error:
            self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
