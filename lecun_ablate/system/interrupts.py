"""Delaying interruptions until they do no harm."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

_held: list[tuple[float, int]] = []  # signals held back by the innermost block
PATIENCE = 3.0  # seconds; a second interruption that long after the first is not held back


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the block has ended; usable as a decorator.

    An interrupted MLflow session keeps its transaction open, and the database locked, as long as
    the exception lives, so cleanup writes would fail. If a block takes longer than any such write
    (because a server does not answer), another interruption after PATIENCE ends it.
    """
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    global _held  # noqa: PLW0603  # signals belong to the process, and so do those held back
    held: list[tuple[float, int]] = []
    outer, _held = _held, held
    before: dict[int, Any] = {}

    def hold(number: int, _: object) -> None:
        held.append((time.monotonic(), number))
        if held[-1][0] - held[0][0] > PATIENCE:
            raise KeyboardInterrupt

    try:
        for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(which)
            if handler != signal.SIG_IGN:  # `nohup` ignores it
                before[which] = handler
                signal.signal(which, hold)
        yield
    finally:
        _held = outer
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0][1])


def pause(seconds: float) -> None:
    """Sleep; raises KeyboardInterrupt for a held-back interruption: nothing is being written."""
    main = threading.current_thread() is threading.main_thread()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if main and _held:
            raise KeyboardInterrupt
        time.sleep(min(left, 0.1))
