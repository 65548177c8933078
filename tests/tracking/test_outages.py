"""A tracking server that goes away: training goes on, runs wait, and nothing is doubled."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_servers import YAML, free_port, server, stop
from unreliable import Unreliable

import lecun_ablate
from lecun_ablate.plan.results import EPOCH_METRICS
from lecun_ablate.tracking import lease, patient, store

pytestmark = pytest.mark.usefixtures("plain_reports")
RUN = ("run", "small.yaml", "--device", "cpu", "--trainer", "torch")
COLUMNS = ["arm", "seed", "epoch", "train_loss", "test_loss", "test_misses", "status"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store):
    """A folder with the database of a server that runs, and its port."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    process = server(folder, port)
    yield folder, port
    stop(process)


@pytest.fixture
def proxy(place, workplace, tiny, monkeypatch):
    """A server that can be told to be down, with nothing of this package on it."""
    (workplace / "small.yaml").write_text(YAML)
    client = MlflowClient(f"http://127.0.0.1:{place[1]}")
    for experiment in client.search_experiments():
        if experiment.name != "Default":  # MLflow keeps the names of deleted ones
            client.rename_experiment(experiment.experiment_id, f"old {experiment.experiment_id}")
            client.set_experiment_tag(experiment.experiment_id, "lecun_ablate.name", "old")
            client.delete_experiment(experiment.experiment_id)
    between = Unreliable(place[1], share=0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", between.uri)
    monkeypatch.setattr(patient, "PAUSES", (0.05, 0.1))
    monkeypatch.setattr(patient, "_given_up", set())
    monkeypatch.setattr(lease, "SETTLE", 0.1)
    yield between
    between.shutdown()


def right_table(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        return lecun_ablate.run("small.yaml", device="cpu", trainer="torch")


def assert_right(monkeypatch, seeds=3):
    """Every run is there, once, with the numbers that a file would have."""
    found = lecun_ablate.load_results("small")
    assert found[COLUMNS].equals(right_table(monkeypatch)[COLUMNS])
    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    keys = Counter(run.data.tags.get("lecun_ablate.run_key") for run in runs)
    assert keys.pop(None) == 3 and set(keys.values()) == {1} and len(keys) == 2 * seeds
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert waiting() == []


def waiting():
    return list(Path("unsent").rglob("*.zip"))


def when(condition, action):
    def work():
        while not condition():
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ["reset", pytest.param("500", marks=pytest.mark.slow)])
def test_runs_wait_on_the_disk_until_the_next_start(proxy, command, monkeypatch, fault):
    monkeypatch.setattr(patient, "LONGEST", 1.0)
    monkeypatch.setattr(patient, "LONGEST_ERROR", 1.0)
    proxy.fault_when_down = fault
    when(waiting, lambda: setattr(proxy, "down", True))
    status, _, err = command(*RUN)
    left = len(waiting())
    assert status == 1 and left > 0
    assert "does not answer: " in err and f"{left} finished run" in err and "wait in unsent" in err
    assert "Traceback" not in err and "bug" not in err
    proxy.down = False
    status, _, err = command(*RUN)
    assert status == 0, err
    assert "6 runs, 6 done before, 0 to train" in err, "training had gone on"
    assert "taken up" in err
    assert_right(monkeypatch)


@pytest.mark.slow
def test_an_outage_that_ends_in_time_is_only_said(proxy, command, monkeypatch):
    def down_for_a_while():
        proxy.down = True
        time.sleep(2)
        proxy.down = False

    when(waiting, down_for_a_while)
    status, _, err = command(*RUN)
    assert status == 0, err
    assert_right(monkeypatch)


@pytest.mark.slow
def test_what_the_server_has_already_is_not_written_again(proxy, command, monkeypatch):
    """As after a kill between the last answer of the server and the deletion of the file."""
    kept = {}

    def keep():
        while len(kept) < 2:
            for path in waiting():
                try:
                    kept[path] = path.read_bytes()
                except OSError:
                    continue

    when(lambda: True, keep)
    assert command(*RUN)[0] == 0 and kept
    for path, content in kept.items():
        path.write_bytes(content)
    status, _, err = command(*RUN)
    assert status == 0 and "0 to train" in err, err
    assert_right(monkeypatch)


@pytest.mark.slow
def test_what_the_server_refuses_is_set_aside(proxy, command, monkeypatch):
    assert command(*RUN, "--seeds", "1")[0] == 0
    when(waiting, lambda: setattr(proxy, "down", True))
    monkeypatch.setattr(patient, "LONGEST", 0.5)
    assert command(*RUN)[0] == 1
    proxy.down = False
    path, *_ = waiting()
    path.write_bytes(b"no archive")
    status, _, err = command(*RUN)
    assert status == 0 and "is damaged" in err and "set aside" in err, err
    assert path.with_name(path.name + ".refused").exists()
    assert_right(monkeypatch)


def test_doctor_names_what_waits(proxy, command, monkeypatch):
    monkeypatch.setattr(patient, "LONGEST", 0.5)
    when(waiting, lambda: setattr(proxy, "down", True))
    assert command(*RUN)[0] == 1
    proxy.down = False
    left = len(waiting())
    out = command("doctor")[1]
    assert f"{left} finished run" in out and "unsent" in out


@pytest.mark.slow
def test_a_kill_while_runs_wait_loses_none(proxy, command, monkeypatch):
    code = (
        "import tiny_digits, sys; tiny_digits.register_tiny(); from lecun_ablate.cli import _main; "
    )
    words = [sys.executable, "-c", f"{code}sys.exit(_main(sys.argv[1:]))", *RUN, "--seeds", "40"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    while not waiting():
        time.sleep(0.01)
        assert process.poll() is None
    proxy.down = True
    while len(waiting()) < 12:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(waiting())
    proxy.down = False
    status, _, err = command(*RUN, "--seeds", "40")
    assert status == 0, err
    done = int(err.split("80 runs, ")[1].split(" done before")[0])
    assert done >= kept >= 12
    runs = MlflowClient().search_runs(
        [e.experiment_id for e in MlflowClient().search_experiments()], max_results=1000
    )
    keys = Counter(run.data.tags.get("lecun_ablate.run_key") for run in runs)
    keys.pop(None)
    assert set(keys.values()) == {1} and len(keys) == 80


@pytest.mark.parametrize("most", [2500, 2])
def test_histories_are_those_that_mlflow_gives_run_by_run(proxy, command, monkeypatch, most):
    """Many runs in one request; the server leaves points out of runs that have too many."""
    monkeypatch.setattr(store, "MOST_POINTS", most)
    assert command(*RUN, "--epochs", "3")[0] == 0
    opened = store.Store()
    (experiment,) = [e for e in MlflowClient().search_experiments() if e.name != "Default"]
    runs = opened.finished(experiment.experiment_id)[0].values()
    ids = [run.run_id for run in runs]
    points = opened._points_of_server(ids)
    assert sorted(points) == sorted(opened._points_of_client(ids))
    assert len(points) == len(ids) * len(EPOCH_METRICS) * 3


# ---- who drives

HOLD = """
import sys
from mlflow import MlflowClient
from lecun_ablate.tracking import lease
uri, experiment_id, renewal, seconds = sys.argv[1:]
lease.SETTLE, lease.RENEWAL, lease.SECONDS = 0.1, float(renewal), float(seconds)
with lease.Lease.held(MlflowClient(uri), experiment_id, "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(uri, experiment_id, renewal=30.0, seconds=120.0):
    words = [sys.executable, "-c", HOLD, uri, experiment_id, str(renewal), str(seconds)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def elsewhere(monkeypatch):
    """Let this process be on another machine than all others."""
    monkeypatch.setattr("lecun_ablate.system.lock._boot", lambda: "another")


def test_a_second_driver_is_told_the_first(proxy, command, monkeypatch):
    assert command(*RUN, "--seeds", "1")[0] == 0
    (experiment,) = [e for e in MlflowClient().search_experiments() if e.name != "Default"]
    first = holder(proxy.uri, experiment.experiment_id)
    elsewhere(monkeypatch)
    status, _, err = command(*RUN)
    assert status == 1, err
    assert f"small/tiny in {proxy.uri} is in use by process {first.pid} on " in err
    assert " since 2" in err and "UTC" in err and "can be taken over" in err
    first.communicate("")  # gives the lease back
    status, _, err = command(*RUN)
    assert status == 0, err


@pytest.mark.slow
def test_the_lease_of_a_dead_machine_is_taken_over(proxy, command, monkeypatch):
    assert command(*RUN, "--seeds", "1")[0] == 0
    (experiment,) = [e for e in MlflowClient().search_experiments() if e.name != "Default"]
    first = holder(proxy.uri, experiment.experiment_id, seconds=1.0)
    first.kill()
    first.communicate()
    elsewhere(monkeypatch)
    time.sleep(1.1)
    monkeypatch.setattr(lease, "RENEWAL", 0.5)
    status, _, err = command(*RUN)
    assert status == 0, err
    assert_right(monkeypatch)


@pytest.mark.slow
def test_a_living_holder_whose_clock_is_behind_keeps_its_lease(proxy, command, monkeypatch):
    """By our clock its lease has run out; but it is renewed."""
    assert command(*RUN, "--seeds", "1")[0] == 0
    (experiment,) = [e for e in MlflowClient().search_experiments() if e.name != "Default"]
    first = holder(proxy.uri, experiment.experiment_id, renewal=0.2, seconds=-100.0)
    elsewhere(monkeypatch)
    monkeypatch.setattr(lease, "RENEWAL", 2.0)
    status, _, err = command(*RUN)
    assert status == 1 and f"in use by process {first.pid}" in err, err
    first.communicate("")


@pytest.mark.slow
def test_a_killed_driver_on_this_machine_is_not_waited_for(proxy, command, monkeypatch):
    assert command(*RUN, "--seeds", "1")[0] == 0
    (experiment,) = [e for e in MlflowClient().search_experiments() if e.name != "Default"]
    first = holder(proxy.uri, experiment.experiment_id)
    first.kill()
    first.communicate()
    began = time.monotonic()
    assert command(*RUN)[0] == 0
    assert time.monotonic() - began < lease.SECONDS / 2


@pytest.mark.slow
def test_a_driver_whose_lease_was_taken_over_stops(proxy, command, monkeypatch):
    """As a laptop that was asleep; what it had finished is kept."""
    monkeypatch.setattr(lease, "RENEWAL", 0.1)
    client = MlflowClient(proxy.uri)

    def take_over():
        (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
        terms = lease.Terms(id="x", holder="there 7 process 7 on there", since=0, until=2e9)
        tag = terms.model_dump_json()
        client.set_experiment_tag(experiment.experiment_id, lease.LEASE, tag)

    when(waiting, take_over)
    status, _, err = command(*RUN, "--seeds", "60")
    assert status == 1 and "was taken over by process 7 on there" in err, err
