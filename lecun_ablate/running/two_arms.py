"""Finding runs and arms by name, and comparing two arms over their seeds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from lecun_ablate import statistics
from lecun_ablate.errors import LecunAblateError, nearest
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import RunStatus
from lecun_ablate.statistics import PairResult, Runs
from lecun_ablate.tracking.store import Store


@dataclass(frozen=True)
class ArmComparison:
    """Two arms over the seeds that they share; differences are first minus second."""

    first: str
    second: str
    data: str
    seeds: list[int]
    result: PairResult

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values; errors are fractions of the images."""
        one = self.result.counted
        interval = one.interval
        return {
            "first": self.first,
            "second": self.second,
            "data": self.data,
            "seeds": self.seeds,
            "first_error": one.arm_mean,
            "second_error": one.arm_mean - one.difference,
            "difference": one.difference,
            "difference_low": interval.low if interval else None,
            "difference_high": interval.high if interval else None,
            "p": one.p,
            "verdict": self.result.verdict.kind,
            "verdict_text": self.result.verdict.text,
        }


def is_arm(name: str) -> bool:
    """Return whether a name is that of an arm, EXPERIMENT:ARM, and not of a run."""
    return name.count(":") == 1


def run_id(store: Store, name: str) -> str:
    """Return the id of a run, given by its id, the start of its id, or EXPERIMENT:ARM:SEED.

    Raises LecunAblateError with what exists instead.
    """
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return name
    if name.count(":") == 2:
        experiment, arm, seed = name.split(":")
        runs = _final(store, f"{experiment}:{arm}")
        hit = runs[runs.seed.astype(str) == seed]
        if hit.empty:
            have = ", ".join(map(str, sorted(runs.seed)))
            raise LecunAblateError(f"{name}: no such seed: the arm has {have}")
        return str(hit.run_id.iloc[0])
    if re.fullmatch(r"[0-9a-f]{4,31}", name):
        found = store.runs_beginning(name)
        if len(found) == 1:
            return found[0]
        number = "several runs" if found else "no run"
        raise LecunAblateError(f"{number} in {store.connection.where} begin with {name!r}")
    raise LecunAblateError(
        f"{name!r} is not a run: expected an id (or its first digits), or "
        "EXPERIMENT:ARM:SEED, such as activation:relu:0"
    )


def compare_arms(store: Store, first: str, second: str) -> ArmComparison:
    """Compare two arms, given as EXPERIMENT:ARM, over the seeds that both have.

    If several searches tuned one or both of them, the comparison is over the searches. Raises
    LecunAblateError if they share no seed, were tested on different digits, or were tuned by
    different numbers of searches.
    """
    (one, plan), (two, other) = (_runs(store, name) for name in (first, second))
    tested = [_tested_on(p, name) for p, name in ((plan, first), (other, second))]
    if tested[0] != tested[1]:
        raise LecunAblateError(
            f"the two arms were tested on different digits: {first} on {tested[0]}, "
            f"{second} on {tested[1]}"
        )
    searches = {len(p.experiment.arm(name.split(":")[1]).drawn)
                for p, name in ((plan, first), (other, second))} - {0}  # fmt: skip
    if len(searches) > 1:
        raise LecunAblateError(
            f"{first} and {second} were tuned by {min(searches)} and {max(searches)} searches: "
            "expected the same number, so that seeds pair up"
        )
    seeds = np.intersect1d(one.seeds, two.seeds)
    if not len(seeds):
        raise LecunAblateError(
            f"{first} and {second} have no seed in common: {_seeds(one)} and {_seeds(two)}"
        )
    both = {first: one, second: two}
    number = max(searches, default=0)
    of_seed = {int(seed): int(seed) % number for seed in seeds} if number else None
    (result,) = statistics.compare_all(both, [(first, second)], searches=of_seed).pairs
    return ArmComparison(first, second, plan.data, seeds.tolist(), result)


def _tested_on(plan: Plan, name: str) -> str:
    drawn = ", drawn by each seed" if plan.experiment.arm(name.split(":")[1]).resampled else ""
    return f"{plan.data} (digest {plan.data_digest}{drawn})"


def _seeds(runs: Runs) -> str:
    return ", ".join(map(str, runs.seeds))


def _final(store: Store, name: str) -> Any:
    """Return the last rows of the runs of an arm, EXPERIMENT:ARM."""
    experiment, arm = name.split(":")
    final = store.results(store.find(experiment)).final
    rows = final[final.arm == arm]
    if rows.empty:
        raise LecunAblateError(f"{name}: no such arm: {nearest(arm, final.arm.unique())}")
    return rows


def _runs(store: Store, name: str) -> tuple[Runs, Plan]:
    """Return the runs of an arm, with their plan."""
    rows = _final(store, name).sort_values("seed")
    plan = store.plan(store.find(name.split(":", maxsplit=1)[0]))
    diverged = (rows.status == RunStatus.DIVERGED).to_numpy(bool)
    runs = Runs(rows.seed.to_numpy(), rows.test_error.to_numpy(), diverged, None)
    return runs, plan
