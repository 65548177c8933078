"""The address of a Ray cluster, as --on takes it, checked before anything slow is imported."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lecun_ablate.errors import ConfigError, LecunAblateError

AUTO = "auto"
CURRENT = Path("/tmp/ray/ray_current_cluster")  # where `ray start` notes the cluster it has started
PATIENCE = 5.0  # seconds for a machine to answer
START = "start one with `ray start --head --port=6379`"
INSIDE = (
    "start the command on a machine of the cluster and give the address of its head, "
    "--on HOST:6379, or submit the command with `ray job submit` and --on auto"
)


def reachable(on: str) -> str:
    """Return HOST:PORT of the cluster that --on names.

    "auto" is the cluster that RAY_ADDRESS names, else the one that was started on this machine.
    Raises ConfigError if the text is no such address, LecunAblateError if nobody listens there.
    """
    address = _of_this_machine() if on == AUTO else on
    host, port = _parts(address)
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise LecunAblateError(
            f"--on {address}: no Ray cluster answers there ({reason}): {START}, or correct the address"
        ) from None
    return address


def _of_this_machine() -> str:
    named = os.environ.get("RAY_ADDRESS", "")
    if named and named != AUTO:
        return named
    try:
        return CURRENT.read_text().strip()
    except OSError:
        raise ConfigError(
            f"--on auto: RAY_ADDRESS is not set, and no Ray cluster has been started here: {START}"
        ) from None


def _parts(address: str) -> tuple[str, int]:
    if address.startswith("ray://"):
        raise ConfigError(f"--on {address}: Ray Client is not supported: {INSIDE}")
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--on {address}: expected HOST:PORT, such as 10.0.0.5:6379, or auto")
    return host.strip("[]"), int(port)
