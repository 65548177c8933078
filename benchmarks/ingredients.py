"""What a pattern costs the native trainer with each ingredient, against plain gradient descent.

    python benchmarks/ingredients.py

Trains epochs of the notebook's recipe, changed by one ingredient, on as many random images as USPS
has, in float32 on one pinned core, without evaluation. The recipes take turns, round by round; a
ratio is the median over the rounds of the time against that of plain gradient descent in the same
round. An epoch's own work in Python (orders, shifts, masks, the estimate of the curvature) counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch
from trainers import TRAIN, cpu_name, random_split

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.native import NativeTrainer, kernel

ADAMW = {"optimizer": "adamw", "lr": 3e-4}
SHIFT, DROPOUT = {"augmentation": "shift"}, {"dropout": 0.25}
SMOOTHING = {"label_smoothing": 0.1, "schedule": "cosine", "schedule_per": "step"}
INGREDIENTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd, momentum": {"momentum": 0.9, "lr": 0.003},
    "sdlm per pass": {"optimizer": "sdlm", "lr": 0.002},
    "sdlm running": {"optimizer": "sdlm(estimate=running)", "lr": 0.002},
    "adamw": ADAMW,
    "rmsprop": {"optimizer": "rmsprop", "lr": 3e-4},
    "lion": {"optimizer": "lion", "lr": 1e-4},
    "shift": SHIFT,
    "dropout": DROPOUT,
    "smoothing, schedule": SMOOTHING,
    "shift, dropout, smoothing, schedule": SHIFT | DROPOUT | SMOOTHING,
    "average": {"average": 0.999},
    "batches of 8, per pattern": {"batch_size": 8},
    "batches of 32, per pattern": {"batch_size": 32},
}


def microseconds(trainer: NativeTrainer, recipe: Recipe, epochs: int) -> float:
    """Return the time per pattern."""
    fit = random_split(TRAIN, 0)
    begin = time.perf_counter()
    for _ in trainer.train([Run(recipe, 0, until=epochs)], fit, {}):
        pass
    return (time.perf_counter() - begin) / epochs / TRAIN * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each turn (default: 3)")
    parser.add_argument("--core", type=int, default=0, help="the core to run on (default: 0)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    trainer = NativeTrainer(threads=1)
    recipes = {name: Recipe(**fields) for name, fields in INGREDIENTS.items()}
    times: dict[str, list[float]] = {name: [] for name in recipes}
    for rounds in range(options.rounds + 1):  # the first is to warm up
        for name, recipe in recipes.items():
            spent = microseconds(trainer, recipe, options.epochs)
            if rounds:
                times[name].append(spent)
    print(
        f"One core of {cpu_name()}, {trainer.instruction_set}; {kernel.COMPILER}; float32; medians "
        f"of {options.rounds} interleaved rounds.\n"
    )
    print("| step | µs per pattern | × sgd | µs more than sgd |")
    print("|---|---:|---:|---:|")
    for name, each in times.items():
        pairs = list(zip(each, times["sgd"], strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        more = statistics.median(a - b for a, b in pairs)
        print(f"| {name} | {statistics.median(each):.2f} | {ratio:.2f} | {more:+.2f} |")


if __name__ == "__main__":
    main()
