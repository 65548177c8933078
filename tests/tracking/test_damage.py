"""What a power cut, a disk or another hand does to a store: nothing false is shown, nothing stays
locked, and what is lost is trained again with the same numbers."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_view import View

import lecun_ablate

pytestmark = pytest.mark.usefixtures("plain_reports")

YAML = """
name: pair
data: tiny
recipe: {epochs: 2}
vary: {activation: [tanh, relu]}
seeds: 2
"""
NUMBERS = ["arm", "seed", "epoch", "train_loss", "test_loss", "test_misses", "status"]
ANSWERS = "test_predictions.parquet"
RUN = ("run", "pair.yaml", "--trainer", "torch", "--device", "cpu")


@pytest.fixture
def done(finish):
    """The results of a finished experiment."""
    return finish(YAML)


def folder_of(run_id):
    return Path(View().client.get_run(run_id).info.artifact_uri)


def run_of(frame, arm="relu", seed=1):
    return frame[(frame.arm == arm) & (frame.seed == seed)].run_id.iloc[0]


def plan_file(frame):
    (file,) = (Path.cwd() / "mlruns").glob("*/*/artifacts/plan.json")
    return file


def empty(file):
    file.write_bytes(b"")


def zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    file.write_bytes(content)


def remove(file):
    file.unlink()


def other(file):
    file.write_bytes(b"<html>Sign in to the network</html>")


def folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = [empty, zeros, cut, flip, remove, other]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["weights.npz", pytest.param(ANSWERS, marks=pytest.mark.slow)])
def test_a_run_whose_files_are_damaged_is_trained_again(done, command, name, damage):
    run_id = run_of(done)
    damage(folder_of(run_id) / name)
    status, _, err = command(*RUN)
    assert status == 0, err
    assert "1 finished run cannot be used and will be trained again" in err and run_id in err
    again = lecun_ablate.load_results("pair")
    assert again[NUMBERS].equals(done[NUMBERS])
    assert set(done.run_id) - set(again.run_id) == {run_id}
    assert "cannot be used" not in command(*RUN)[2], "once is enough"


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in ("weights.npz", ANSWERS) for damage in (empty, cut, remove)]
    + [(ANSWERS, flip)],
)
def test_damaged_runs_are_left_out_of_what_is_shown_and_named(done, command, name, damage):
    run_id = run_of(done)
    damage(folder_of(run_id) / name)
    status, _, err = command("show", "pair")
    assert status == 0 and "Left out of these results" in err and run_id in err
    assert run_id not in set(lecun_ablate.load_results("pair").run_id)


def test_a_power_cut_that_emptied_everything(done, command):
    for file in Path("mlruns").rglob("*"):
        if file.is_file():
            empty(file)
    status, _, err = command("show", "pair")
    assert status == 1 and "plan.json is damaged" in err and "`run` the experiment again" in err
    status, _, err = command(*RUN)
    assert status == 0 and "4 finished runs cannot be used and will be trained again" in err
    again = lecun_ablate.load_results("pair")
    assert again[NUMBERS].equals(done[NUMBERS])


@pytest.mark.parametrize("damage", [*DAMAGES, lambda file: file.write_text("{}")])
def test_a_damaged_plan_is_named_and_written_again(done, command, damage):
    file = plan_file(done)
    whole = json.loads(file.read_text())
    damage(file)
    power = ("power", "pair", "--effect", "1")
    for arguments in (("show", "pair"), ("report", "pair", "--no-pictures"), power):
        status, _, err = command(*arguments)
        assert status == 1 and "plan.json" in err and "again" in err and "bug" not in err
    status, _, err = command(*RUN, "--seeds", "1")
    assert status == 0, err
    assert "1 more seed has been run before: all 2 are shown" in err
    assert json.loads(file.read_text())["keys"] == whole["keys"]
    assert lecun_ablate.load_results("pair").equals(done), "nothing was trained again"


def test_a_plan_is_never_half_written(done, monkeypatch, command):
    """A disk that fills up while the plan is written leaves the old one."""
    import errno
    import os

    file = plan_file(done)
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    status, _, err = command(*RUN)
    assert status == 1 and "plan.json" in err and "No space left" in err
    monkeypatch.undo()
    assert file.read_bytes() == before


# ---- what MLflow's pages let anybody change


TAGS = ["run_key", "status", "plan", "arm", "level", "environment"]


@pytest.mark.parametrize("tag", TAGS)
def test_a_deleted_tag(done, command, tag):
    run_id = run_of(done)
    View().client.delete_tag(run_id, f"lecun_ablate.{tag}")
    assert command("show", "pair")[0] == 0
    status, _, err = command(*RUN)
    assert status == 0, err
    named = tag not in ("level", "environment")  # without a level, it is not ours any more
    assert (run_id in err) == named
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


@pytest.mark.parametrize("tag", [*TAGS, "last_run", "seeds", "summary"])
@pytest.mark.parametrize(
    "value", ["x = {", *(pytest.param(other, marks=pytest.mark.slow) for other in ("", "nan"))]
)
def test_an_edited_tag(done, command, tag, value):
    client = View().client
    for run in View().search(client.get_run(run_of(done)).info.experiment_id):
        if f"lecun_ablate.{tag}" in run.data.tags and tag != "level":
            client.set_tag(run.info.run_id, f"lecun_ablate.{tag}", value)
    status, _, err = command("show", "pair")
    assert status in (0, 1) and "bug" not in err
    status, _, err = command(*RUN)
    assert status == 0, err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


def test_a_metric_that_was_logged_again(done, command):
    run_id = run_of(done)
    View().client.log_metric(run_id, "test_misses", 3, step=2)
    status, _, err = command("show", "pair")
    assert status == 0 and run_id in err and "test_misses has been logged again" in err
    status, _, err = command(*RUN)
    assert status == 0 and run_id in err and "trained again" in err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


MORE_CHANGES = [
    "DELETE FROM metrics WHERE run_uuid = ?",
    "DELETE FROM metrics WHERE run_uuid = ? AND key = 'epoch_seconds'",
    "UPDATE metrics SET value = value + 1 WHERE run_uuid = ? AND key = 'test_misses'",
    "UPDATE metrics SET value = value + 1 WHERE run_uuid = ? AND key = 'train_misses'",
    "UPDATE metrics SET value = value + 0.01 WHERE run_uuid = ? AND key = 'test_error'",
    "UPDATE metrics SET value = value + 0.01 WHERE run_uuid = ? AND key = 'train_error'",
    "UPDATE metrics SET value = 0 WHERE run_uuid = ? AND key = 'train_error' AND step = 1",
]


@pytest.mark.parametrize(
    "change",
    [
        *(pytest.param(change, marks=pytest.mark.slow) for change in MORE_CHANGES),
        "DELETE FROM metrics WHERE run_uuid = ? AND step = 1",
        "UPDATE metrics SET value = 0.5 WHERE run_uuid = ? AND key = 'test_misses'",
        # an error and its misses together: only the answers tell
        "UPDATE metrics SET value = value + CASE key WHEN 'test_misses' THEN 1 ELSE 0.05 END "
        "WHERE run_uuid = ? AND key IN ('test_misses', 'test_error')",
        "DELETE FROM params WHERE run_uuid = ?",
        "UPDATE params SET value = 'many' WHERE run_uuid = ? AND key = 'seed'",
    ],
)
def test_metrics_and_params_that_were_changed(done, command, change):
    run_id = run_of(done)
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute(change, [run_id])
    status, _, err = command("show", "pair")
    assert status in (0, 1) and run_id in err and "bug" not in err
    status, _, err = command(*RUN)
    assert status == 0 and run_id in err and "trained again" in err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


@pytest.mark.parametrize("levels", [("experiment",), ("arm",), ("experiment", "arm"), ("run",)])
def test_deleted_runs(done, command, levels):
    client = View().client
    experiment_id = client.get_run(run_of(done)).info.experiment_id
    for level in levels:
        for run in View().search(experiment_id, lecun_ablate__level=level):
            client.delete_run(run.info.run_id)
    status, _, err = command(*RUN)
    assert status == 0, err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])
    alive = {run.info.run_id: run for run in View().search(experiment_id)}
    assert len(alive) == 1 + 2 + 4
    for run in alive.values():
        parent = run.data.tags.get("mlflow.parentRunId")
        assert parent in alive or run.data.tags["lecun_ablate.level"] == "experiment"


def test_a_run_that_was_deleted_and_restored_stands_beside_its_successor(done, command):
    client, run_id = View().client, run_of(done)
    client.delete_run(run_id)
    assert command(*RUN)[0] == 0
    client.restore_run(run_id)
    frame = lecun_ablate.load_results("pair")
    assert frame[NUMBERS].equals(done[NUMBERS])
    assert command(*RUN)[0] == 0


@pytest.mark.parametrize("restored", [True, False])
def test_a_deleted_experiment(done, command, restored):
    client = View().client
    client.delete_experiment(client.get_run(run_of(done)).info.experiment_id)
    assert command("show", "pair")[0] == 1
    if restored:
        client.restore_experiment(client.get_run(run_of(done)).info.experiment_id)
    assert command(*RUN)[0] == 0
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


def test_names_copies_and_additions_of_others_change_nothing(done, command):
    client, run_id = View().client, run_of(done)
    run = client.get_run(run_id)
    client.rename_experiment(run.info.experiment_id, "my favourite")
    client.set_tag(run_id, "mlflow.runName", "=cmd|'x'!A1 [red]")
    client.set_tag(run_id, "mlflow.parentRunId", "nobody")
    client.log_metric(run_id, "my own", 7, step=1)
    client.log_param(run_id, "my own", "x" * 5000)
    copy = client.create_run(run.info.experiment_id, tags=dict(run.data.tags))
    for key, value in run.data.metrics.items():
        client.log_metric(copy.info.run_id, key, value, step=2)
    client.set_terminated(copy.info.run_id)
    assert command("show", "pair")[0] == 0
    status, _, err = command(*RUN)
    assert status == 0 and "4 done before, 0 to train" in err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


def test_metrics_that_cannot_be_and_runs_that_are_said_to_have_failed(done, command):
    client = View().client
    endless, beyond, failed = (run_of(done, *which) for which in (("relu", 0), ("tanh", 0), ()))
    client.log_metric(endless, "test_error", float("nan"), step=1)
    client.log_metric(beyond, "test_error", 0.5, step=99)
    client.set_terminated(failed, "FAILED")
    status, _, err = command("show", "pair")
    assert status == 0 and endless in err and beyond in err
    status, _, err = command(*RUN)
    assert status == 0 and "1 done before, 3 to train" in err
    assert client.get_run(failed).info.status == "FAILED"
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])


def test_files_that_were_moved_away(done, command):
    Path("mlruns").rename("elsewhere")
    status, _, err = command(*RUN)
    assert status == 0 and "4 finished runs cannot be used and will be trained again" in err
    assert lecun_ablate.load_results("pair")[NUMBERS].equals(done[NUMBERS])
