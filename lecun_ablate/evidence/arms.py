"""The table of arms: each arm's results after the last epoch, over its seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lecun_ablate.config.arms import Arm, Tuning
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import RunStatus


def arm_table(plan: Plan, final: pd.DataFrame) -> pd.DataFrame:
    """Return a row per arm from the last epoch of its runs; errors are fractions.

    Means, spread and extremes are over the runs that did not diverge, since a diverged run has no
    error after the last epoch. Diverged runs are counted in a separate column.
    """
    rows = [_row(plan, arm, final[final.arm == arm.name]) for arm in plan.experiment.arms]
    # nullable integers: an arm whose runs all diverged has no best seed
    return pd.DataFrame(rows).astype({"best_seed": "Int64", "worst_seed": "Int64"})


def _row(plan: Plan, arm: Arm, runs: pd.DataFrame) -> dict[str, Any]:
    ended = runs[runs.status != RunStatus.DIVERGED]
    error = ended.set_index("seed").test_error
    some = len(ended) > 0
    return {
        "arm": arm.name,
        "runs": len(runs),
        "test_error_mean": error.mean() if some else None,
        "test_error_sd": error.std() if len(ended) > 1 else None,
        "best_error": error.min() if some else None,
        "best_seed": int(error.idxmin()) if some else None,
        "worst_error": error.max() if some else None,
        "worst_seed": int(error.idxmax()) if some else None,
        "train_error_mean": ended.train_error.mean() if some else None,
        "diverged": int((runs.status == RunStatus.DIVERGED).sum()),
        "collapsed": int((runs.status == RunStatus.COLLAPSED).sum()),
        "failures": _failures(runs),
        "lr": arm.recipe.lr if len(arm.recipes) == 1 else None,
        "rate": arm.rate,
        "tuned_by": arm.tuning.study if arm.tuning else None,
        "trainer": plan.trainers[arm.name].name,
    }


def _failures(runs: pd.DataFrame) -> str | None:
    """Return how many runs diverged or collapsed, and the bounds of the failure rate, in words."""
    from lecun_ablate.statistics import failure_rate  # heavy

    if not len(runs):
        return None
    return failure_rate(int((runs.status != RunStatus.FINISHED).sum()), len(runs)).text


def tuning_line(plan: Plan) -> str:
    """Say with which values the arms were trained, and by which study and data they were tuned."""
    arms = plan.experiment.arms
    untuned = {arm.name: arm.recipe.lr for arm in arms if not arm.tuning}
    parts = []
    for arm in arms:
        if arm.tuning:
            values = ", ".join(f"{f} {_values(arm, f)}" for f in arm.tuning.values)
            parts.append(f"{arm.name} at {values}")
    if parts:
        on = sorted({_origin(arm.tuning) for arm in arms if arm.tuning})
        number = max(len(arm.drawn) for arm in arms)
        times = f"{number} searches of " if number > 1 else ""
        parts = [f"{', '.join(parts)}; tuned by {times}{' and '.join(on)}"]
    if len(untuned) == len(arms) and len(set(untuned.values())) == 1:
        parts.append(f"every arm at lr {next(iter(untuned.values())):g}, untuned")
    elif len(untuned) == len(arms) and all("lr" in arm.overrides for arm in arms):
        parts.append("every arm at its own lr, untuned")
    elif untuned:
        rates = ", ".join(f"{arm} at lr {lr:g}" for arm, lr in untuned.items())
        parts.append(f"{rates}; untuned")
    return "; ".join(parts)


def _origin(tuning: Tuning) -> str:
    version = f" (version {tuning.version})" if tuning.version > 1 else ""
    return (
        f"{tuning.study}{version}, {tuning.trials} trials x {tuning.seeds} seeds on images held "
        f"out of the training split of {tuning.data}"
    )


def _values(arm: Arm, field: str) -> str:
    """Return an arm's tuned value of a field; for several searches, the smallest and largest."""
    found = [one.tuning.values[field] for one in arm.drawn]
    if not found:
        assert arm.tuning
        found = [arm.tuning.values[field]]
    numeric = all(isinstance(value, int | float) for value in found)
    ends = (min(found), max(found)) if numeric else dict.fromkeys(found)
    texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in ends)
    return (" to " if numeric else ", ").join(dict.fromkeys(texts))
