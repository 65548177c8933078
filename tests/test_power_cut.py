"""A power cut at any moment, on a file system of its own: the next start ends with the same table.

Needs root and a loop device: ext4 is told to go down at once, as if the disk were gone.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time

import pytest
from test_kill import after, finish, start

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = 2


@pytest.fixture
def disk(tmp_path):
    """A mounted ext4 of its own: (its folder, what cuts its power and mounts it again)."""
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(300_000_000)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)

    def mount():
        done = subprocess.run(
            ["mount", "-o", "loop", image, folder], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr.decode()}")

    def cut():
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(descriptor)

    def again():
        subprocess.run(["umount", folder], check=True)
        mount()

    mount()
    yield folder, cut, again
    subprocess.run(["umount", "-l", folder], check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return finish(tmp_path_factory.mktemp("undisturbed"), monkeypatch)[0]


MOMENTS = {
    "the first run": after(1),
    "many runs": after(20),
    "seconds later": after(10),
    "the end": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_power_cut_loses_nothing_for_good(disk, monkeypatch, undisturbed, moment):
    folder, cut, again = disk
    work = folder / "work"
    work.mkdir()
    process = start(work)
    reached = MOMENTS[moment]
    while process.poll() is None and not (reached and reached(work)):
        time.sleep(0.002)
    if moment == "seconds later":
        time.sleep(5)
    cut()
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    again()
    frame, output = finish(work, monkeypatch)
    assert frame.equals(undisturbed)
    if moment == "the end":
        assert "50 done before, 0 to train" in output, "what had ended was on the disk"
    monkeypatch.chdir("/")
