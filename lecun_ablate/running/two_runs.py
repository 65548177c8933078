"""Comparing two single runs, digit by digit: two networks, not two recipes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.network.reference import NO_DIGIT
from lecun_ablate.running.two_arms import run_id
from lecun_ablate.statistics import TwoRuns, mcnemar
from lecun_ablate.tracking.records import SeedRun
from lecun_ablate.tracking.store import Store


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the same test digits; differences are first minus second."""

    first: SeedRun
    second: SeedRun
    errors: tuple[float, float]  # on the test split after the last epoch
    table: TwoRuns
    differing: pd.DataFrame  # image, label, first, second; a row per digit answered differently

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        interval = self.table.interval
        return {
            **{
                which: {"run_id": run.run_id, "arm": run.arm, "seed": run.seed, "error": error}
                for which, run, error in zip(
                    ("first", "second"), (self.first, self.second), self.errors, strict=True
                )
            },
            **asdict(self.table),
            "interval": [interval.low, interval.high],
            "differing_digits": self.differing.to_dict("records"),
        }


def compare_runs(store: Store, first_id: str, second_id: str) -> RunComparison:
    """Compare two seed runs' answers; LecunAblateError if they were tested on other digits."""
    first_id, second_id = run_id(store, first_id), run_id(store, second_id)
    first, second = store.seed_run(first_id), store.seed_run(second_id)
    if first.params["data_digest"] != second.params["data_digest"]:
        tested = " and ".join(
            f"{run.name} on {run.params['data']} (digest {run.params['data_digest']})"
            for run in (first, second)
        )
        raise LecunAblateError(f"the two runs were tested on different digits: {tested}")
    splits = [run.params.get("split") for run in (first, second)]
    if splits != [None, None] and (splits[0] != splits[1] or first.seed != second.seed):
        raise LecunAblateError(
            f"the two runs were tested on different digits: the seed of {first.name} or of "
            f"{second.name} drew its test images; expected two runs with the same seed"
        )
    labels = store.files.labels(first_id)
    one, two = store.files.predictions(first_id), store.files.predictions(second_id)
    rows = np.flatnonzero(one != two)
    differing = pd.DataFrame(
        {"image": rows, "label": labels[rows], "first": one[rows], "second": two[rows]}
    ).astype(object)
    for answer in ("first", "second"):
        differing[answer] = differing[answer].where(differing[answer] != NO_DIGIT, None)
    errors = float(np.mean(one != labels)), float(np.mean(two != labels))
    return RunComparison(first, second, errors, mcnemar(one, two, labels), differing)
