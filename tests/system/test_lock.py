"""Locks that die with their holder, whoever and wherever it is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system import lock
from lecun_ablate.system.lock import exclusive, exclusive_server, held, network_type, server_place

HOLD = """
import sys, pathlib
from lecun_ablate.system.lock import held
place = sys.argv[1]
with held(pathlib.Path(place) if place.startswith("/") else place, "it"):
    print("held", flush=True)
    sys.stdin.read()
"""
MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:27 / /home rw,nosuid shared:2 - nfs4 server:/home rw
32 31 254:1 / /home/me/local\040disk rw shared:3 - xfs /dev/vdb rw
33 22 0:28 / /mnt/cluster rw shared:4 - fuse.sshfs me@there: rw
34 22 0:29 / /tmp rw shared:5 - tmpfs tmpfs rw
"""


@pytest.fixture(params=["file", "server"])
def place(request, tmp_path):
    return tmp_path / "x.lock" if request.param == "file" else f"http://loopback:1/{tmp_path}"


def test_a_second_process_is_refused_and_told_the_first_until_it_is_killed(place):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "held\n"
    with (
        pytest.raises(LecunAblateError, match=rf"it is in use by process {first.pid} on "),
        held(place, "it"),
    ):
        pass
    first.kill()
    first.communicate()
    with held(place, "it"):
        pass
    with held(place, "it"):
        pass


def test_the_lock_of_a_server_leaves_nothing_in_the_shared_folder():
    before = set(os.listdir(tempfile.gettempdir()))
    with exclusive_server("http://loopback:5000/", "it"):
        names = set(os.listdir(tempfile.gettempdir())) - before
        assert not [name for name in names if "lecun" in name and name.endswith("lock")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("http", "localhost", 5000, ""), ("http", "127.0.0.1", 5000, "/")),
        (("http", "localhost", 5000, ""), ("http", "LOCALHOST", 5000, None)),
        (("http", "localhost", 5000, ""), ("http", "::1", 5000, "/")),
        (("http", "localhost", None, ""), ("http", "localhost", 80, "")),
        (("postgresql", None, None, "db"), ("postgresql", "localhost", 5432, "db")),
        (("postgresql+psycopg", "localhost", None, "db"), ("postgresql", "/run", None, "db")),
    ],
)
def test_addresses_of_one_server_share_a_lock(one, other):
    assert server_place(*one) == server_place(*other)
    scheme, host, _, path = one
    assert server_place(*one) != server_place(scheme, host, 7, path)
    assert server_place(*one) != server_place(scheme, host, one[2], f"{path}x")


def test_a_planted_link_is_not_followed(tmp_path):
    target, link = tmp_path / "precious", tmp_path / "x.lock"
    target.write_text("content")
    link.symlink_to(target)
    with (
        pytest.raises(LecunAblateError, match=r"x\.lock: cannot be written"),
        exclusive(link, "it"),
    ):
        pass
    assert target.read_text() == "content"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/x", None),
        ("/home/me/x", "nfs4"),
        ("/home/me/local disk/x", None),
        ("/mnt/cluster", "fuse.sshfs"),
        ("/mnt/cluster2/x", None),
        ("/tmp/x", None),
    ],
)
def test_network_file_systems_are_told_from_others(path, found):
    assert network_type(Path(path), MOUNTS.strip()) == found


def test_on_a_network_file_system_two_mounts_are_one(tmp_path, monkeypatch):
    """Each mount has its own flock; a file that must not be there yet holds on both."""
    monkeypatch.setattr(lock, "network_file_system", lambda path: "nfs4")
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    refused = pytest.raises(LecunAblateError, match=r"in use by process .* delete .*lock\.claim")
    with exclusive(tmp_path / "x.lock", "it"), refused, exclusive(tmp_path / "x.lock", "it"):
        pass
    with exclusive(tmp_path / "x.lock", "it"):
        assert (tmp_path / "x.lock.claim").exists()
    assert not (tmp_path / "x.lock.claim").exists()


@pytest.mark.parametrize("boot", ["this", "another"])
def test_a_dead_claim_is_taken_over_on_its_own_machine_only(tmp_path, monkeypatch, boot):
    monkeypatch.setattr(lock, "network_file_system", lambda path: "nfs4")
    dead = subprocess.Popen(["true"])
    dead.wait()
    machine = lock._boot() if boot == "this" else "0-0-0"
    (tmp_path / "x.lock.claim").write_text(f"{machine} {dead.pid} process {dead.pid} on there")
    if boot == "this":
        with exclusive(tmp_path / "x.lock", "it"):
            pass
    else:
        with (
            pytest.raises(LecunAblateError, match="on there"),
            exclusive(tmp_path / "x.lock", "it"),
        ):
            pass
