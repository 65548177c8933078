"""A world in which studies take no time: made-up digits, and a trainer that computes its errors."""

import os
import signal
from pathlib import Path

import numpy as np

from lecun_ablate.config.study import load_study
from lecun_ablate.data import Digits, Split
from lecun_ablate.studies.search import PreparedSearch, case_name, run
from lecun_ablate.trainers.base import EpochReport, Identity, Scores, State

BEST = {"tanh": 0.05, "relu": 0.01}  # where the errors below are smallest
DIVERGES = 0.25  # at this lr and above

STUDY = """
name: small
question: Which rate?
data: made_up
arms: [{activation: tanh}, {activation: relu}]
search: {lr: {low: 0.001, high: 0.3, log: true}}
trials: 14
batch: 4
seeds: 2
epochs: 9
sampler: {name: tpe, startup: 4}
confirm: {trials: 2, seeds: 3}
"""
PRUNED = STUDY + "pruner: {first: 1, factor: 3}\n"


def made_up_digits() -> Digits:
    def split(n: int, level: float) -> Split:
        images = np.random.default_rng(n).uniform(-1, 1, (n, 16, 16))
        images[:, 0, 0] = level  # so that a split can be told
        return Split(images, np.arange(n) % 10)

    return Digits("made_up", split(3000, 0.5), split(50, -0.5), "made up")


def error(activation: str, lr: float, seed: int, epoch: int) -> float:
    """Return a valley over log lr, with noise of the seed that also depends on lr a little."""
    noise = np.random.default_rng([seed, int(1e6 * lr)]).normal(0, 0.01)
    valley = 0.08 * np.log10(lr / BEST[activation]) ** 2
    return float(np.clip(0.05 + valley + 0.3 * 0.6**epoch + noise, 0, 0.85))


class MadeUpTrainer:
    """Reports `error` for every epoch; remembers what it was asked to train, and on what."""

    name = "made_up"
    device = "cpu"

    def __init__(self):
        self.calls: list[list] = []

    def identity(self):
        return Identity(self.name, "cpu", "none", 1)

    def unsupported(self, recipe):
        return None

    def train(self, runs, fit, evaluate, on_epoch=None):
        assert set(evaluate) == {"validation"}
        validation = evaluate["validation"]
        for split in (fit, validation):
            assert (split.images[:, 0, 0] == 0.5).all(), "an image of the test split"
        assert len(fit) + len(validation) == 3000
        self.calls.append(list(runs))
        for index, one in enumerate(runs):
            begin = 0
            if one.state is not None:
                begin = one.state.epoch
                lr, seed = one.state.parameters["made_up"]
                assert (lr, seed) == (one.recipe.lr, one.seed), "another run's state"
            for epoch in range(begin + 1, one.last_epoch + 1):
                diverged = one.recipe.lr >= DIVERGES and epoch >= 2
                missed = error(one.recipe.activation, one.recipe.lr, one.seed, epoch)
                n = len(validation)
                predictions = validation.labels.astype(np.uint8).copy()
                misses = round(missed * n)
                predictions[:misses] = (predictions[:misses] + 1) % 10
                loss = float("nan") if diverged else missed
                scores = {"validation": Scores(loss, misses, n, predictions)}
                state = State(epoch, {"made_up": np.array([one.recipe.lr, one.seed])})
                last = diverged or epoch == one.last_epoch
                yield EpochReport(index, epoch, scores, 0.0, diverged, last, state)
                if last:
                    break


def prepared(file: Path, digits: Digits | None = None, **options) -> PreparedSearch:
    """Return a study with the made-up digits and trainer."""
    from lecun_ablate.registry import registry

    digits = digits or made_up_digits()
    if digits.name not in registry.names("data"):
        registry.register("data", digits.name)(lambda: digits)
    study = load_study(file, **options)
    trainer = MadeUpTrainer()
    cases = {case_name(study, arm, study.own_values(arm)): trainer for arm in study.arms}
    return PreparedSearch(study, digits, *digits.holdout(), cases, [])


def drive(file: Path, storage: str, *, fresh: bool = False, **options):
    """Run a study on what is in the current folder; return (result, records, trainer)."""
    from lecun_ablate.studies.optuna_storage import driving
    from lecun_ablate.tracking.writer import Writer

    ready = prepared(file, **options)
    with driving(storage, ready.title) as optuna_storage, Writer.opened() as store:
        result, records = run(ready, optuna_storage, store, fresh)
    return result, records, next(iter(ready.trainers.values()))


def command_line(folder: str, arguments: list[str]) -> None:
    """Run the command line in a folder and exit with its status."""
    from lecun_ablate.cli import _main

    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    raise SystemExit(_main(arguments))


def drive_until_killed(folder: str, file: str, storage: str, writes: int) -> None:
    """Run a study in this process, which kills itself with SIGKILL after a number of writes.

    Every call that changes Optuna's storage or MLflow's counts, before and after it is done.
    """
    import mlflow
    import optuna

    os.chdir(folder)
    left = writes

    def counted(function):
        def call(*arguments, **named):
            tick()
            outcome = function(*arguments, **named)
            tick()
            return outcome

        def tick():
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    for owner, names in (
        (optuna.Study, ["add_trial", "tell", "set_user_attr"]),
        (optuna.trial.Trial, ["report", "set_user_attr"]),
        (mlflow.MlflowClient, ["create_run", "log_batch", "set_terminated"]),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))
    drive(Path(file), storage)
