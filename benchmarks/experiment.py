"""The time and memory that a whole experiment takes beyond its training.

    LECUN_ABLATE_DATA=folder python benchmarks/experiment.py

Runs experiments/activation.yaml with 20 seeds per arm (100 runs) in a temporary folder, as a user
would, and then trains the same runs with the trainer alone. The difference is the time for
start-up, tracking, tables and figures. Memory is the largest resident set of the command, for 100
and for 1,000 runs of one epoch. It should not grow with the number of runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.data import load
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.choice import choose

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = "experiments/activation.yaml"


def command(*options: str) -> tuple[float, float]:
    """Run the experiment in a folder of its own; return wall seconds and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "experiments", Path(folder) / "experiments")
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "lecun_ablate", "run", EXPERIMENT, *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"the command failed with status {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / 1024


def training(seeds: int) -> tuple[float, str]:
    """Return the seconds that the trainer alone takes for the same runs, and the trainer's name."""
    experiment = load_experiment(ROOT / EXPERIMENT)
    digits = load(experiment.data.name)
    recipes = {arm.name: arm.recipe for arm in experiment.arms}
    trainers, _ = choose(recipes)
    (trainer,) = set(trainers.values())
    runs = [Run(recipe, seed) for seed in range(seeds) for recipe in recipes.values()]
    begin = time.perf_counter()
    for _ in trainer.train(runs, digits.train, {"train": digits.train, "test": digits.test}):
        pass
    return time.perf_counter() - begin, trainer.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, default=20, help="seeds per arm, of five arms (default: 20)"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="skip the 1,100 short runs that measure memory"
    )
    options = parser.parse_args()
    wall, peak = command("--seeds", str(options.seeds))
    alone, name = training(options.seeds)
    print(f"{5 * options.seeds} runs of 23 epochs on {os.cpu_count()} cores, {name} trainer")
    print(f"  the command   {wall:6.1f} s, at most {peak:.0f} MiB")
    print(f"  the trainer   {alone:6.1f} s alone: {1 - alone / wall:.0%} of the time is outside it")
    if not options.no_memory:
        for seeds in (20, 200):
            wall, peak = command("--epochs", "1", "--seeds", str(seeds))
            print(f"{5 * seeds:5} runs of 1 epoch: {wall:6.1f} s, at most {peak:.0f} MiB")


if __name__ == "__main__":
    main()
