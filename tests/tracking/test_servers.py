"""Tracking servers that lose requests and answers, or are gone for a while."""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from unreliable import FAULTS, Unreliable

import lecun_ablate
from lecun_ablate.tracking import patient

YAML = """
name: small
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 3
"""
RUN = ("run", "small.yaml", "--device", "cpu", "--trainer", "torch")


class Flaky:
    """Stands in for MLflow's client: does what it is asked, and then loses the answer."""

    def __init__(self, lost: int, error: Exception | None = None):
        self.lost, self.runs, self.experiments = lost, [], {}
        self.error = error or MlflowException("API request to x failed with exception reset")

    def _answer(self, value):
        self.lost -= 1
        if self.lost >= 0:
            raise self.error
        return value

    def create_run(self, experiment_id, start_time, tags, run_name):
        self.runs.append(tags)
        return self._answer(tags)

    def search_runs(self, ids, condition):
        request = re.search(r"'(\w+)'", condition)[1]
        found = [tags for tags in self.runs if tags["lecun_ablate.request"] == request]
        return self._answer(found)

    def create_experiment(self, name, tags):
        if name in self.experiments:
            raise MlflowException("already exists")
        self.experiments[name] = str(len(self.experiments))
        return self._answer(self.experiments[name])

    def get_experiment_by_name(self, name):
        class Found:
            experiment_id = self.experiments.get(name)

        return Found if name in self.experiments else None

    def delete_experiment(self, experiment_id):
        if experiment_id not in self.experiments.values():
            raise MlflowException(f"No Experiment with id={experiment_id} exists")
        self.experiments = {k: v for k, v in self.experiments.items() if v != experiment_id}
        self._answer(None)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(patient, "PAUSES", (0.01,))
    monkeypatch.setattr(patient, "_given_up", set())


def test_a_lost_answer_creates_and_deletes_nothing_twice(capsys):
    flaky = Flaky(lost=2)
    client = patient._Patient(flaky, "the server")
    run = client.create_run("0", 1, {"a": "b"}, "name")
    assert flaky.runs == [run] and run["a"] == "b"
    flaky.lost = 2
    assert client.create_experiment("x", tags={}) == "0"
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment("x", tags={})  # somebody else's
    flaky.lost = 1
    assert client.delete_experiment("0") is None
    with pytest.raises(MlflowException, match="No Experiment"):
        client.delete_experiment("0")  # not a lost answer
    assert capsys.readouterr().err == "", "a few lost answers are not worth a word"


def test_an_outage_is_waited_for_visibly_and_not_for_ever(capsys, monkeypatch):
    client = patient._Patient(Flaky(lost=9), "http://me:secret@host")
    client.create_run("0")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "does not answer" in said[0] and "answers again" in said[1]
    assert "secret" not in "".join(said)
    monkeypatch.setattr(patient, "LONGEST", 0.05)
    with pytest.raises(MlflowException, match="failed with exception"):
        patient._Patient(Flaky(lost=10**6), "x").create_run("0")
    assert "up to 0 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "API request to http://x failed with exception Max retries (Connection refused)",
            1,
        ),
        ("API request to http://x failed with timeout exception read timed out", 1),
        ("too many 503 error responses", 1),
        ("API request to endpoint /api failed with error code 502 != 200", 1),
        ("RESOURCE_DOES_NOT_EXIST: No Experiment with id=1 exists", 0),
        ("API request to endpoint /api failed with error code 404 != 200", 0),
        ("INVALID_PARAMETER_VALUE: 500 is too long", 0),
    ],
)
def test_what_may_pass_is_told_from_what_does_not(text, lost):
    assert patient.no_answer(MlflowException(text)) == bool(lost)


def test_an_interruption_ends_the_waiting(monkeypatch):
    import signal

    from lecun_ablate.system.interrupts import held_back

    monkeypatch.setattr(patient, "PAUSES", (30,))
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), held_back():
        patient._Patient(Flaky(lost=9), "x").create_run("0")
    assert time.monotonic() - began < 5


def server(folder, port):
    """Start MLflow's server on an SQLite file of a folder, and wait until it answers."""
    words = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [*words, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")


def stop(process):
    os.killpg(process.pid, 15)
    process.wait()


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", [1, 2])
def test_one_request_in_eight_lost_changes_nothing(
    workplace, command, monkeypatch, empty_store, seed, tmp_path_factory
):
    (workplace / "small.yaml").write_text(YAML)
    right = lecun_ablate.run("small.yaml", device="cpu", trainer="torch")
    place = tmp_path_factory.mktemp("server")
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    process = server(place, port)
    proxy = Unreliable(port, share=0.12, seed=seed)
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        status, _out, err = command(*RUN)
        assert status == 0, err
        found = lecun_ablate.load_results("small")
        assert command(*RUN, "--seeds", "4")[0] == 0
    finally:
        proxy.shutdown()
        stop(process)
    columns = [c for c in right.columns if c not in ("run_id", "epoch_seconds")]
    assert found[columns].equals(right[columns])
    assert {fault for fault in FAULTS if proxy.counts[fault]} == set(FAULTS), proxy.counts
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    names = [e.name for e in client.search_experiments() if e.name != "Default"]
    assert names == ["small (tiny)"]
    runs = client.search_runs([client.get_experiment_by_name(names[0]).experiment_id])
    levels = sorted(run.data.tags["lecun_ablate.level"] for run in runs)
    assert levels == ["arm"] * 2 + ["experiment"] + ["run"] * 8, proxy.counts
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_an_outage_in_the_middle_is_waited_for(
    workplace, command, monkeypatch, empty_store, tmp_path_factory
):
    (workplace / "small.yaml").write_text(YAML)
    place = tmp_path_factory.mktemp("server")
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    process = server(place, port)
    proxy = Unreliable(port, share=0)

    def outage():
        while proxy.counts["sound"] < 25:
            time.sleep(0.05)
        proxy.down = True
        time.sleep(60)
        proxy.down = False

    threading.Thread(target=outage, daemon=True).start()
    monkeypatch.setattr(patient, "PAUSES", (0.2, 1, 5))
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        status, _, err = command(*RUN)
    finally:
        proxy.shutdown()
        stop(process)
    assert status == 0, err
    assert "does not answer" in err and "answers again, after" in err and proxy.counts["reset"] > 5
