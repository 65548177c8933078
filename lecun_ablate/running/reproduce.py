"""Repeating a run from what MLflow has, and comparing every metric with the first time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lecun_ablate import data as datasets
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data import Digits
from lecun_ablate.errors import ConfigError
from lecun_ablate.plan.keys import run_key
from lecun_ablate.plan.plan import RESAMPLED_SPLIT, SPLIT
from lecun_ablate.plan.results import EPOCH_METRICS
from lecun_ablate.running import stored_components
from lecun_ablate.running.training import metrics
from lecun_ablate.system.provenance import environment, git_commit
from lecun_ablate.tracking.records import SeedRun
from lecun_ablate.tracking.store import Store
from lecun_ablate.trainers.base import Identity, Run, Trainer
from lecun_ablate.trainers.choice import choose

COMPARED = tuple(name for name in EPOCH_METRICS if name != "epoch_seconds")
# Trainers and instruction sets round sums in different orders, and on-line training amplifies the #
# difference: after 23 epochs to 1e-6 in the loss of tanh, but a hundred thousand times more with #
# LiSHT and ReLU. These are the largest differences accepted as rounding, by dtype: of a loss, #
# relative; of an error (misses), as a fraction of the images. They are 1.5 times the largest that #
# benchmarks/reproduce_bounds.py found between native and torch, seed 0, in 23 epochs: in float32 on
# USPS 0.22 (ReLU) and 0.0204 (LiSHT); in float64 on the smaller digits 0.0029 and 0.005 (LiSHT).
BOUNDS = {"float32": (0.33, 0.03), "float64": (0.0045, 0.0075)}


@dataclass(frozen=True)
class Reproduction:
    """A run as it was trained the first time, and again now."""

    run: SeedRun
    exact: bool  # whether the two must agree bit for bit
    changes: list[str]  # how the environments differ
    table: pd.DataFrame  # epoch, metric, then, now, difference; a row per metric and epoch
    epochs: tuple[int, int]  # trained then, now
    bounds: tuple[float, float]  # (relative, of losses; absolute, of errors) unless exact
    images: dict[str, int]  # of each split, to convert misses into errors

    @property
    def failures(self) -> pd.DataFrame:
        """The rows that differ by more than allowed, or that only one of the two has."""
        then, now, metric = self.table.then, self.table.now, self.table.metric
        same = (then == now) | (then.isna() & now.isna())
        if self.exact:
            return self.table[~same]
        of_loss, of_error = self.bounds
        scale = pd.Series(1.0, self.table.index)
        for split, number in self.images.items():
            scale[metric == f"{split}_misses"] = number
        allowed = np.where(metric.str.endswith("_loss"), of_loss * then.abs(), of_error * scale)
        return self.table[~same & ~((then - now).abs() <= allowed)]  # NaN is never near

    @property
    def reproduced(self) -> bool:
        """Whether the run gave the same results as the first time."""
        return self.epochs[0] == self.epochs[1] and self.failures.empty


def reproduce(
    store: Store,
    run_id: str,
    data_dir: Path | None = None,
    trainer: str | None = None,
    trusted: bool = False,
) -> Reproduction:
    """Train a run again, with another `trainer` if one is named.

    Recipe, seed and the user's own components come from the store, the digits from their usual
    place. Nothing is written. Code from the store is run only if it is also in the working
    directory, or `trusted`. Raises DataError if the digits are not those of the run,
    LecunAblateError if the id is not that of a run.
    """
    run = store.seed_run(run_id)
    others = stored_components.load(store, run, trusted)
    recipe = stored_components.recipe_of(run)
    digits = datasets.load_exactly(run.params["data"], run.params["data_digest"], data_dir)
    data = {"digest": digits.digest, "split": run.params.get("split", SPLIT)}
    if data["split"] == RESAMPLED_SPLIT:
        digits = digits.resampled(run.seed)
    chosen = _trainer(run, recipe, trainer)
    now = _train(chosen, Run(recipe, run.seed), digits)
    then = store.histories([run_id])
    key = run_key(recipe, run.seed, data, chosen.identity())
    return Reproduction(
        run=run,
        exact=key == run.key,
        changes=others + _changes(run, chosen.identity()),
        table=_side_by_side(then, now),
        epochs=(int(then.epoch.max()), int(now.epoch.max())),
        bounds=BOUNDS[recipe.dtype],
        images={"train": len(digits.train), "test": len(digits.test)},
    )


def _trainer(run: SeedRun, recipe: Recipe, wanted: str | None) -> Trainer:
    """Return the requested trainer, otherwise that of the run, otherwise the fastest available."""
    one = {"run": recipe}
    if wanted:
        return choose(one, wanted)[0]["run"]
    try:
        return choose(one, run.params["trainer"], run.params["device"])[0]["run"]
    except ConfigError:  # not available here
        return choose(one)[0]["run"]


def _train(trainer: Trainer, run: Run, digits: Digits) -> pd.DataFrame:
    splits = {"train": digits.train, "test": digits.test}
    rows = [
        {"epoch": report.epoch, **metrics(report)}
        for report in trainer.train([run], digits.train, splits)
    ]
    return pd.DataFrame(rows)


def _side_by_side(then: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    long = [
        frame.reindex(columns=["epoch", *COMPARED]).melt("epoch", COMPARED, "metric", name)
        for frame, name in ((then, "then"), (now, "now"))
    ]
    table = pd.merge(*long, how="outer", on=["epoch", "metric"])
    table = table.astype({"then": float, "now": float})
    return table.assign(difference=table.now - table.then).sort_values(
        ["epoch", "metric"], ignore_index=True
    )


def _changes(run: SeedRun, identity: Identity) -> list[str]:
    """Return how the environment differs from the run's."""
    pairs: list[tuple[str, str | None, str | None]] = [
        (name, run.params.get(name), str(value)) for name, value in identity.params.items()
    ]
    pairs += [(name, value, environment().get(name)) for name, value in run.environment.items()]
    pairs.append(("git commit", run.commit, git_commit()))
    return [f"{name}: {old} then, {new} now" for name, old, new in pairs if old not in (None, new)]
