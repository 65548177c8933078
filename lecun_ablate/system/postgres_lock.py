"""Locks that a PostgreSQL server holds, for processes on different machines."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lecun_ablate.system.interrupts import pause
from lecun_ablate.system.lock import in_use

if TYPE_CHECKING:
    from sqlalchemy import Connection

# of the lock's own connection: a holder whose machine is gone loses the lock after about a minute
KEEPALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}

PATIENCE = 1.0  # seconds in which the server notices that a killed holder is gone

_HOLDER = """
SELECT application_name, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND classid::bigint = :high AND objid::bigint = :low
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def exclusive_in_postgres(url: str, name: str, what: str) -> Iterator[None]:
    """Hold a lock of a PostgreSQL database while the body runs; `what` says what it guards.

    The lock is an advisory one, on a connection of its own: the server drops it when that ends, in
    whatever way. Raises LecunAblateError, naming the holder, if another process has it, and
    SQLAlchemy's errors if the server cannot be reached.
    """
    from sqlalchemy import NullPool, create_engine, text

    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        settings = KEEPALIVE | {"application_name": _application()}
        for key, value in settings.items():
            about = {"key": key, "value": str(value)}
            connection.execute(text("SELECT set_config(:key, :value, false)"), about)
        ask = text("SELECT pg_try_advisory_lock(:number)")
        end = time.monotonic() + PATIENCE
        while not connection.execute(ask, {"number": number}).scalar():
            if time.monotonic() > end:
                raise in_use(what, *_holder(connection, number))
            pause(0.1)
        yield


def _application() -> str:
    """Return what PostgreSQL shows as the name of this process: 63 characters at most."""
    return f"lecun_ablate, process {os.getpid()} on {socket.gethostname()}"[:63]


def _holder(connection: Connection, number: int) -> tuple[str, str]:
    """Return for people who holds a lock, and since when, as far as the server tells."""
    from sqlalchemy import text

    halves = {"high": (number >> 32) & 0xFFFFFFFF, "low": number & 0xFFFFFFFF}
    found = connection.execute(text(_HOLDER), halves).first()
    who, since = found or ("", "")
    return (who or "").removeprefix("lecun_ablate, "), since or ""
