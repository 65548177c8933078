"""Locks for a single writer, released when their holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system.passwords import without_passwords

# default ports of servers
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "http": 80, "https": 443}

# file systems that several machines can mount, where flock may be local to one machine
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|vboxsf|fuse(\..+)?|lustre|gpfs|ceph|afs|beegfs|"
    r"glusterfs|ocfs2|gfs2|pvfs2|panfs"
)


def held(place: Path | str, what: str) -> AbstractContextManager[None]:
    """Hold a lock while a block runs: that of a file, or of a server (see `server_place`)."""
    return exclusive(place, what) if isinstance(place, Path) else exclusive_server(place, what)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the body runs; `what` names what it protects.

    Raises LecunAblateError, naming the holder, if another process has it. The file stays; only the
    lock on it counts, which the system releases however its holder ends. On a file system that
    other machines may have mounted, a claim file is written beside it as well.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        file = open(descriptor, "r+", encoding="utf-8", errors="replace")  # noqa: SIM115
    except OSError as error:
        whose = f" (it belongs to {_owner(path)})" if isinstance(error, PermissionError) else ""
        raise LecunAblateError(f"{path}: cannot be written: {error.strerror}{whose}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use(what, file.read().strip()) from None
        except OSError as error:
            raise LecunAblateError(
                f"{path}: this file system has no locks ({error.strerror}): keep the store on "
                "another one, or on a server"
            ) from None
        with _claim(path, what) if network_file_system(path) else contextlib.nullcontext():
            file.truncate(0)
            file.write(holder())
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)


@contextmanager
def exclusive_server(place: str, what: str) -> Iterator[None]:
    """Hold the lock of a server while the body runs; `place` is one of `server_place`.

    It holds for all users of this machine, not for other machines. Raises LecunAblateError, naming
    the holder, if another process has it.
    """
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    if not sys.platform.startswith("linux"):
        with exclusive(Path.home() / ".cache" / "lecun_ablate" / f"{name}.lock", what):
            yield
        return
    # an abstract socket: no file is left behind, no link is followed, no user is excluded
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0lecun_ablate-{name}")
        except OSError:
            raise in_use(what, _bound_by(name)) from None
        lock.listen(1)
        yield


def server_place(scheme: str, host: str | None, port: int | None, path: str | None) -> str:
    """Return one canonical text for all addresses of a server and database."""
    kind = scheme.partition("+")[0]  # without SQLAlchemy's driver
    return f"{kind}://{_machine(host)}:{port or PORTS.get(kind)}/{(path or '').strip('/')}"


def _machine(host: str | None) -> str:
    """Return the address of a host; the same for all names of this machine."""
    host = (host or "localhost").strip("[]").lower()
    if host.startswith("/"):  # a folder with a socket
        return "loopback"
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
    except OSError:
        return host
    local = any(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)
    return "loopback" if local or host == socket.gethostname().lower() else found[0]


def holder() -> str:
    """Return a description of this process for display."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return without_passwords(f"process {os.getpid()} on {socket.gethostname()} ({command})")


def identity() -> str:
    """Return a machine-readable identity of this process, for `alive` and `told`."""
    return f"{_boot()} {os.getpid()} {holder()}"


def alive(process: str) -> bool | None:
    """Return whether the process with an `identity` is alive; None if on another machine."""
    boot, _, rest = process.partition(" ")
    number = rest.partition(" ")[0]
    if boot != _boot() or not number.isdecimal():
        return None
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def told(process: str) -> str:
    """Return a description of the process with an `identity`."""
    return process.partition(" ")[2].partition(" ")[2]


def network_file_system(path: Path) -> str | None:
    """Return the type of a path's file system if other machines may have mounted it as well."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    return network_type(path.resolve(), mounts)


def network_type(path: Path, mounts: str) -> str | None:
    """Return the same from the text of /proc/self/mountinfo."""
    best, found = -1, ""
    for line in mounts.splitlines():
        fields, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        if path.is_relative_to(point) and len(point) >= best:
            best, found = len(point), after.split()[0]
    return found if NETWORK.fullmatch(found) else None


@contextmanager
def _claim(lock: Path, what: str) -> Iterator[None]:
    """Create a file that must not exist yet, which also works on network file systems.

    A claim left by a dead process of this machine is taken over.
    """
    claim = lock.with_name(f"{lock.name}.claim")
    for _ in range(2):
        try:
            descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            try:
                other = claim.read_text()
            except OSError:
                continue
            if alive(other) is False:
                with contextlib.suppress(FileNotFoundError):
                    claim.unlink()
                continue
            error = in_use(what, told(other))
            raise LecunAblateError(
                f"{error}. If that process or its machine is gone, delete {claim}"
            ) from None
        except OSError as error:
            raise LecunAblateError(f"{claim}: cannot be written: {error.strerror}") from None
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(identity())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                claim.unlink()
        return
    raise in_use(what, "")


def _boot() -> str:
    """Return a text that is unique to each boot of each machine or container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def in_use(what: str, who: str, since: str = "") -> LecunAblateError:
    """Return the error that says who holds a lock, and since when if that is known."""
    when = f" since {since}" if since else ""
    text = f"{what} is in use by {who or 'another process'}{when}"
    return LecunAblateError(without_passwords(f"{text}: wait until it has ended, or stop it"))


def _bound_by(name: str) -> str:
    """Return a description of the process that holds the lock of a server."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(1)
        asked.connect(f"\0lecun_ablate-{name}")
        size = struct.calcsize("3i")
        process, _, _ = struct.unpack(
            "3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        command = ""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ").strip()
        return f"process {process} on {socket.gethostname()} ({command})"
    return ""


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):
        return "another user"
