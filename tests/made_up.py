"""Results that nobody trained, for tests of what is made of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lecun_ablate.config.ablation import Ablation
from lecun_ablate.config.arms import Arm
from lecun_ablate.config.base import DataChoice
from lecun_ablate.config.command import Command
from lecun_ablate.config.experiment import Experiment, Until
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import Results
from lecun_ablate.trainers.base import Identity

IMAGES = 200
LABELS = np.arange(IMAGES, dtype=np.uint8) % 10
TRAINER = Identity("torch", "cpu", "avx2", 1)


class Store:
    """Holds the answers and weights of made-up runs, as the real store does."""

    def __init__(self):
        self.answers = {}

    def predictions(self, run_id):
        return self.answers[run_id]

    def labels(self, run_id):
        return LABELS

    def weights(self, run_id):
        rng = np.random.default_rng(3)
        seen = np.zeros((12, 12, 1, 1))
        seen[:, :8] = 1
        return {
            "h1_weight": rng.normal(size=(12, 1, 5, 5)),
            "h2_weight": rng.normal(size=(12, 12, 5, 5)) * seen,
        }


def results(
    misses: dict[str, list[int]],
    *,
    overrides: dict[str, dict] | None = None,
    status: dict[tuple[str, int], str] | None = None,
    ladder: bool = False,
    factors: dict[str, list] | None = None,
    ablation: Ablation | None = None,
    until: Until | None = None,
    compare: str = "baseline",
    margin: float = 0.5,
    absent: tuple[str, ...] = (),
    epochs: int = 3,
) -> tuple[Results, Store]:
    """Return results with the `misses` of 200 images, arm by arm; the first is the baseline.

    `status` marks (arm, seed) runs as "diverged" or "collapsed"; `absent` arms are planned without
    a run. Which images a run misses depends on its seed and, a little, on its arm.
    """
    names = [*misses, *absent]
    overrides = overrides or {name: {"lr": 0.01 * (k + 1)} for k, name in enumerate(names)}
    arms = tuple(
        Arm(name, overrides[name], Recipe(epochs=epochs, **overrides[name])) for name in names
    )
    seeds = tuple(range(max(len(counts) for counts in misses.values())))
    experiment = Experiment(
        "made-up",
        "What comes of it?",
        DataChoice(name="digits"),
        arms,
        names[0],
        seeds,
        ladder=ladder,
        factors=factors,
        ablation=ablation,
        until=until,
        compare=compare,
        margin=margin,
        command=Command.of("run", "x.yaml"),
    )
    keys = {(name, seed): f"{name}/{seed}" for seed in seeds for name in names}
    plan = Plan(
        experiment, "digits", "0123456789abcdef", None, dict.fromkeys(names, TRAINER), keys, "plan"
    )
    store, rows, origins = Store(), [], []
    for k, (arm, counts) in enumerate(misses.items()):
        for seed, missed in enumerate(counts):
            run_id = f"{k:016x}{seed:016x}"
            order = np.random.default_rng(seed).permutation(IMAGES)
            answers = LABELS.copy()
            answers[np.roll(order, -3 * k)[:missed]] += 1
            store.answers[run_id] = answers % 10
            how = (status or {}).get((arm, seed), "finished")
            rows += [
                (arm, seed, epoch, 0.1 / epoch, error, 0, 0.1 / epoch, error, missed, 0.5, how,
                 run_id)
                for epoch in range(1, epochs + 1)
                for error in [missed / IMAGES]
            ]  # fmt: skip
            origins.append((run_id, "c0ffee", {"python": "3.11.0"}))
    columns = ["arm", "seed", "epoch", "train_loss", "train_error", "train_misses", "test_loss",
               "test_error", "test_misses", "epoch_seconds", "status", "run_id"]  # fmt: skip
    return (
        Results(
            plan,
            pd.DataFrame(rows, columns=columns),
            pd.DataFrame(origins, columns=["run_id", "commit", "environment"]),
            "top",
            "1",
        ),
        store,
    )
