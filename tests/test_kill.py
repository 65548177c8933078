"""kill -9 at any moment: the next start goes on, and ends with the same table bit for bit.

The moments are told by progress (what the store holds), not by the clock.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu import COMPILER, Cpu
from told import taken_back

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Run, State
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

ROOT = Path(__file__).resolve().parent.parent
SEEDS = 10
RUNS = 5 * SEEDS
COMMAND = [
    sys.executable, "-m", "lecun_ablate", "run", str(ROOT / "experiments/activation.yaml"),
    "--data", "digits", "--seeds", str(SEEDS), "--epochs", "2",
    "--set", "recipe.optimizer=adamw", "--set", "recipe.lr=0.001", "--set", "recipe.average=0.9",
]  # fmt: skip
COUNT = (
    "SELECT COUNT(*) FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
    "WHERE tags.key = 'lecun_ablate.level' AND tags.value = 'run' AND runs.status = 'FINISHED'"
)


def start(folder: Path) -> subprocess.Popen:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("LECUN_ABLATE_DATA", "MLFLOW_TRACKING_URI")
    }
    return subprocess.Popen(
        COMMAND,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished_runs(folder: Path) -> int:
    """Count the seed runs that the store holds as finished; -1 while there is no store."""
    database = folder / "mlflow.db"
    if not database.exists():
        return -1
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(COUNT).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def kill_at(folder: Path, reached, how=signal.SIGKILL) -> int:
    """Start the command, kill it once reached(folder), and return its exit status."""
    process = start(folder)
    while not reached(folder):
        assert process.poll() is None, f"ended before the moment:\n{process.communicate()[0]}"
        time.sleep(0.005)
    process.send_signal(how)
    process.communicate()
    return process.returncode


def being_created(folder: Path) -> bool:
    return (folder / ".lecun_ablate.lock").exists()


def after(runs: int):
    return lambda folder: finished_runs(folder) >= runs


def finish(folder: Path, monkeypatch):
    """Run to the end and return the results, checked for doubles and leftovers."""
    process = start(folder)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow_view import View

    import lecun_ablate

    store = View()
    experiment_id = store.experiment("activation/digits").experiment_id
    seeds = store.search(experiment_id, lecun_ablate__level="run")
    keys = [run.data.tags["lecun_ablate.run_key"] for run in seeds]
    assert len(keys) == len(set(keys)) == RUNS, "a run was lost or trained twice"
    assert {run.info.status for run in seeds} == {"FINISHED"}
    running = store.client.search_runs([experiment_id], "status = 'RUNNING'", run_view_type=3)
    assert not running
    alive = {run.info.run_id: run for run in store.search(experiment_id)}
    for run in alive.values():
        if run.data.tags["lecun_ablate.level"] != "experiment":
            assert run.data.tags["mlflow.parentRunId"] in alive, "its parent is deleted or missing"
    assert len(store.search(experiment_id, lecun_ablate__level="arm")) == 5
    assert len(store.search(experiment_id, lecun_ablate__level="experiment")) == 1
    frame = lecun_ablate.load_results("activation")
    return frame.drop(columns=["epoch_seconds", "run_id"]), output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return finish(tmp_path_factory.mktemp("undisturbed"), monkeypatch)[0]


def test_kills_at_every_stage(tmp_path, monkeypatch, undisturbed):
    """While the store is being created, before any run has finished, and after several."""
    assert kill_at(tmp_path, being_created) == -signal.SIGKILL
    assert finished_runs(tmp_path) < 1
    assert kill_at(tmp_path, after(0)) == -signal.SIGKILL
    assert kill_at(tmp_path, after(1)) == -signal.SIGKILL
    done = finished_runs(tmp_path)
    assert 1 <= done < RUNS
    assert kill_at(tmp_path, after(done + 7)) == -signal.SIGKILL
    done = finished_runs(tmp_path)
    assert done < RUNS
    frame, output = finish(tmp_path, monkeypatch)
    done += taken_back(output)
    assert f"{RUNS} runs, {done} done before, {RUNS - done} to train" in output
    assert frame.equals(undisturbed)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_cleanly(tmp_path, monkeypatch, undisturbed, empty_store, how):
    import shutil

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    assert kill_at(tmp_path, after(2), how) == 130
    done = finished_runs(tmp_path)
    assert 2 <= done < RUNS
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        statuses = dict(connection.execute("SELECT status, COUNT(*) FROM runs GROUP BY status"))
    assert statuses == {"FINISHED": done, "KILLED": 6}  # the experiment and its five arms
    if how == signal.SIGTERM:
        return
    frame, _ = finish(tmp_path, monkeypatch)
    assert frame.equals(undisturbed)


@pytest.mark.slow
def test_ten_kills(tmp_path, monkeypatch, undisturbed):
    moments = [being_created, after(0), after(0)]
    moments += [after(n) for n in (1, 4, 9, 15, 22, 30, 38)]
    for moment in moments:
        assert kill_at(tmp_path, moment) == -signal.SIGKILL
    frame, _ = finish(tmp_path, monkeypatch)
    assert frame.equals(undisturbed)


# ---- what an optimizer keeps ---------------------------------------------------------------------

EPOCHS = 400  # far more than are trained before the kill
KEPT = {
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "dropout": 0.25, "augmentation": "shift",
              "schedule": "cosine", "average": 0.99, "order": "shuffled"},
    "sdlm": {"optimizer": "sdlm(estimate=running, patterns=20)", "lr": 1e-3, "momentum": 0.5,
             "batch_size": 4},
}  # fmt: skip
MAKE = {"torch": TorchTrainer}
if not native.availability():
    MAKE["native"] = NativeTrainer
if COMPILER:
    MAKE["cuda"] = lambda: CudaTrainer(Cpu())


def reports(trainer: str, method: str, state: State | None = None, until: int | None = None):
    """Yield the reports of a run on a few random images."""
    rng = np.random.default_rng(0)
    fit = Split(rng.uniform(-1, 1, (30, 16, 16)), rng.integers(0, 10, 30))
    run = Run(Recipe(epochs=EPOCHS, **KEPT[method]), 7, state, until)
    yield from MAKE[trainer]().train([run], fit, {"fit": fit})


def train_and_save(trainer: str, method: str, folder: str) -> None:
    """Train, and write the state after every epoch: what the process below does until killed."""
    for report in reports(trainer, method):
        part = Path(folder, "part.npz")
        np.savez(part, epoch=report.epoch, **{
            f"{kind}:{name}": values
            for kind in ("parameters", "optimizer")
            for name, values in getattr(report.state, kind).items()
        })  # fmt: skip
        part.replace(Path(folder, "state.npz"))


def saved_state(path: Path) -> State:
    with np.load(path) as file:
        kinds = {
            kind: {n.partition(":")[2]: file[n] for n in file.files if n.startswith(f"{kind}:")}
            for kind in ("parameters", "optimizer")
        }
        return State(int(file["epoch"]), **kinds)


def exact(report) -> list:
    tensors = report.state.parameters | report.state.optimizer
    kept = sorted((name, value.tobytes()) for name, value in tensors.items())
    return [report.epoch, repr(report.scores["fit"].loss), kept]


@pytest.mark.parametrize("method", KEPT)
@pytest.mark.parametrize(
    "trainer",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "cuda")) for name in MAKE],
)
def test_moments_averages_and_curvature_survive_a_kill(tmp_path, trainer, method):
    call = f"import test_kill; test_kill.train_and_save({trainer!r}, {method!r}, {str(tmp_path)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", call],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        stderr=subprocess.PIPE,
        text=True,
    )
    saved = tmp_path / "state.npz"
    while not saved.exists() or saved_state(saved).epoch < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    state = saved_state(saved)
    assert 3 <= state.epoch < EPOCHS
    slots = {name.partition("/")[0] for name in state.optimizer}
    expected = {"mean", "square", "average", "beta1_power", "beta2_power"}
    assert slots == (expected if method == "adamw" else {"velocity", "curvature"})
    until = state.epoch + 3
    undisturbed = [exact(report) for report in reports(trainer, method, until=until)]
    went_on = [exact(report) for report in reports(trainer, method, state, until)]
    assert went_on == undisturbed[state.epoch :]
