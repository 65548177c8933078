"""Files that are whole or not there."""

import errno
import os
import threading

import pytest

from lecun_ablate.system import disk


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("old", [None, b"old"])
def test_what_is_written_is_there(tmp_path, durable, old):
    file = tmp_path / "folder/notes.txt"
    if old:
        file.parent.mkdir()
        file.write_bytes(old)
    disk.write(file, "Zürich", durable)
    assert file.read_bytes() == "Zürich".encode()
    assert [path.name for path in file.parent.iterdir()] == ["notes.txt"]


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    file = tmp_path / ("n" * 255)
    disk.write(file, b"x")
    assert file.read_bytes() == b"x"


def test_files_have_the_mode_of_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        disk.write(tmp_path / "notes.txt", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "notes.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_names_the_file(tmp_path, monkeypatch, call):
    file = tmp_path / "plan.json"
    file.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=r"plan\.json") as caught:
        disk.write(file, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_the_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    disk.write(tmp_path / "plan.json", b"new")
    assert done == ["sync", "rename", "sync"]


def test_a_group_is_synced_once_and_at_the_end(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(disk, "sync_file_systems", synced.append)
    group = disk.GroupSync([tmp_path], seconds=0.0)
    group.written()
    group.finish()
    assert synced == [[tmp_path]], "nothing has been written since"
    group = disk.GroupSync([tmp_path], seconds=1000.0)
    for _ in range(5):
        group.written()
    assert len(synced) == 1
    group.finish()
    assert len(synced) == 2


def test_a_sync_beside_the_work_neither_holds_it_up_nor_hides_its_failure(tmp_path, monkeypatch):
    going = threading.Event()

    def slow(_):
        going.wait(60)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, "sync_file_systems", slow)
    group = disk.GroupSync([tmp_path], seconds=0.0)
    group.written()
    group.written()  # while the first is under way
    going.set()
    with pytest.raises(OSError) as caught:
        group.finish()
    assert caught.value.errno == errno.EIO


def test_a_file_system_is_synced_once_for_all_its_folders(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    calls = []
    real = disk._sync_file_system
    monkeypatch.setattr(disk, "_sync_file_system", lambda *args: (calls.append(args), real(*args)))
    disk.sync_file_systems([tmp_path, tmp_path / "one", tmp_path / "missing"])
    assert len(calls) == 1
