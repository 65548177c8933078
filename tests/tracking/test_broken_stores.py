"""A store that cannot be opened or written: the message says why, and never advises harm."""

import errno
import itertools
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from mlflow_view import View
from sqlalchemy.exc import OperationalError, PendingRollbackError

import lecun_ablate
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.tracking import connection, health
from lecun_ablate.tracking.explain import reason, way_out
from lecun_ablate.tracking.health import refuse_damaged
from lecun_ablate.tracking.sqlite import close
from lecun_ablate.tracking.writer import Writer

pytestmark = pytest.mark.usefixtures("plain_reports")
YAML = """
name: pair
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 1
"""
RUN = ("run", "pair.yaml", "--trainer", "torch", "--device", "cpu")


@pytest.fixture
def done(finish):
    return finish(YAML)


def empty(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[: 4096 * 20])


def flip(file):
    content = bytearray(file.read_bytes())
    for page in range(1, len(content) // 4096):
        content[4096 * page : 4096 * page + 64] = os.urandom(64)
    file.write_bytes(content)


def text(file):
    file.write_text("<html>Sign in</html>" * 1000)


def half_made(file):
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE experiments (x)")


def no_tables(file):
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (empty, "is empty"),
        (cut, "is damaged"),
        (flip, "is damaged"),
        (text, "is no database"),
        (half_made, "is no MLflow store: it lacks the tables"),
        (no_tables, "is no MLflow store: it holds no tables"),
    ],
)
def test_a_damaged_database_is_said_to_be_and_left_as_it_is(done, command, damage, words):
    database = Path("mlflow.db")
    damage(database)
    before = database.read_bytes()
    for arguments in (RUN, ("show", "pair")):
        status, _, err = command(*arguments)
        assert status == 1, arguments
        if arguments == RUN or damage not in (cut, flip):  # reading may not meet the damage
            assert f"{database.resolve()}: {words}" in err
            assert "2 runs" in err, "what lies beside it is named"
        assert "move it away" not in err and "bug" not in err
    assert database.read_bytes() == before


def test_a_table_that_lacks_a_column_is_said_to(done, command):
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("ALTER TABLE runs RENAME COLUMN status TO state")
    for arguments in (("show", "pair"), ("list",)):
        status, _, err = command(*arguments)
        assert (
            status == 1 and f"{Path('mlflow.db').resolve()}: cannot be read: no such column" in err
        )


def lose_the_database(empty_store):
    close(View().client)  # or else this process goes on with the old file
    for file in Path().glob("mlflow.db*"):
        file.unlink()
    shutil.copy(empty_store, "mlflow.db")


def test_runs_whose_database_is_lost_are_taken_back_from_their_files(done, command, empty_store):
    before = lecun_ablate.load_results("pair")
    lose_the_database(empty_store)
    status, _, err = command(*RUN)
    assert status == 0, err
    assert "2 finished runs that the store had lost are taken back from" in err
    assert "2 done before, 0 to train" in err
    pd.testing.assert_frame_equal(lecun_ablate.load_results("pair"), before)  # run ids, too
    assert "taken back" not in command(*RUN)[2], "not once more"
    assert "nothing is wrong" in command("doctor")[1]
    run_id = before.run_id.iloc[0]
    view = View()
    run = view.client.get_run(run_id)
    parent = view.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["lecun_ablate.level"] == "arm"
    assert run.data.params["seed"] == str(before.seed.iloc[0])
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"
    assert "is reproduced, bit for bit" in command("reproduce", run_id)[1]


def test_a_database_of_another_project(done, command, empty_store):
    before = lecun_ablate.load_results("pair")
    lose_the_database(empty_store)
    Path("another.yaml").write_text(
        YAML.replace("pair", "another").replace("epochs: 1", "epochs: 2")
    )
    lecun_ablate.run("another.yaml", trainer="torch", device="cpu")
    status, _, err = command(*RUN)
    assert status == 0 and "2 done before, 0 to train" in err
    assert lecun_ablate.load_results("pair").test_error.equals(before.test_error)


def test_only_runs_that_are_whole_are_taken_back(done, command, empty_store):
    """What is damaged is named before anything is trained, and trained again."""
    before = lecun_ablate.load_results("pair")
    lose_the_database(empty_store)
    one, other = sorted(file.parent for file in Path("mlruns").rglob("run.json"))
    content = json.loads((one / "run.json").read_text())
    content["history"]["test_misses"][-1] += 1
    (one / "run.json").write_text(json.dumps(content))
    (other / "run.json").write_text("{}")
    status, _, err = command(*RUN)
    assert status == 0 and "taken back" not in err
    assert "has the files of 2 runs that the store does not know" in err
    assert err.index("does not know") < err.index("2 to train")
    assert "does not know" not in command(*RUN)[2], "not once more"
    columns = [c for c in before.columns if c not in ("run_id", "epoch_seconds")]
    found = lecun_ablate.load_results("pair")
    pd.testing.assert_frame_equal(found[columns], before[columns])


def test_what_was_written_is_in_the_file_itself(done):
    """Nothing keeps the database open: SQLite's log is gone, and the file alone is a whole copy."""
    assert not list(Path().glob("mlflow.db-*"))


def test_a_sound_store_passes(workplace):
    refuse_damaged(Path("mlflow.db"), thoroughly=True)


# ---- reasons


def chained(*errors):
    """Return the first error, raised from the second, and so on."""
    for above, below in itertools.pairwise(errors):
        above.__cause__ = below
    return errors[0]


AUTOFLUSH = "(raised as a result of Query-invoked autoflush; consider using no_autoflush) "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            chained(
                RuntimeError("invalid data in the commit"),
                OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked")),
            ),
            "database is locked",
        ),
        (
            OperationalError("x", {}, sqlite3.OperationalError("database or disk is full")),
            "database or disk is full",
        ),
        (PendingRollbackError(AUTOFLUSH + "the reason [SQL: SELECT 1]"), "the reason"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/plan.json"),
            "Read-only file system: /x/plan.json",
        ),
        (
            chained(
                Exception("at http://u:secret@h/"), Exception("no: http://u:secret@h/ refused")
            ),
            "no: http://u:***@h/ refused",
        ),
        (Exception("one\ntwo\nthree"), "one two three"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason_at_the_bottom_is_given(error, expected):
    assert reason(error) == expected


@pytest.mark.parametrize(
    "text",
    [
        "database or disk is full",
        "database is locked",
        "database disk image is malformed",
        "attempt to write a readonly database",
        "disk I/O error",
        "unable to open database file",
        "Too many open files",
        "anything else",
    ],
)
def test_no_advice_takes_results_out_of_sight(text):
    advice = way_out(text, server=False)
    assert "move" not in advice and "delete" not in advice and "remove" not in advice


def test_a_locked_store_is_said_to_be_locked(done, command, monkeypatch):
    monkeypatch.setattr("lecun_ablate.tracking.writer.refuse_damaged", lambda *_, **__: None)
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(health, "LOCK_SECONDS", 0.1)
        status, _, err = command(*RUN)
    assert status == 1
    assert "database is locked" in err and "another program is writing to it" in err


# ---- where it lies

NAMES = [
    "with space",
    "a%20b",
    "100%",
    "what?",
    "no#1",
    "ünï",
    "quote'd",
    'say "x"',
    "a&b=c",
    "[x]",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["default", "address"])
def test_folders_may_have_any_name(workplace, tiny, monkeypatch, command, name, how):
    folder = workplace / name
    folder.mkdir()
    (folder / "pair.yaml").write_text(YAML)
    shutil.copy(workplace / "mlflow.db", folder)
    monkeypatch.chdir(folder)
    if how == "address":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    frame = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")
    assert command("show", "pair")[0] == 0
    places = {path.name for path in workplace.iterdir()}
    assert places == {name, "mlflow.db", "experiments"}, "nothing went elsewhere"
    assert len(list(folder.glob("mlruns/*/*/artifacts/weights.npz"))) == 2
    client = View().client
    for run_id in frame.run_id.unique():  # as MLflow itself finds them
        listed = [entry.path for entry in client.list_artifacts(run_id)]
        assert "weights.npz" in listed
        assert Path(client.download_artifacts(run_id, "weights.npz")).is_file()


@pytest.mark.parametrize("log", [False, True])
def test_a_read_only_copy_can_be_shown(done, command, monkeypatch, log):
    folder = Path.cwd()
    if log:  # as a killed process leaves it: the last commits are in SQLite's log
        writer = sqlite3.connect("mlflow.db")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        with writer:
            writer.execute("UPDATE params SET value = '0' WHERE key = 'nothing'")
            renamed = "UPDATE experiment_tags SET value = 'renamed/tiny' WHERE value = 'pair/tiny'"
            assert writer.execute(renamed).rowcount == 1
        shutil.copytree(folder, folder / "copy", ignore=shutil.ignore_patterns("copy", "*-shm"))
        writer.close()
        monkeypatch.chdir(folder / "copy")
    for module in (connection, health):
        monkeypatch.setattr(module, "writable", lambda database: False)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    status, out, err = command("show", "renamed" if log else "pair")
    assert status == 0 and "relu" in out, err
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert after == before
    status, _, err = command(*RUN)
    assert status == 1 and "make the file and its folder writable" in err


def test_an_address_of_sqlites_own_kind(workplace):
    with Writer.opened(f"sqlite:///file:{workplace}/mlflow.db?uri=true") as writer:
        assert writer.connection.database == workplace / "mlflow.db"


def test_a_folder_in_the_databases_place(workplace):
    Path("mlflow.db").unlink()
    Path("mlflow.db").mkdir()
    with pytest.raises(LecunAblateError, match=r"mlflow\.db: cannot be read: Is a directory"):
        View()
