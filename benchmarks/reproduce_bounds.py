"""How far the results of two trainers differ for the same runs: the source of `reproduce`'s bounds.

    LECUN_ABLATE_DATA=folder python benchmarks/reproduce_bounds.py

Trains every arm of experiments/activation.yaml and experiments/loss.yaml for 23 epochs with the
native and the torch trainer, and prints the largest differences over all epochs. The trainers sum
in different orders, and on-line training amplifies the rounding errors. Takes about 20 minutes of
an otherwise idle core per dtype on USPS, and 4 minutes on digits (--data digits).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data import Digits, load
from lecun_ablate.running.training import metrics
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.choice import choose

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ("activation", "loss")


def histories(trainer: str, recipes: dict[str, Recipe], seeds: int, digits: Digits) -> pd.DataFrame:
    """Return the metrics of every arm, seed and epoch."""
    chosen, _ = choose(recipes, trainer)
    (one,) = set(chosen.values())
    runs = [(arm, seed) for arm in recipes for seed in range(seeds)]
    reports = one.train(
        [Run(recipes[arm], seed) for arm, seed in runs],
        digits.train,
        {"train": digits.train, "test": digits.test},
    )
    rows = [(*runs[report.index], report.epoch, metrics(report)) for report in reports]
    table = pd.DataFrame([row[3] for row in rows])
    table[["arm", "seed", "epoch"]] = [row[:3] for row in rows]
    return table.set_index(["arm", "seed", "epoch"]).sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="seeds per arm (default: 1)")
    parser.add_argument("--epochs", type=int, default=23)
    parser.add_argument("--data", default="usps")
    parser.add_argument("--dtype", nargs="*", default=["float32", "float64"])
    parser.add_argument("--arm", nargs="*", help="the arms to train (default: all)")
    options = parser.parse_args()
    digits = load(options.data)
    print(f"{options.epochs} epochs on {options.data}, {options.seeds} seeds per arm")
    print("| dtype | arm | largest relative difference of a loss | of an error (points) |")
    print("|---|---|---:|---:|")
    for dtype in options.dtype:
        arms = {
            arm.name: arm.recipe
            for name in EXPERIMENTS
            for arm in load_experiment(
                ROOT / f"experiments/{name}.yaml", epochs=options.epochs, dtype=dtype
            ).arms
            if arm.name in (options.arm or [arm.name]) and arm.name != "mse"  # the same as tanh
        }
        one, other = (histories(t, arms, options.seeds, digits) for t in ("native", "torch"))
        losses, errors = (
            [f"{split}_{what}" for split in ("train", "test")] for what in ("loss", "error")
        )
        relative = (other[losses] / one[losses] - 1).abs().max(axis=1)
        points = 100 * (other[errors] - one[errors]).abs().max(axis=1)
        for arm in arms:
            ended = np.isfinite(relative[arm]).all()
            print(
                f"| {dtype} | {arm} | {relative[arm].max():.2g} | {points[arm].max():.3f} |"
                + ("" if ended else " diverged"),
                flush=True,
            )


if __name__ == "__main__":
    main()
