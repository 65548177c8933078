"""The MLflow store: what takes the place of MLflow's slow ways, where files lie, who may write."""

import itertools
import json
import math
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow_view import View

import lecun_ablate
from lecun_ablate.errors import LecunAblateError, NoStoreYet
from lecun_ablate.plan.results import EPOCH_METRICS
from lecun_ablate.system import provenance
from lecun_ablate.tracking import new_store, sqlite, writer
from lecun_ablate.tracking.ended_run import EndedRun
from lecun_ablate.tracking.sqlite import sql_store
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.tagged_runs import tagged_runs
from lecun_ablate.tracking.writer import Writer

pytestmark = pytest.mark.usefixtures("plain_reports")
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs", "input_tags")
ENDED = EndedRun(
    experiment_id="2",
    name="tanh seed 0",
    tags={"lecun_ablate.status": "finished"},
    values={"lr": 0.03, "activation": "tanh", "tuned_by": None},
    history={name: [7.0, 6.0, 5.0] for name in EPOCH_METRICS}  # those that `histories` returns
    | {"loss": [0.5, 0.25, 0.125], "test_loss": [math.nan, math.inf, -math.inf], "misses": [3]}
    | {"train_misses": [3, 2, 1], "train_error": [0.375, 0.25, 0.125]}  # of 8 images
    | {"test_misses": [1, 1, 0], "test_error": [0.25, 0.25, 0.0]},
    data=DatasetInput(Dataset("usps", "0123", "code", "{}"), [InputTag("use", "train/test")]),
    seconds=2.5,
)


@pytest.fixture
def store(workplace):
    with Writer.opened() as writer:
        yield writer


def rows(database):
    """Return MLflow's tables but for ids that are drawn at random, and the owners on servers."""
    with closing(sqlite3.connect(database)) as connection:
        found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    drawn = re.compile(r"\b[0-9a-f]{32}\b")
    found["tags"] = [row for row in found["tags"] if "lecun_ablate.owner" not in row]
    return {name: sorted(drawn.sub("id", repr(row)) for row in found[name]) for name in TABLES}


def read_back(store, run_id):
    """Return what a reader of the store is told of a run, but for ids that are drawn at random."""
    run = store.client.get_run(run_id)
    about = run.to_dictionary()
    about["info"] |= {"run_id": "id", "run_uuid": "id"}
    about["data"]["tags"].pop("lecun_ablate.owner", None)  # on servers
    about["info"]["artifact_uri"] = run.info.artifact_uri.replace(run_id, "id")
    points = {
        name: [
            (p.step, p.value, p.timestamp) for p in store.client.get_metric_history(run_id, name)
        ]
        for name in run.data.metrics
    }
    history = Store(store.connection.uri).histories([run_id]).drop(columns="run_id")
    return repr((about, points, history.to_dict()))


@pytest.mark.parametrize("runs", [1, 2])  # the second one finds its data set there
def test_a_run_is_written_as_mlflow_itself_would(workplace, monkeypatch, runs):
    """Directly; by MLflow's client, as to a server; by the client, since the schema is unknown."""
    written, read = {}, {}
    for way in ("server", "unknown", "ours"):
        (workplace / way).mkdir()
        shutil.copy("mlflow.db", workplace / way)
        with monkeypatch.context() as patch:
            if way == "unknown":
                patch.setattr(sqlite, "TESTED_REVISIONS", {})
            if way != "ours":
                patch.setattr(writer, "insert_run", None)
            with Writer.opened(f"sqlite:///{workplace}/{way}/mlflow.db") as store:
                assert store.ensure_experiment("any/tiny") == ENDED.experiment_id
                if way == "server":
                    store.connection.database = None
                for _ in range(runs):
                    run_id = store.write(ENDED, "run", {"notes.txt": "Zürich"})
                assert store.files.text(run_id, "notes.txt") == "Zürich"
                assert [f.path for f in store.client.list_artifacts(run_id)] == ["notes.txt"]
                read[way] = read_back(store, run_id).replace(f"/{way}/", "/way/")
        tables = json.dumps(rows(workplace / way / "mlflow.db"))
        written[way] = json.loads(tables.replace(f"/{way}/", "/way/"))
    assert written["ours"] == written["server"] == written["unknown"]
    assert read["ours"] == read["server"] == read["unknown"]
    points = sum(map(len, ENDED.history.values()))
    assert len(written["ours"]["metrics"]) == points * runs
    assert len(written["ours"]["datasets"]) == 1


def test_the_schema_of_the_mlflow_in_use_has_been_tested(store):
    """If this alone fails, MLflow has a new schema: add it to TESTED_REVISIONS."""
    assert sqlite.tables_are_known(store.client)


def test_an_unknown_schema_is_said_once(here, monkeypatch, caplog):
    """Runs are then written and read by MLflow's client, with the same results."""
    _, before = here
    monkeypatch.setattr(sqlite, "TESTED_REVISIONS", {})
    monkeypatch.setattr(writer, "insert_run", None)
    monkeypatch.setattr(Store, "_points_of_database", None)
    sqlite._warn_of_unknown_tables.cache_clear()
    more = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", seeds=2)
    said = [record.getMessage() for record in caplog.records if record.name == sqlite.__name__]
    assert len(said) == 1 and "schema revision" in said[0]
    both = more[more.run_id.isin(before.run_id)].reset_index(drop=True)
    assert both.equals(before) and more.run_id.nunique() == 4


def test_runs_are_found_by_tags_as_mlflow_itself_would_find_them(store):
    """With quotes in tags, NaN, a deleted run, another experiment, and more runs than a page."""
    place, other = store.ensure_experiment("any/tiny"), store.ensure_experiment("other/tiny")
    mark = 'it\'s 100% "one"'
    for number in range(5):
        tags = ENDED.tags | {"mark": mark if number % 2 else "plain", "empty": ""}
        run = replace(ENDED, name=f"run {number}", tags=tags, ended=ENDED.ended + 1000 * number)
        last = store.write(run, "run", {})
    store.write(replace(ENDED, experiment_id=other), "run", {})
    store.delete([last])
    client = store.client

    def told(runs):
        return [{"info": dict(run.info), "data": run.data.to_dictionary()} for run in runs]

    for tags, number in (({}, 4), ({"mark": "plain"}, 2), ({"mark": mark, "empty": ""}, 2)):
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        if mark in tags.values():  # MLflow's filters have no way to write it
            condition = "tags.mark LIKE 'it%'"
        theirs = client.search_runs([place], condition, order_by=["attributes.start_time DESC"])
        for page in (1, 3, 500):
            ours = told(itertools.chain.from_iterable(tagged_runs(client, place, tags, page=page)))
            assert len(ours) == number and repr(ours) == repr(told(theirs))
    assert not list(tagged_runs(client, place, {"mark": "gone"}))


def test_a_writer_waits_for_the_disk_at_checkpoints_only(store):
    with sql_store(store.client).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_artifacts_lie_where_mlflow_looks_for_them(store):
    experiment_id = store.ensure_experiment("any/tiny")
    run_id = store.client.create_run(experiment_id).info.run_id
    store.put(run_id, {"notes.txt": "Zürich", "parts/weights.npz": b"\x00\x01"})
    listed = [entry.path for entry in store.client.list_artifacts(run_id)]
    assert listed == ["notes.txt", "parts"]
    assert store.files.text(run_id, "notes.txt") == "Zürich"
    assert store.files.read(run_id, "parts/weights.npz") == b"\x00\x01"


# ---- new stores


def test_a_store_made_by_another_process_is_the_same(workplace, monkeypatch):
    database = workplace / "new/mlflow.db"
    database.parent.mkdir()
    monkeypatch.setattr(new_store, "usable_cores", lambda: 2)
    new_store.begin(f"sqlite:///{database}")
    monkeypatch.setattr(new_store, "make", None)  # this process makes none
    new_store.create(database)
    found = []
    for file in (database, workplace / "mlflow.db"):
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY 1, 2")
            version = connection.execute("SELECT version_num FROM alembic_version")
            places = connection.execute("SELECT name, artifact_location FROM experiments")
            found.append((names.fetchall(), version.fetchall(), places.fetchall()))
    ours, theirs = found
    assert ours[:2] == theirs[:2] and ("table", "latest_metrics") in ours[0]
    assert ours[2] == [("Default", f"{workplace}/new/mlruns/0")]


def test_a_store_is_made_here_where_the_other_process_fails(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"
    monkeypatch.setattr(new_store.sys, "executable", "false")
    monkeypatch.setattr(new_store, "usable_cores", lambda: 2)
    new_store.begin(f"sqlite:///{database}")
    monkeypatch.setattr(new_store, "make", lambda artifacts: str(artifacts).encode())
    new_store.create(database)
    assert database.read_bytes() == str(tmp_path / "mlruns").encode()
    assert not list(tmp_path.glob("*.creating"))


def test_no_store_is_made_where_there_is_one(workplace, monkeypatch):
    monkeypatch.setattr(new_store.subprocess, "Popen", None)
    monkeypatch.setattr(new_store, "usable_cores", lambda: 2)
    new_store.begin()
    with pytest.raises(TypeError):  # where there is none, one would be
        new_store.begin(f"sqlite:///{workplace}/other.db")


# ---- folders that move

YAML = """
name: pair
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 1
"""


@pytest.fixture
def here(workplace, tiny, monkeypatch):
    """A folder in which an experiment has been run, and the results."""
    folder = workplace / "here"
    folder.mkdir()
    shutil.copy(workplace / "mlflow.db", folder)
    (folder / "pair.yaml").write_text(YAML)
    monkeypatch.chdir(folder)
    return folder, lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")


def content(folder):
    return {path: path.read_bytes() for path in Path(folder, "mlruns").rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_folder_can_be_moved_and_copied(here, monkeypatch, command, how):
    old, before = here
    new = old.with_name("there")
    how(old, new)
    monkeypatch.chdir(new)
    left = content(old)
    shown = command("show", "pair")
    assert shown[0] == 0, shown[2]
    assert command("report", "pair", "--no-pictures")[0] == 0
    more = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", seeds=2)
    assert set(before.run_id) < set(more.run_id) and more.run_id.nunique() == 4
    assert content(old) == left, "the old place is left alone"
    assert old.exists() == (how is shutil.copytree)
    store = View()
    for run_id in more.run_id.unique():
        info = store.client.get_run(run_id).info
        assert Path(info.artifact_uri).is_relative_to(new), "where MLflow's UI looks"
        assert "weights.npz" in [entry.path for entry in store.client.list_artifacts(run_id)]


def test_a_database_copied_without_its_files_leaves_them_alone(here, monkeypatch):
    old, before = here
    new = old.with_name("there")
    new.mkdir()
    for name in ("mlflow.db", "pair.yaml"):
        shutil.copy(old / name, new)
    left = content(old)
    monkeypatch.chdir(new)
    for seeds in (2, 3):  # the second finds a folder of its own
        more = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu", seeds=seeds)
        assert set(before.run_id) < set(more.run_id), "trained once only"
        assert content(old) == left
    store = View()
    for run_id in set(more.run_id) - set(before.run_id):
        place = Path(store.client.get_run(run_id).info.artifact_uri)
        assert place.is_relative_to(new) and (place / "weights.npz").exists()
    assert all(len(store.files.predictions(run_id)) == 20 for run_id in more.run_id.unique())


def test_a_database_that_was_written_is_whole_by_itself(workplace):
    with Writer.opened() as writer:
        writer.ensure_experiment("any/tiny")
    shutil.copy("mlflow.db", "copy.db")  # without SQLite's log
    with closing(sqlite3.connect("copy.db")) as connection:
        assert ("any (tiny)",) in connection.execute("SELECT name FROM experiments").fetchall()


def test_a_store_that_cannot_be_written_to_the_end_is_no_bug(here, command):
    with closing(sqlite3.connect("mlflow.db")) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    status, _, err = command("run", "pair.yaml", "--seeds", "2", "--device", "cpu")
    assert status == 1 and "bug" not in err
    assert "mlflow.db: cannot be written: " in err and "database or disk is full" in err
    assert "free some space, then run the same command again: what had finished is kept" in err


def test_artifacts_lie_beside_a_database_that_is_elsewhere(workplace, tiny, monkeypatch):
    for name in ("store", "work"):
        (workplace / name).mkdir()
    (workplace / "mlflow.db").rename(workplace / "store/mlflow.db")
    (workplace / "work/pair.yaml").write_text(YAML)
    monkeypatch.chdir(workplace / "work")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/store/mlflow.db")
    frame = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")
    assert not Path("mlruns").exists()
    for run_id in frame.run_id.unique():
        place = Path(View().client.get_run(run_id).info.artifact_uri)  # where MLflow's UI looks
        assert place.is_relative_to(workplace / "store/mlruns") and (place / "weights.npz").exists()


# ---- who may write


def test_the_store_is_tried_by_writing_something_of_its_own(workplace):
    with Writer.opened() as writer:
        theirs = writer.client.create_experiment("theirs")
    with Writer.opened() as writer:
        assert writer.client.get_experiment(theirs).tags == {}
        assert writer.client.get_experiment("0").tags == {}
        names = {experiment.name for experiment in writer.client.search_experiments()}
        assert names == {"Default", "theirs"}
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET lifecycle_stage = 'deleted'")
    with Writer.opened() as writer:
        assert writer.store.experiment_names() == []


def test_a_store_that_cannot_be_written_is_said_before_training(workplace, tiny, command):
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON experiments "
            "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    (workplace / "pair.yaml").write_text(YAML)
    status, _, err = command("run", "pair.yaml", "--trainer", "torch")
    assert status == 1 and "to train" not in err
    assert "mlflow.db: cannot be written: " in err and "the disk is full" in err


def test_no_store_yet_is_told_from_a_broken_one(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    with pytest.raises(NoStoreYet, match=r"other.db: no results here yet"):
        View()
    Path("other.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(LecunAblateError, match=r"other.db: is no database") as caught:
        View()
    assert not isinstance(caught.value, NoStoreYet)


def test_the_hint_starts_the_ui_on_the_store_in_use(workplace, monkeypatch):
    assert View().connection.ui_command() == "mlflow ui"
    Path("mlflow.db").rename("other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    other = View().connection
    assert other.ui_command() == "mlflow ui --backend-store-uri sqlite:///other.db"
    assert other.link("7").startswith("http://127.0.0.1:5000/#/experiments/7")
    other.uri = "https://tracking.example"  # a server needs no starting
    assert other.ui_command() is None
    assert other.link("7").startswith("https://tracking.example/#/experiments/7")


# ---- the commit


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own in a repository; what is asked for the commit believes it is ours."""
    folder = tmp_path / "checkout" / "lecun_ablate"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    provenance.git_commit.cache_clear()
    yield folder
    provenance.git_commit.cache_clear()


def git(folder, *arguments):
    name = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package(package, tmp_path, monkeypatch):
    project = tmp_path / "project"  # a repository in which the package is used
    project.mkdir()
    for folder in (package.parent, project):
        git(folder, "init")
        git(folder, "commit", "--allow-empty", "-m", folder.name)
    monkeypatch.chdir(project)
    assert provenance.git_commit() is None, "the repository around the package does not track it"
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "the package")
    commit = git(package.parent, "rev-parse", "HEAD")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == commit
    (package.parent / "notes.txt").write_text("beside the package")
    (project / "dirty.txt").write_text("")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == commit
    (package / "new.py").write_text("")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == f"{commit}-dirty"


def test_without_a_repository_there_is_no_commit(package):
    assert provenance.git_commit() is None
