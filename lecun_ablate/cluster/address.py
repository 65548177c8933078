"""The address of a Ray cluster, as --on takes it, checked before anything slow is imported."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lecun_ablate.errors import ConfigError, LecunAblateError

AUTO = "auto"
PATIENCE = 5.0  # seconds for a machine to answer, twice
# The beginning of HTTP/2, which every gRPC server answers with settings of its own (RFC 9113, 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4  # the type of a frame, its fourth byte
START = "start one with `ray start --head --port=6379`"
INSIDE = (
    "start the command on a machine of the cluster and give the address of its head, "
    "--on HOST:6379, or submit the command with `ray job submit` and --on auto"
)


def reachable(on: str) -> str:
    """Return HOST:PORT of the cluster that --on names.

    "auto" is the cluster that RAY_ADDRESS names, else the one that was started on this machine.
    Raises ConfigError if the text is no such address, LecunAblateError if what listens there is no
    cluster: Ray itself would try again and again.
    """
    address = _of_this_machine() if on == AUTO else on
    host, port = _parts(address)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            speaks = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
        reason = "" if speaks else "something else listens there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise LecunAblateError(
            f"--on {address}: no Ray cluster answers there ({reason}): {START}, or correct the "
            "address"
        )
    return address


def _speaks_grpc(connection: socket.socket) -> bool:
    connection.sendall(PREFACE)
    header = connection.recv(9)
    return len(header) > 3 and header[3] == SETTINGS


def _of_this_machine() -> str:
    named = os.environ.get("RAY_ADDRESS", "")
    if named and named != AUTO:
        return named
    try:
        # where `ray start` notes the cluster that it has started
        above = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        return Path(above, "ray", "ray_current_cluster").read_text().strip()
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
