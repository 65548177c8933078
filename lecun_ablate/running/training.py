"""Train the missing runs of a plan, and write every run as soon as it ends."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.epoch import augmented, learning_rates
from lecun_ablate.network.reference import Network
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import Results, RunStatus
from lecun_ablate.running import contract
from lecun_ablate.running.progress import Progress, Work
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.tracking.names import ANSWERS, MODULES, WEIGHTS
from lecun_ablate.tracking.plan_run import PlanRun
from lecun_ablate.trainers.base import EpochReport, Run, Spread, Trainer
from lecun_ablate.trainers.choice import Chosen, choose, spread_out


@dataclass(frozen=True)
class Prepared:
    """A plan with the data and the trainers that it needs."""

    plan: Plan
    digits: Digits
    trainers: dict[str, Trainer]  # by arm
    notices: list[str]
    only: tuple[str, ...] = ()  # arms to train now; (): all

    def trained_by(self, spread: Spread) -> Prepared:
        """Return the same with its trainers spread."""
        recipes = {arm.name: arm.recipes for arm in self.plan.experiment.possible_arms}
        return replace(self, trainers=spread_out(self.trainers, recipes, spread))

    def groups(
        self, todo: Sequence[tuple[str, int]]
    ) -> Iterator[tuple[Trainer, Digits, list[tuple[int, str, int]]]]:
        """Yield every trainer with a split and the runs that it trains on it.

        Runs are given as (index in `todo`, arm, seed). Runs whose seed draws the split are trained
        seed by seed, because a trainer takes one split at a time.
        """
        arms = {arm.name: arm for arm in self.plan.experiment.possible_arms}
        known = [run for run in todo if not arms[run[0]].resampled]
        place = {run: k for k, run in enumerate(todo)}
        by_seed: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for arm, seed in todo:
            if arms[arm].resampled:
                by_seed[seed].append((arm, seed))
        parts: list[tuple[int | None, list[tuple[str, int]]]] = [(None, known), *by_seed.items()]
        for drawn_by, runs in parts:
            digits = self.digits if drawn_by is None else self.digits.resampled(drawn_by)
            for trainer, members in by_trainer(self.trainers, runs):
                yield trainer, digits, [(place[arm, seed], arm, seed) for _, arm, seed in members]


@dataclass(frozen=True)
class LoggedRun:
    """A run that has just been written to the store."""

    arm: str
    seed: int
    run_id: str
    status: RunStatus
    test_error: float


OnRun = Callable[[LoggedRun], None]


def prepare(
    experiment: Experiment, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> Prepared:
    """Choose the trainers of an experiment and build its plan.

    Raises ConfigError if one of the user's own components breaks its contract: each is tried on two
    patterns before anything is trained.
    """
    chosen, notices = _choose(experiment, trainer, device)
    for arm in experiment.arms:
        for recipe in arm.recipes:
            _try_components(arm.name, recipe, digits.train)
            contract.refuse_broken(arm.name, recipe, digits.train)
    plan = Plan.make(experiment, digits, {name: t.identity() for name, t in chosen.items()})
    if digits.notice:
        notices.insert(0, digits.notice)
    return Prepared(plan, digits, chosen, notices)


def _choose(experiment: Experiment, trainer: str, device: str) -> Chosen:
    """Return the trainer of each possible arm: one that supports all of its recipes."""
    recipes = {
        f"{arm.name}, search {k}" if k > 1 else arm.name: recipe
        for arm in experiment.possible_arms
        for k, recipe in enumerate(arm.recipes, 1)
    }
    chosen, notices = choose(recipes, trainer, device)
    trainers = {}
    for arm in experiment.possible_arms:
        own = [chosen[name] for name in recipes if name.split(", search ")[0] == arm.name]
        fits = [one for one in own if not any(map(one.unsupported, arm.recipes))]
        trainers[arm.name] = (fits or own)[0]
    return trainers, notices


def train(
    prepared: Prepared,
    plan_run: PlanRun,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> Results:
    """Train the missing runs of a plan, and return its results.

    `on_run` is called with every run as soon as it has been written; an interruption cannot come in
    between. It is not called for runs that are still to be sent to a tracking server.
    """
    plan = plan_run.plan
    todo = plan_run.pending(prepared.only)
    recipes = {(a.name, seed): a.recipe_for(seed) for a in plan.experiment.arms for _, seed in todo}
    done = len(plan.keys) - len(todo)
    what = f"{len(plan.keys)} runs, {done} done before, {len(todo)} to train"
    work = Work(what, [(arm, recipes[arm, seed].epochs) for arm, seed in todo], "test")
    if progress:
        progress.begin(work)
    try:
        for trainer, digits, members in prepared.groups(todo):
            splits = {"train": digits.train, "test": digits.test}
            runs = [Run(recipes[arm, seed], seed, arm=arm) for _, arm, seed in members]
            history: dict[int, list[dict[str, float]]] = defaultdict(list)
            for report in trainer.train(runs, digits.train, splits):
                index, arm, seed = members[report.index]
                history[index].append(metrics(report))
                with held_back() if report.last else nullcontext():
                    if report.last:
                        status = run_status(report, digits.train)
                        files = _run_files(report, digits.test, recipes[arm, seed])
                        run_id = plan_run.log(
                            arm, seed, history.pop(index), status, files, report.environment
                        )
                        if on_run and run_id:
                            error = report.scores["test"].error
                            on_run(LoggedRun(arm, seed, run_id, status, error))
                    if progress:
                        progress.epoch(index, report)
    finally:
        if progress:
            progress.end()
    return plan_run.results()


def by_trainer(
    trainers: Mapping[str, Trainer], todo: Sequence[tuple[str, int]]
) -> Iterator[tuple[Trainer, list[tuple[int, str, int]]]]:
    """Yield every trainer with its runs: (index in `todo`, arm, seed)."""
    members: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for index, (arm, seed) in enumerate(todo):
        members[id(trainers[arm])].append((index, arm, seed))
    for runs in members.values():
        yield trainers[runs[0][1]], runs


def metrics(report: EpochReport) -> dict[str, float]:
    """Return the EPOCH_METRICS of a report."""
    values: dict[str, float] = {"epoch_seconds": report.seconds}
    for split, scores in report.scores.items():
        values |= {
            f"{split}_loss": scores.loss,
            f"{split}_error": scores.error,
            f"{split}_misses": scores.misses,
        }
    return values


def run_status(report: EpochReport, train: Split) -> RunStatus:
    """Return how a run ended, from its last report."""
    if report.diverged:
        return RunStatus.DIVERGED
    collapsed = report.scores["train"].error >= train.guessing
    return RunStatus.COLLAPSED if collapsed else RunStatus.FINISHED


def _run_files(report: EpochReport, test: Split, recipe: Recipe) -> dict[str, bytes | str | Path]:
    """Return the files of a run: its weights, its answers, and its own components."""
    weights = io.BytesIO()
    np.savez(weights, **report.state.scored)  # type: ignore[arg-type]
    answers = answers_file(test.labels.astype(np.uint8), report.scores["test"].predictions)
    return {WEIGHTS: weights.getvalue(), ANSWERS: answers, **_component_files(recipe)}


def answers_file(labels: np.ndarray, predictions: np.ndarray) -> bytes:
    """Return a run's answers as they are stored; both arguments are (images,) uint8."""
    answers = io.BytesIO()
    # five times as fast as pandas; checksums reveal damage
    columns = {"label": labels, "prediction": predictions}
    parquet.write_table(pa.table(columns), answers, write_page_checksum=True)
    return answers.getvalue()


def _component_files(recipe: Recipe) -> dict[str, bytes]:
    """Return the files of the user's own components, as they were when loaded."""
    files: dict[str, bytes] = {}
    for component in recipe.user_components:
        if component.file and component.source is not None:
            name = component.file.name
            if files.get(f"components/{name}", component.source) != component.source:
                digest = component.digest or ""  # for two files with the same name
                name = f"{component.file.stem}_{digest[:8]}.py"
            files[f"components/{name}"] = component.source
            modules = component.modules.items()
            files |= {f"{MODULES}/{path}": content for path, content in modules}
    return files


def _try_components(arm: str, recipe: Recipe, split: Split) -> None:
    """Take one step of the reference network if an arm uses components of the user's own."""
    own = recipe.user_components
    if not own:
        return
    names = ", ".join(f"{c.kind} {c.name!r}" for c in own)
    labels = torch.tensor(split.labels[:2])
    try:
        _try_activations(recipe)
        network = Network(recipe, seed=0)
        images = torch.tensor(split.images[:2], dtype=getattr(torch, recipe.dtype))
        learning_rates(recipe, 1, 1)
        losses = network.training_loss(augmented(recipe, 0, 1, images), labels)
        if tuple(losses.shape) != (2,):
            loss, got = recipe.component("loss"), tuple(losses.shape)
            raise ConfigError(
                f"{loss.origin}: loss {loss.name!r} of 2 patterns: expected shape (2,), got {got}"
            )
        losses.sum().backward()
    except ConfigError as error:
        raise ConfigError([f"arm {arm!r}: {problem}" for problem in error.problems]) from error
    except Exception as error:
        words = f"{contract.place(error, own)}: {type(error).__name__}: {error}"
        raise ConfigError(f"arm {arm!r}: {names}: {words}") from error


def _try_activations(recipe: Recipe) -> None:
    """Raise ConfigError if an activation does not return a tensor of its argument's shape."""
    sums = torch.linspace(-1, 1, 24, dtype=getattr(torch, recipe.dtype)).view(2, 3, 4)
    for field in ("activation", "output_activation"):
        component = recipe.component(field)
        values = component(sums.clone())
        if not isinstance(values, torch.Tensor) or values.shape != sums.shape:
            got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ConfigError(
                f"{component.origin}: activation {component.name!r}: expected a tensor of its "
                f"argument's shape, here {tuple(sums.shape)}, got {got}"
            )
