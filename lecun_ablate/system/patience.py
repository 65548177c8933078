"""Messages about long waits."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

PATIENCE = 3.0  # seconds until a message is printed

_pending: set[str] = set()  # texts that a block is waiting to print


@contextlib.contextmanager
def said_if_slow(text: str) -> Iterator[None]:
    """Print a text on standard error if the block takes more than PATIENCE seconds.

    Blocks may be nested: what an outer one will say is not said twice.
    """
    if text in _pending:
        yield
        return
    _pending.add(text)
    timer = threading.Timer(PATIENCE, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _pending.discard(text)
