"""Runs on their way to a tracking server: none is lost, none is there twice."""

import json
import os
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from test_tracking import ENDED

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.tracking import client_run, patient, sender, spool
from lecun_ablate.tracking.sender import Sender
from lecun_ablate.tracking.spool import Spool

FILES = {"weights.npz": b"\x00\x01", "modules/pack/helper.py": "Zürich".encode()}
SILENCE = MlflowException("API request to x failed with exception Connection refused")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(patient, "PAUSES", (0.01,))
    return Spool("http://me:secret@host:5000/mlflow")


# ---- the spool


def test_a_run_comes_back_as_it_was_put(here):
    path = here.put("any/tiny", ENDED, FILES)
    assert "secret" not in str(path) and here.waiting("any/tiny") == here.waiting() == [path]
    about, files = spool.read(path)
    assert files == FILES
    back = about.ended_run("7")
    assert repr(back) != repr(ENDED)
    assert _told(replace(back, experiment_id="2")) == _told(ENDED)  # NaN is not equal to itself


def _told(run):
    points = [(m.key, repr(m.value), m.timestamp, m.step) for m in run.metrics]
    data = [repr(dict(run.data.dataset)), [dict(tag) for tag in run.data.tags]]
    return points, data, run.started, run.name, run.tags, client_run.params(run.values)[0].value


def test_runs_of_one_server_and_experiment_stand_apart(here):
    paths = [here.put(name, ENDED, {}) for name in ("a/tiny", "a,tiny", "b/tiny")]
    paths.append(Spool("http://other:5000").put("a/tiny", ENDED, {}))
    assert len(set(paths)) == 4 and len(here.waiting()) == 3
    assert here.waiting("b/tiny") == [paths[2]]
    names = [spool.read(path)[0].experiment for path in here.waiting("a/tiny")]
    assert sorted(names) == ["a,tiny", "a/tiny"], "told apart by what stands in them"


def test_the_run_that_ended_first_is_first(here):
    late = here.put("a/tiny", replace(ENDED, ended=ENDED.ended + 5), {})
    early = here.put("a/tiny", replace(ENDED, ended=ENDED.ended - 5), {})
    assert here.waiting("a/tiny") == [early, late]


DAMAGES = [lambda b: b[:100], lambda b: b"", lambda b: b[:-300] + b"x" * 9]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_named_and_can_be_set_aside(here, damage):
    path = here.put("any/tiny", ENDED, FILES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LecunAblateError, match=path.name):
        spool.read(path)
    aside = spool.set_aside(path)
    assert aside.exists() and here.waiting() == []


def test_an_archive_that_lacks_what_it_needs_is_damaged(here):
    path = here.put("any/tiny", ENDED, {})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run.json", json.dumps({"name": "x"}))
    with pytest.raises(LecunAblateError, match="damaged"):
        spool.read(path)


def test_a_full_disk_leaves_no_part_of_a_run(here, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*unsent"):
        here.put("any/tiny", ENDED, FILES)
    assert [path for path in Path("unsent").rglob("*") if path.is_file()] == []


# ---- the sender


class Server:
    """What a Sender writes to: loses what it is told to."""

    def __init__(self):
        self.lock, self.there, self.tries, self.at_once, self.most = threading.Lock(), [], 0, 0, 0
        self.error = None

    def send(self, path, again):
        with self.lock:
            self.tries += 1
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.01)
        with self.lock:
            self.at_once -= 1
            if self.error:
                raise self.error
            assert again or path not in self.there
            if path not in self.there:
                self.there.append(path)


def files(folder, number):
    paths = [folder / f"{i}.zip" for i in range(number)]
    for path in paths:
        path.write_bytes(b"")
    return paths


def test_several_runs_are_on_their_way_at_a_time_and_all_arrive(here, tmp_path):
    server = Server()
    sending = Sender(server.send, "x")
    paths = files(tmp_path, 40)
    for path in paths:
        sending.add(path)
    assert sending.wait(5) is None and sending.left == 0
    assert sorted(server.there) == sorted(paths) and not any(path.exists() for path in paths)
    assert 1 < server.most <= sender.AT_ONCE
    sending.close()


def test_an_outage_is_outlived_while_training_goes_on(here, tmp_path, capsys):
    server = Server()
    server.error = SILENCE
    sending = Sender(server.send, "http://me:secret@host")
    for path in files(tmp_path, 20):
        sending.add(path)
    assert sending.wait(0.5) is SILENCE and sending.left == 20
    server.error = None
    assert sending.wait(5) is None and len(server.there) == 20 and not sending.failures()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "does not answer" in said[0] and "answers again" in said[1], said
    assert "secret" not in "".join(said)
    sending.close()


def test_what_is_refused_is_kept_and_told_once(here, tmp_path):
    server = Server()
    server.error = MlflowException("INVALID_PARAMETER_VALUE: no")
    sending = Sender(server.send, "x")
    (path,) = files(tmp_path, 1)
    sending.add(path)
    assert sending.wait(5) is None
    (failure,) = sending.failures()
    assert failure.path == path and path.exists() and sending.failures() == []
    sending.close()


def test_closing_does_not_wait_for_a_silent_server(here, tmp_path):
    server = Server()
    server.error = SILENCE
    sending = Sender(server.send, "x")
    paths = files(tmp_path, 3)
    for path in paths:
        sending.add(path)
    while not server.tries:
        time.sleep(0.01)
    began = time.monotonic()
    sending.close()
    assert time.monotonic() - began < sender.GRACE / 2 and all(path.exists() for path in paths)


# ---- written once


class Tracking:
    """MLflow's client with a memory; the answer to the n-th call is lost."""

    def __init__(self, lose):
        self.calls, self.lose, self.runs, self.log = 0, lose, {}, []

    def _answer(self, value=None):
        self.calls += 1
        if self.calls == self.lose:
            raise SILENCE
        return value

    def search_runs(self, ids, condition):
        runs = self.runs.values()
        found = [r for r in runs if f"'{r.tags['lecun_ablate.request']}'" in condition]
        return self._answer(found)

    def create_run(self, experiment_id, started, tags, name):
        run = Found(f"{len(self.runs)}", tags)
        self.runs[run.info.run_id] = run
        return self._answer(run)

    def log_batch(self, run_id, metrics=(), params=()):
        self.log.append(("batch", run_id))
        self._answer()

    def log_inputs(self, run_id, inputs):
        self.log.append(("inputs", run_id))
        self._answer()

    def set_terminated(self, run_id, status, ended):
        self.runs[run_id].info.status = status
        self._answer()


class Found:
    def __init__(self, run_id, tags):
        self.tags = tags
        self.info = type("Info", (), {"run_id": run_id, "status": "RUNNING"})()


@pytest.mark.parametrize("lose", range(7))
def test_a_run_is_created_once_whichever_answer_is_lost(lose):
    server, put = Tracking(lose), []
    for again in (False, True, True):
        try:
            client_run.write_once(server, ENDED, "me", again, lambda info: put.append(info.run_id))
            break
        except MlflowException:
            continue
    (run,) = server.runs.values()
    assert run.info.status == "FINISHED" and set(put) == {"0"}
    assert ("inputs", "0") in server.log and ("batch", "0") in server.log
    if lose == 0:
        assert server.calls == 4, "and each file is a request"
