"""Who drives an experiment or a study: one process, on whichever machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lecun_ablate.system.postgres_lock import exclusive_in_postgres
from lecun_ablate.tracking.connection import Connection
from lecun_ablate.tracking.lease import Lease


@contextlib.contextmanager
def only_driver(connection: Connection, experiment_id: str, name: str) -> Iterator[Lease | None]:
    """Let no other process drive the experiment of a name while the block runs.

    A file has one writer anyway. PostgreSQL has locks of its own; elsewhere a lease is taken, which
    is yielded. Raises LecunAblateError, naming the other process.
    """
    what = f"{name} in {connection.where}"
    if connection.database is not None:
        yield None
    elif connection.uri.startswith("postgresql"):
        with contextlib.ExitStack() as stack:
            with connection.explained("cannot be locked"):
                stack.enter_context(exclusive_in_postgres(connection.uri, f"run {name}", what))
            yield None
    else:
        with contextlib.ExitStack() as stack:
            with connection.explained("cannot be locked"):
                held = Lease.held(connection.impatient, experiment_id, what)
                lease = stack.enter_context(held)
            yield lease
