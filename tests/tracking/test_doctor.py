"""The check of a whole store: every kind of damage is found and named, repairs lose nothing."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_view import View

import lecun_ablate

pytestmark = pytest.mark.usefixtures("plain_reports")
YAML = """
name: pair
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 2
"""


@pytest.fixture
def done(finish):
    return finish(YAML)


def artifacts(run_id):
    (folder,) = Path("mlruns").glob(f"*/{run_id}/artifacts")
    return folder


def level(name):
    view = View()
    return view.search(view.experiment("pair/tiny").experiment_id, lecun_ablate__level=name)


def damaged(run_id):
    (artifacts(run_id) / "weights.npz").write_bytes(b"")


def flipped(run_id):
    file = artifacts(run_id) / "test_predictions.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)


def metric(run_id):
    View().client.log_metric(run_id, "test_loss", 0.0, step=1)


def tag(run_id):
    View().client.delete_tag(run_id, "lecun_ablate.run_key")


def plan(run_id):
    (artifacts(level("experiment")[0].info.run_id) / "plan.json").write_text("{")


def orphan(run_id):
    View().client.delete_run(level("experiment")[0].info.run_id)


def unknown(run_id):
    shutil.copytree(artifacts(run_id).parent, artifacts(run_id).parents[1] / ("0" * 32))


def running(run_id):
    View().client.update_run(level("arm")[0].info.run_id, status="RUNNING")


def doubled(run_id):
    new = View().client.create_run(View().client.get_run(run_id).info.experiment_id)
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        for table in ("tags", "params", "metrics", "latest_metrics"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [new.info.run_id])
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            kept = [name for name in names if name != "run_uuid"]
            connection.execute(
                f"INSERT INTO {table} (run_uuid, {', '.join(kept)}) "
                f"SELECT ?, {', '.join(kept)} FROM {table} WHERE run_uuid = ?",
                [new.info.run_id, run_id],
            )
    shutil.copytree(artifacts(run_id), Path(new.info.artifact_uri))
    View().client.set_terminated(new.info.run_id, "FINISHED")


def unfinished(run_id):
    file = artifacts(run_id) / ".plan.json.0a.unfinished"
    file.write_bytes(b"half")
    os.utime(file, (time.time() - 7200,) * 2)


FOUND = {
    damaged: ("gone or damaged", False),
    flipped: ("is damaged", False),
    metric: ("has been logged again", False),
    tag: ("lecun_ablate.run_key has been deleted", False),
    plan: ("plan.json is damaged", False),
    orphan: ("stands under a run that was deleted", False),
    unknown: ("the store does not know", False),
    running: ("is marked RUNNING", True),
    doubled: ("stands 2 times with one key", True),
    unfinished: ("unfinished files", True),
}


def test_a_sound_store_has_nothing_wrong(done, command):
    status, out, err = command("doctor")
    assert status == 0 and "nothing is wrong" in out, out + err


@pytest.mark.parametrize("damage", FOUND, ids=lambda damage: damage.__name__)
def test_every_damage_is_found_and_repaired_if_that_is_safe(done, command, damage):
    said, repairable = FOUND[damage]
    damage(done.run_id.iloc[0])
    files = {path: path.read_bytes() for path in Path("mlruns").rglob("*") if path.is_file()}
    status, out, err = command("doctor")
    assert status == 1 and said in out, out + err
    assert files == {p: p.read_bytes() for p in Path("mlruns").rglob("*") if p.is_file()}
    assert ("doctor --repair" in out) == repairable
    status, out, err = command("doctor", "--repair")
    assert status == (0 if repairable else 1), out + err
    status, out, err = command("doctor")
    assert (said in out) != repairable
    status, _, err = command("run", "pair.yaml", "--trainer", "torch", "--device", "cpu")
    assert status == 0, err
    same = ["arm", "seed", "epoch", "test_loss", "test_misses"]
    assert lecun_ablate.load_results("pair")[same].equals(done[same])


def test_a_database_that_cannot_be_opened_is_named(done, command):
    database = Path("mlflow.db")
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    status, _, err = command("doctor")
    assert status == 1 and "is damaged" in err and ".recover" in err
    database.write_bytes(b"")
    assert "is empty" in command("doctor")[2]
    database.unlink()
    assert "no results here yet" in command("doctor")[2]
