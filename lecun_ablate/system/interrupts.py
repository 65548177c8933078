"""Interruptions that wait for a moment at which they do no harm."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

PATIENCE = 3.0  # seconds that a second interruption waits after the first


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block has ended; usable as a decorator.

    An MLflow session that is interrupted keeps its transaction, and so the database locked, for as
    long as the exception lives: what has to be written on the way out would fail. A block that
    goes on for longer than any such write does (a server that is silent) is interrupted by the
    next one after PATIENCE.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    came: list[tuple[float, int]] = []
    before: dict[int, Any] = {}

    def hold(number: int, _: object) -> None:
        came.append((time.monotonic(), number))
        if came[-1][0] - came[0][0] > PATIENCE:
            raise KeyboardInterrupt

    try:
        for which in (signal.SIGINT, signal.SIGTERM):
            before[which] = signal.getsignal(which)
            signal.signal(which, hold)
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        if came:
            signal.raise_signal(came[0][1])
