"""A PostgreSQL database as the store: rows are inserted directly there, too."""

import contextlib
import subprocess
import sys

import pytest
from test_tracking import ENDED, read_back

import lecun_ablate
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.studies import optuna_storage
from lecun_ablate.studies.optuna_storage import open_storage
from lecun_ablate.system.postgres_lock import exclusive_in_postgres
from lecun_ablate.tracking import sqlite, writer
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.tagged_runs import tagged_runs
from lecun_ablate.tracking.writer import Writer

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture
def server(one_postgres, workplace):
    return one_postgres


def test_a_run_is_written_and_read_as_mlflow_itself_would(server, monkeypatch):
    read, told = {}, {}
    for way in ("client", "ours"):
        with monkeypatch.context() as patch:
            if way == "client":
                patch.setattr(sqlite, "TESTED_REVISIONS", {})
                patch.setattr(writer, "insert_run", None)
                sqlite.tables_are_known.cache_clear()
            with Writer.opened(server) as store:
                place = store.ensure_experiment(f"{way}/tiny")
                run = writer.replace(ENDED, experiment_id=place)
                for _ in range(2):
                    run_id = store.write(run, "run", {"notes.txt": "Zürich"})
                assert store.files.text(run_id, "notes.txt") == "Zürich"
                shown = read_back(store, run_id).replace(f"/{place}/", "/place/")
                read[way] = shown.replace(f"'experiment_id': '{place}'", "the experiment")
                found = [*store.connection.tagged(place, {"lecun_ablate.level": "run"})]
                told[way] = sorted(repr(one.data.to_dictionary()) for one in found)
                assert len(found) == 2
                if way == "ours":
                    assert store.connection.has_known_tables
                    by_us = [run for page in tagged_runs(store.client, place, {}) for run in page]
                    assert sorted(repr(one.data.to_dictionary()) for one in by_us) == told[way]
        sqlite.tables_are_known.cache_clear()
    assert read["ours"] == read["client"] and "the experiment" in read["ours"]
    assert told["ours"] == told["client"]


def test_an_experiment_is_the_same_as_in_a_file(server, tiny):
    with open("pair.yaml", "w") as file:
        file.write(
            "name: pair\ndata: tiny\nvary: {activation: [tanh, relu]}\nseeds: 2\n"
            "recipe: {epochs: 2}\n"
        )
    in_file = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")
    there = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", tracking_uri=server)
    numbers = ["arm", "seed", "epoch", "train_error", "test_error", "train_loss", "test_loss"]
    assert there[numbers].equals(in_file[numbers])
    again = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", tracking_uri=server)
    assert again.equals(there)
    assert "pair/tiny" in Store(server).experiment_names()


# ---- drivers on different machines

HOLD = """
import sys
from lecun_ablate.system.postgres_lock import exclusive_in_postgres
with exclusive_in_postgres(sys.argv[1], sys.argv[2], "it"):
    print("held", flush=True)
    sys.stdin.read()
"""
PAIR = "name: pair\ndata: tiny\nvary: {activation: [tanh, relu]}\nseeds: 1\nrecipe: {epochs: 1}\n"


def holder(url, name):
    words = [sys.executable, "-c", HOLD, url, name]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_a_second_driver_is_told_the_first_until_that_is_gone(server, tiny, command, how):
    with open("pair.yaml", "w") as file:
        file.write(PAIR)
    words = ("run", "pair.yaml", "--trainer", "torch", "--device", "cpu")
    first = holder(server, "run pair/tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        status, _, err = command(*words)
        assert status == 1 and "pair/tiny in postgresql" in err, err
        assert f"is in use by process {first.pid} on " in err and " since 2" in err and "UTC" in err
        first.kill() if how == "killed" else first.communicate("")
        first.wait()
        status, _, err = command(*words)
        assert status == 0, err


def test_other_experiments_are_not_locked(server):
    with exclusive_in_postgres(server, "a", "a"), exclusive_in_postgres(server, "b", "b"):
        refused = pytest.raises(LecunAblateError, match="a is in use by process")
        with refused, exclusive_in_postgres(server, "a", "a"):
            pass
    with exclusive_in_postgres(server, "a", "a"):
        pass


def test_a_study_is_driven_by_one_machine_at_a_time(one_postgres, monkeypatch):
    storage = one_postgres.replace("/mlflow", "/studies")
    monkeypatch.setattr(optuna_storage, "held", lambda *_: contextlib.nullcontext())
    first = holder(storage, "study rates/tiny")
    refused = pytest.raises(LecunAblateError, match=f"study rates/tiny is in use by .*{first.pid}")
    with refused, optuna_storage.driving(storage, "rates/tiny"):
        pass
    first.communicate("")
    with optuna_storage.driving(storage, "rates/tiny") as opened:
        assert opened.get_all_studies() == []


# ---- experiments and studies on one server


def test_a_study_and_its_experiment_on_one_server(server, tiny, command, monkeypatch):
    """scripts/postgres.sh makes two databases: MLflow and Optuna each keep an alembic_version."""
    storage = server.replace("/mlflow", "/studies")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with open("rates.yaml", "w") as file:
        file.write(
            "name: rates\ndata: tiny\nepochs: 1\narms: [{name: tanh}, {name: relu, activation: "
            "relu}]\nsearch: {lr: {low: 0.01, high: 0.1}}\ntrials: 2\nseeds: 1\n"
            "confirm: {trials: 1, seeds: 2}\n"
        )
    with open("tuned.yaml", "w") as file:
        file.write(PAIR.replace("name: pair", "name: tuned\ntuned: rates.yaml"))
    words = ("--trainer", "torch", "--device", "cpu", "--storage", storage)
    status, _, err = command("study", "rates.yaml", *words)
    assert status == 0, err
    status, _, err = command("run", "tuned.yaml", *words)
    assert status == 0, err
    tuned = lecun_ablate.load_results("tuned")
    assert set(tuned.arm) == {"tanh", "relu"}


def test_one_database_for_both_is_refused_with_a_reason(one_postgres, workplace):
    both = one_postgres.replace("/mlflow", "/studies")
    assert open_storage(both) is not None  # Optuna's tables
    with pytest.raises(LecunAblateError, match="database of another program, such as Optuna"):
        Store(both)
