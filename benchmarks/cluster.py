"""What training on a Ray cluster costs beside training here, in CPU seconds and in bytes.

    LECUN_ABLATE_DATA=folder python benchmarks/cluster.py

Starts a cluster of this machine's cores, trains the same runs here and there in turn, warm, and
compares the medians. CPU seconds of the cluster are those of this process, of the workers and of
Ray's own processes together.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray

from lecun_ablate.cluster import worker
from lecun_ablate.cluster.joining import joined
from lecun_ablate.cluster.travel import Data, Kit
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data import load
from lecun_ablate.data.digits import Digits
from lecun_ablate.trainers.base import Run, Trainer
from lecun_ablate.trainers.native import NativeTrainer

PORT = 6388
ACTIVATIONS = ("tanh", "scaled_tanh", "lisht", "sigmoid", "relu")


@dataclass(frozen=True)
class Used:
    """CPU seconds, and the seconds on the clock."""

    driver: float
    workers: float
    ray: float  # its own processes
    wall: float

    @property
    def total(self) -> float:
        """All CPU seconds."""
        return self.driver + self.workers + self.ray


def cpu(folder: str) -> tuple[float, float]:
    """Return the CPU seconds of workers, and of Ray's own processes, of the cluster in a folder."""
    workers = others = 0.0
    import psutil  # which Ray brings

    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            times = process.cpu_times()
            if words.startswith("ray::"):
                workers += times.user + times.system
            elif folder in words:
                others += times.user + times.system
        except psutil.Error:
            continue
    return workers, others


def used(folder: str, work: Callable[[], None]) -> Used:
    """Do some work, and return what it has used."""
    workers, others = cpu(folder)
    wall, driver = time.perf_counter(), time.process_time()
    work()
    driver, wall = time.process_time() - driver, time.perf_counter() - wall
    workers_then, others_then = cpu(folder)
    return Used(driver, workers_then - workers, others_then - others, wall)


def train(trainer: Trainer, runs: list[Run], digits: Digits) -> None:
    """Train runs, and look at nothing."""
    splits = {"train": digits.train, "test": digits.test}
    ended = sum(report.last for report in trainer.train(runs, digits.train, splits))
    assert ended == len(runs)


def bytes_per_run(runs: list[Run], digits: Digits) -> float:
    """Return how many bytes an answer has for each run."""
    kit = Kit.of(NativeTrainer(threads=1), [run.recipe for run in runs])
    data = Data.of(digits.train, {"train": digits.train, "test": digits.test})
    return len(pickle.dumps(worker.train(kit, data, runs, whole=False))) / len(runs)


def compare(name: str, runs: list[Run], digits: Digits, rounds: int, there: str) -> None:
    """Train the same runs here and on the cluster, in turn, and print what both have used."""
    here = NativeTrainer()
    found: dict[str, list[Used]] = {"here": [], "cluster": []}
    with joined(f"127.0.0.1:{PORT}", lambda text: None, print) as cluster:
        remote = cluster.spread(here, [run.recipe for run in runs])
        train(remote, runs[: 4 * here.threads], digits)  # starts the workers
        for _ in range(rounds):
            for where, trainer in (("here", here), ("cluster", remote)):
                found[where].append(used(there, lambda one=trainer: train(one, runs, digits)))

    def median(where: str, value: str) -> float:
        return statistics.median(getattr(one, value) for one in found[where])

    more = median("cluster", "total") / median("here", "driver") - 1
    clock = median("cluster", "wall") / median("here", "wall") - 1
    each = 1000 * median("cluster", "driver") / len(runs)
    print(
        f"{name}: {median('here', 'driver'):.1f} s of CPU here, {median('cluster', 'total'):.1f} s "
        f"on the cluster: {more:+.1%} (clock: {clock:+.1%})\n"
        f"  of these {median('cluster', 'workers'):.1f} s in workers, "
        f"{median('cluster', 'ray'):.1f} s in Ray, {each:.2f} ms per run in this process; "
        f"{bytes_per_run(runs[:10], digits) / 1000:.1f} kB per run",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--runs", type=int, default=50, help="of 23 epochs on USPS (default: 50)")
    options = parser.parse_args()
    print(f"Ray {ray.__version__}, {os.cpu_count()} cores", file=sys.stderr)
    program = str(Path(sys.executable).with_name("ray"))
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        start = [program, "start", "--head", f"--port={PORT}", "--include-dashboard=false",
                 f"--temp-dir={folder}"]  # fmt: skip
        subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            short = [
                Run(Recipe(activation=activation, epochs=1), seed, arm=activation)
                for seed in range(200)
                for activation in ACTIVATIONS
            ]
            compare("1,000 x 1 epoch on digits", short, load("digits"), options.rounds, folder)
            long = [
                Run(Recipe(activation=activation), seed, arm=activation)
                for seed in range(options.runs // len(ACTIVATIONS))
                for activation in ACTIVATIONS
            ]
            name = f"{len(long)} x 23 epochs on USPS"
            compare(name, long, load("usps"), options.rounds, folder)
        finally:
            subprocess.run([program, "stop"], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
