"""Interruptions that wait for a moment at which they do no harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block has ended; usable as a decorator.

    An MLflow session that is interrupted keeps its transaction, and so the database locked, for as
    long as the exception lives: what has to be written on the way out would fail.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {
        which: signal.signal(which, lambda number, _: came.append(number)) for which in signals
    }
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        if came:
            signal.raise_signal(came[0])
