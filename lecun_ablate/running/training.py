"""From an experiment to its results: plan, resume, train, track, summarise."""

from __future__ import annotations

import io
import json
import shlex
import threading
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyarrow import parquet

from lecun_ablate.config.experiment import Arm, Experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.errors import ConfigError, LecunAblateError, NoStoreYet
from lecun_ablate.network.initial import connectivity
from lecun_ablate.network.reference import Network
from lecun_ablate.plan.plan import Plan
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.tracking.names import ANSWERS, EPOCH_METRICS, NOTE, WEIGHTS
from lecun_ablate.tracking.reader import Finished
from lecun_ablate.tracking.store import Store
from lecun_ablate.trainers import choice as trainers
from lecun_ablate.trainers.base import EpochReport, Run, Trainer

if TYPE_CHECKING:
    from lecun_ablate.evidence.weighing import Evidence

FINISHED, DIVERGED, COLLAPSED = "finished", "diverged", "collapsed"


@dataclass(frozen=True)
class Results:
    """A finished experiment: its plan, and a row per run and epoch.

    Columns of `frame`: arm, seed, epoch, the metrics of tracking.names.EPOCH_METRICS (errors as
    fractions, losses as means over the images), status ("finished", "diverged" or "collapsed")
    and run_id. `origins` has a row per run: run_id, the git commit or None, and the environment
    (provenance.environment) in which it was trained.
    """

    plan: Plan
    frame: pd.DataFrame
    origins: pd.DataFrame
    run_id: str  # of the experiment
    experiment_id: str

    @property
    def final(self) -> pd.DataFrame:
        """The rows after each run's last epoch, one per run."""
        return self.frame.groupby(["arm", "seed"], sort=False).tail(1)


class Progress(Protocol):
    """What wants to know how training goes."""

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        """Training starts with the given (arm, seed) runs to do."""

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        """One run has ended one epoch."""

    def end(self) -> None:
        """Training has ended, for whatever reason."""


@dataclass(frozen=True)
class Prepared:
    """A plan with the data and the trainers that it needs."""

    plan: Plan
    digits: Digits
    trainers: dict[str, Trainer]
    notices: list[str]


def prepare(
    experiment: Experiment, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> Prepared:
    """Choose the trainers of an experiment and make its plan.

    Raises ConfigError where a user's component does not keep its contract: that is tried on two
    patterns before anything is trained.
    """
    recipes = {arm.name: arm.recipe for arm in experiment.arms}
    chosen, notices = trainers.choose(recipes, trainer, device)
    for arm in experiment.arms:
        _try_components(arm, digits.train)
    plan = Plan.make(experiment, digits, {name: t.identity() for name, t in chosen.items()})
    if digits.notice:
        notices.insert(0, digits.notice)
    return Prepared(plan, digits, chosen, notices)


def pending(plan: Plan, finished: Container[str]) -> list[tuple[str, int]]:
    """Return the (arm, seed) runs still to do, seed by seed, so that arms stay paired."""
    return [run for run, key in plan.keys.items() if key not in finished]


def still_to_do(plan: Plan) -> list[tuple[str, int]]:
    """Return the (arm, seed) runs of a plan that the MLflow store does not have yet."""
    try:
        store = Store()
        found = store.experiment(plan.tracking_name)
        finished = store.finished(found.experiment_id) if found else {}
    except NoStoreYet:
        finished = {}
    return pending(plan, finished)


def estimate(prepared: Prepared, todo: Sequence[tuple[str, int]]) -> float:
    """Return about how many seconds the runs to do will take, from a trial on a few patterns."""
    splits = {"train": prepared.digits.train, "test": prepared.digits.test}
    total = 0.0
    for trainer, members in _by_trainer(prepared, todo):
        recipes = [_recipe(prepared.plan, arm) for arm, _ in members]
        per_epoch = seconds_per_epoch(trainer, recipes, prepared.digits.train, splits)
        total += per_epoch * sum(recipe.epochs for recipe in recipes)
    return total


def seconds_per_epoch(
    trainer: Trainer, recipes: Sequence[Recipe], fit: Split, evaluate: Mapping[str, Split]
) -> float:
    """Return about how many seconds each epoch of each of many runs takes, all cores at work.

    Some of the recipes are tried on 300 patterns, with one epoch and with three: the difference
    leaves out what is done but once.
    """
    part = min(1, 300 / len(fit))  # of every split
    few = {
        name: split.take(np.arange(round(part * len(split))))
        for name, split in [("fit", fit), *evaluate.items()]
    }
    fit = few.pop("fit")
    sample = recipes[:: -(-len(recipes) // 32)]

    def seconds(epochs: int) -> float:
        runs = [Run(recipe, seed, until=epochs) for seed, recipe in enumerate(sample)]
        began = time.perf_counter()
        for _ in trainer.train(runs, fit, few):
            pass
        return time.perf_counter() - began

    one, three = seconds(1), seconds(3)
    two = three - one if three > one else three  # a busy machine can turn it round
    return two / 2 / len(sample) / part


def execute(
    prepared: Prepared,
    store: Store,
    progress: Progress | None = None,
    notice: Callable[[str], None] = warnings.warn,
) -> Evidence:
    """Train what is missing of a plan, write it to the store, and return all that it shows.

    That includes the seeds with which the plan has been run before, if they are not among those
    that it is run with now. Where the experiment lets its seeds grow, they do so until its rule is
    met. `notice` is told what a user must know of both, and of runs that have lost their files.

    A run is written as soon as it has ended; an interruption loses no more than the runs in
    training. The experiment's run is left FINISHED, KILLED (interrupted) or FAILED.
    """
    experiment_id = store.ensure_experiment(prepared.plan.tracking_name)
    store.sweep(experiment_id)
    finished, lost = store.finished_and_lost(experiment_id)
    prepared = _with_earlier_seeds(prepared, store, experiment_id, finished, notice)
    plan = prepared.plan
    _delete_lost(plan, store, lost, notice)
    # what only results need takes seconds to import, most of them while the trainer is at work
    importing = threading.Thread(target=import_module, args=("lecun_ablate.report.page",))
    importing.start()
    status = "KILLED"
    begun: list[str] = []  # runs to end; held back: an interruption waits until they are known
    arms: dict[str, str] = {}
    try:
        with held_back():
            begun.append(run_id := store.begin(experiment_id, plan))
        for arm in plan.experiment.arms:
            with held_back():
                arms[arm.name] = store.begin_arm(experiment_id, run_id, plan, arm.name)
        results = _complete(prepared, store, experiment_id, run_id, arms, finished, progress)
        from lecun_ablate.evidence import weighing as evidence

        while more := evidence.seeds_to_add(results):
            # growing seeds start at 0
            prepared = _with_seeds(prepared, range(len(prepared.plan.experiment.seeds) + more))
            store.begin(experiment_id, prepared.plan)
            finished = store.finished(experiment_id)
            results = _complete(prepared, store, experiment_id, run_id, arms, finished, progress)
        shown = evidence.weigh(results, store)
        store.set_tags(run_id, {NOTE: evidence.answer(shown)})
        for name, table in results.frame.groupby("arm", sort=False):
            numbers, tags = evidence.arm_summary(shown, name)
            with held_back():
                arms[name] = store.summarise_arm(
                    experiment_id, run_id, prepared.plan, name, arms[name], table, numbers, tags
                )
        store.gather(experiment_id, prepared.plan, arms, results.final)
        for name, picture in _connectivity_pictures(plan.experiment).items():
            store.put(arms[name], {"connectivity.png": picture})
        status = "FINISHED"
        return shown
    except Exception:
        status = "FAILED"
        raise
    finally:
        store.end([*arms.values(), *begun], status)
        importing.join()


def _complete(
    prepared: Prepared,
    store: Store,
    experiment_id: str,
    run_id: str,
    arms: Mapping[str, str],
    finished: Mapping[str, Finished],
    progress: Progress | None,
) -> Results:
    """Train what is missing of a plan, and return its results."""
    todo = pending(prepared.plan, finished)
    if progress:
        progress.begin(prepared.plan, todo)
    try:
        for trainer, members in _by_trainer(prepared, todo):
            _train(prepared, trainer, members, store, experiment_id, arms, progress)
    finally:
        if progress:
            progress.end()
    return load(store, run_id)


def _with_earlier_seeds(
    prepared: Prepared,
    store: Store,
    experiment_id: str,
    finished: Mapping[str, Finished],
    notice: Callable[[str], None],
) -> Prepared:
    """Return the plan with those of its earlier seeds that all of its arms have finished."""
    experiment, run = prepared.plan.experiment, store.plan_run(experiment_id, prepared.plan.key)
    if run is None or experiment.until:  # a rule alone says how far seeds grow
        return prepared
    try:
        before = store.plan(run)
    except LecunAblateError:  # its file is gone, and will be written again
        return prepared
    earlier = [
        seed
        for seed in before.experiment.seeds
        if seed not in experiment.seeds
        and all(before.keys[arm.name, seed] in finished for arm in experiment.arms)
    ]
    if not earlier:
        return prepared
    seeds = sorted({*experiment.seeds, *earlier})
    notice(
        f"{len(earlier)} more seed{'s have' if len(earlier) > 1 else ' has'} been run before: all "
        f"{len(seeds)} are shown"
    )
    if experiment.command:
        experiment = replace(experiment, command=_with_seed_option(experiment.command, seeds))
        prepared = replace(prepared, plan=replace(prepared.plan, experiment=experiment))
    return _with_seeds(prepared, seeds)


def _with_seed_option(command: str, seeds: Sequence[int]) -> str:
    """Return a command line of `run` with these seeds instead of those that it names, if any."""
    words = shlex.split(command)
    if "--seeds" in words:
        at = words.index("--seeds")
        del words[at : at + 2]
    counted = list(seeds) == list(range(len(seeds)))
    return shlex.join(
        [*words, "--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds))]
    )


def _with_seeds(prepared: Prepared, seeds: Sequence[int]) -> Prepared:
    """Return the same plan for other seeds."""
    experiment = replace(prepared.plan.experiment, seeds=tuple(seeds))
    plan = Plan.make(experiment, prepared.digits, prepared.plan.trainers)
    return replace(prepared, plan=plan)


def _delete_lost(
    plan: Plan, store: Store, lost: Mapping[str, Finished], notice: Callable[[str], None]
) -> None:
    """Delete the plan's runs that have lost their files: they do not count, and must not twice."""
    gone = [lost[key] for key in plan.keys.values() if key in lost]
    if gone:
        notice(
            f"{len(gone)} finished run{'s have' if len(gone) > 1 else ' has'} lost the weights or "
            "the answers and will be trained again"
        )
    for run in gone:
        store.client.delete_run(run.run_id)


def load(store: Store, run_id: str) -> Results:
    """Return the results of an experiment's run: those of its runs that have finished."""
    run = store.client.get_run(run_id)
    plan = store.plan(run)
    experiment_id = run.info.experiment_id
    finished, lost = store.finished_and_lost(experiment_id)
    wanted = {which: finished[key] for which, key in plan.keys.items() if key in finished}
    if not wanted:
        gone = sum(key in lost for key in plan.keys.values())
        why = (
            f"the files of its {gone} finished runs are gone: run it again"
            if gone
            else ("no run has finished yet")
        )
        raise LecunAblateError(f"{plan.tracking_name}: {why}")
    about = pd.DataFrame(
        {"arm": arm, "seed": seed, "run_id": r.run_id, "status": r.status}
        for (arm, seed), r in wanted.items()
    )
    origins = pd.DataFrame(
        {
            "run_id": r.run_id,
            "commit": r.commit,
            "environment": json.loads(r.environment),
        }
        for r in wanted.values()
    )
    frame = about.merge(store.histories(list(about.run_id)), on="run_id")
    order = {arm.name: i for i, arm in enumerate(plan.experiment.arms)}
    frame = frame.sort_values(
        ["arm", "seed", "epoch"], key=lambda c: c.map(order) if c.name == "arm" else c
    )
    columns = ["arm", "seed", "epoch", *EPOCH_METRICS, "status", "run_id"]
    frame = frame[columns].reset_index(drop=True)
    return Results(plan, frame, origins, run_id, experiment_id)


def _by_trainer(
    prepared: Prepared, todo: Sequence[tuple[str, int]]
) -> list[tuple[Trainer, list[tuple[str, int]]]]:
    members: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for arm, seed in todo:
        members[id(prepared.trainers[arm])].append((arm, seed))
    by_id = {id(trainer): trainer for trainer in prepared.trainers.values()}
    return [(by_id[key], runs) for key, runs in members.items()]


def _recipe(plan: Plan, arm: str) -> Recipe:
    return plan.experiment.arm(arm).recipe


def _train(
    prepared: Prepared,
    trainer: Trainer,
    members: Sequence[tuple[str, int]],
    store: Store,
    experiment_id: str,
    arms: Mapping[str, str],
    progress: Progress | None,
) -> None:
    plan, digits = prepared.plan, prepared.digits
    runs = [Run(_recipe(plan, arm), seed) for arm, seed in members]
    histories: dict[int, list[dict[str, float]]] = defaultdict(list)
    reports = trainer.train(runs, digits.train, {"train": digits.train, "test": digits.test})
    for report in reports:
        with held_back():
            arm, seed = members[report.index]
            histories[report.index].append(metrics(report))
            if report.last:
                store.log_run(
                    experiment_id,
                    arms[arm],
                    plan,
                    arm,
                    seed,
                    histories.pop(report.index),
                    _status(report, digits.train),
                    _run_artifacts(report, digits.test, _recipe(plan, arm)),
                )
            if progress:
                progress.epoch(arm, seed, report)


def metrics(report: EpochReport) -> dict[str, float]:
    """Return the tracking.names.EPOCH_METRICS of a report."""
    values: dict[str, float] = {"epoch_seconds": report.seconds}
    for split, scores in report.scores.items():
        values |= {
            f"{split}_loss": scores.loss,
            f"{split}_error": scores.error,
            f"{split}_misses": scores.misses,
        }
    return values


def _status(report: EpochReport, train: Split) -> str:
    """Tell how a run ended; one has collapsed that has learnt nothing of the training split."""
    if report.diverged:
        return DIVERGED
    return COLLAPSED if report.scores["train"].error >= train.guessing else FINISHED


def _run_artifacts(
    report: EpochReport, test: Split, recipe: Recipe
) -> dict[str, bytes | str | Path]:
    weights = io.BytesIO()
    np.savez(weights, **report.state.parameters)
    answers = io.BytesIO()
    columns = {
        "label": test.labels.astype(np.uint8),
        "prediction": report.scores["test"].predictions,
    }
    parquet.write_table(pa.table(columns), answers)  # at a fifth of what pandas takes
    return {WEIGHTS: weights.getvalue(), ANSWERS: answers.getvalue(), **_component_files(recipe)}


def _component_files(recipe: Recipe) -> dict[str, bytes]:
    """Return the files of a recipe's own components, as they were when they were loaded."""
    files: dict[str, bytes] = {}
    for component in recipe.user_components:
        if component.file and component.source is not None:
            name = component.file.name
            if files.get(f"components/{name}", component.source) != component.source:
                name = f"{component.file.stem}_{component.digest[:8]}.py"  # two of one name
            files[f"components/{name}"] = component.source
    return files


def _connectivity_pictures(experiment: Experiment) -> dict[str, bytes]:
    """Return a picture (PNG) of what each arm's H2 planes see, with the first seed."""
    from lecun_ablate.report.figures import connectivity_matrix, png

    drawn: dict[bytes, bytes] = {}  # most arms share theirs
    pictures = {}
    for arm in experiment.arms:
        seen = connectivity(arm.recipe, experiment.seeds[0])
        key = arm.recipe.connectivity.encode() + seen.tobytes()
        if key not in drawn:
            drawn[key] = png(connectivity_matrix(seen, arm.recipe.connectivity))
        pictures[arm.name] = drawn[key]
    return pictures


def _try_components(arm: Arm, split: Split) -> None:
    """Take one step of the reference network where an arm uses components of the user's own."""
    own = arm.recipe.user_components
    if not own:
        return
    names = ", ".join(f"{c.kind} {c.name!r}" for c in own)
    labels = torch.tensor(split.labels[:2])
    try:
        network = Network(arm.recipe, seed=0)
        images = torch.tensor(split.images[:2], dtype=getattr(torch, arm.recipe.dtype))
        losses = network.loss(images, labels)
        if tuple(losses.shape) != (2,):
            raise ValueError(f"the loss of 2 patterns has shape {tuple(losses.shape)}, not (2,)")
        losses.sum().backward()
    except ConfigError as error:
        raise ConfigError([f"arm {arm.name!r}: {problem}" for problem in error.problems]) from error
    except Exception as error:
        raise ConfigError(
            f"arm {arm.name!r}: {names}: {_place(error, own)}{type(error).__name__}: {error}"
        ) from error


def _place(error: BaseException, components: Sequence[Any]) -> str:
    files = {str(c.file) for c in components if c.file}
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f"{lines[-1].filename}:{lines[-1].lineno}: " if lines else ""
