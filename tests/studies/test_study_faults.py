"""Studies whose stores are interrupted, lost, damaged or shared with others."""

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from mlflow_view import View
from optuna.trial import TrialState
from study_world import STUDY, drive

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.studies.optuna_storage import _create_database, driving, open_storage

pytestmark = pytest.mark.usefixtures("plain_reports")
SQLITE = "sqlite:///studies/optuna.db"
JOURNAL = "studies/optuna.journal"
SHORT = STUDY.replace("trials: 14", "trials: 3")


@pytest.fixture(scope="module")
def empty_optuna(tmp_path_factory):
    database = tmp_path_factory.mktemp("optuna") / "optuna.db"
    _create_database(database)
    return database


@pytest.fixture
def file(workplace, empty_optuna):
    """A study's file in a working directory with empty stores."""
    (workplace / "studies").mkdir()
    shutil.copy(empty_optuna, workplace / "studies/optuna.db")
    file = workplace / "studies/small.yaml"
    file.write_text(SHORT)
    return file


def told(records):
    return {
        arm: [
            (t.user_attrs["index"], t.params, t.value)
            for t in record.trials
            if t.state == TrialState.COMPLETE
        ]
        for arm, record in records.items()
    }


@pytest.fixture
def interrupting(monkeypatch):
    """Return what sends Ctrl-C during the n-th commit of any database from now on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    left = 0

    def commit(connection):
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", commit)

    def start(commits):
        nonlocal left
        left = commits

    yield start
    sqlalchemy.event.remove(sqlalchemy.Engine, "commit", commit)
    signal.signal(signal.SIGINT, before)


STEP = 41  # every commit takes minutes


@pytest.mark.parametrize(
    "first", [pytest.param(one, marks=[pytest.mark.slow] * (one > 0)) for one in range(STEP)]
)
def test_an_interruption_in_a_commit_leaves_nothing_running(file, interrupting, first):
    expected = told(drive(file, "studies/undisturbed.journal")[1])
    shutil.copy("mlflow.db", "finished.db")
    for commits in range(7 + first, 400, STEP):
        interrupting(commits)
        try:
            drive(file, SQLITE, fresh=True)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            interrupting(0)
        storage = open_storage(SQLITE)
        running = [
            trial
            for name in optuna.get_all_study_names(storage)
            for trial in optuna.load_study(study_name=name, storage=storage).trials
            if trial.state == TrialState.RUNNING
        ]
        assert not running
        view = View()
        for experiment in view.client.search_experiments():
            runs = view.search(experiment.experiment_id)
            assert "RUNNING" not in {run.info.status for run in runs}
        assert told(drive(file, SQLITE)[1]) == expected
    assert commits > 40, "no commit was interrupted"


def test_trials_that_mlflow_has_lost_are_written_again(file):
    result, _, _ = drive(file, SQLITE)
    view = View()
    runs = view.search(result.experiment_id, lecun_ablate__level="trial")
    names = sorted(run.data.tags["mlflow.runName"] for run in runs)
    scores = {run.data.tags["mlflow.runName"]: run.data.metrics["score"] for run in runs}
    for run in runs[:3]:
        view.client.delete_run(run.info.run_id)
    drive(file, SQLITE)
    again = view.search(result.experiment_id, lecun_ablate__level="trial")
    assert sorted(run.data.tags["mlflow.runName"] for run in again) == names
    for run in again:
        assert run.data.metrics["score"] == scores[run.data.tags["mlflow.runName"]]
    assert sum("trial.history" in run.data.tags for run in again) == 3
    drive(file, SQLITE)
    assert len(view.search(result.experiment_id, lecun_ablate__level="trial")) == len(names)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [*lines[:3], b"", *lines[3:]], 4),
        (lambda lines: [*lines[:2], lines[2] + lines[3], *lines[4:]], 3),
        (lambda lines: [b"<html>", *lines], 1),
        (lambda lines: [b"7", *lines], 1),
        (lambda lines: [lines[0], bytes(20), *lines[1:]], 2),
    ],
)
def test_a_damaged_journal_is_named_with_its_line(file, damage, line):
    drive(file, JOURNAL)
    journal = Path(JOURNAL)
    content = b"\n".join(damage(journal.read_bytes().split(b"\n")))
    journal.write_bytes(content)
    with pytest.raises(LecunAblateError, match=rf"optuna\.journal:{line}: expected a line of"):
        drive(file, JOURNAL)
    assert journal.read_bytes() == content


def test_studies_of_others_in_the_same_storage_are_left_alone(file):
    with driving(SQLITE, "theirs") as storage:
        theirs = optuna.create_study(study_name="small v2 on made_up", storage=storage)
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        theirs.ask()
        other = optuna.create_study(study_name="small v1 on elsewhere: tanh", storage=storage)
        other.ask()
    drive(file, SQLITE)
    drive(file, SQLITE)
    states = [trial.state.name for trial in theirs.trials]
    assert states == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert [trial.state.name for trial in other.trials] == ["RUNNING"]


def test_a_trial_of_others_in_a_study_of_ours_is_no_bug(file):
    drive(file, SQLITE)
    storage = open_storage(SQLITE)
    name = next(n for n in optuna.get_all_study_names(storage) if n.endswith(": tanh"))
    ours = optuna.load_study(study_name=name, storage=storage)
    ours.add_trial(optuna.trial.create_trial(value=0.0))
    ours.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    ours.ask()
    drive(file, SQLITE)
    assert ours.trials[-1].state == TrialState.RUNNING, "left as it is"


@pytest.mark.parametrize("lacking", ["mlflow_run_id", "validation_errors", "diverged"])
def test_a_trial_that_has_lost_an_attribute_is_named(file, lacking):
    drive(file, JOURNAL)
    journal = Path(JOURNAL)
    lines = journal.read_bytes().split(b"\n")
    (first, *_) = (k for k, line in enumerate(lines) if lacking.encode() in line)
    journal.write_bytes(b"\n".join(lines[:first] + lines[first + 1 :]))
    with pytest.raises(LecunAblateError, match=f"trial 0 of .*small v1.* lacks .* {lacking}"):
        drive(file, JOURNAL)


def test_a_storage_of_another_version_is_named(file):
    drive(file, SQLITE)
    with closing(sqlite3.connect("studies/optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
    with pytest.raises(LecunAblateError, match=r"sqlite:///studies/optuna\.db.*optuna version"):
        drive(file, SQLITE)


def test_a_damaged_storage_is_named(file):
    drive(file, SQLITE)
    database = Path("studies/optuna.db")
    database.write_bytes(database.read_bytes()[: 4096 * 5])
    with pytest.raises(LecunAblateError, match=r"sqlite:///studies/optuna\.db.*malformed"):
        drive(file, SQLITE)


def test_a_file_that_is_no_storage_is_left_as_it_is(file):
    Path("studies/optuna.db").write_text("<html>Sign in</html>" * 1000)
    with pytest.raises(LecunAblateError, match=r"optuna\.db.*file is not a database"):
        drive(file, SQLITE)
    assert Path("studies/optuna.db").read_text().startswith("<html>")
