"""The time and the memory that it takes to read many runs back: `show` and `report`.

    python benchmarks/reading.py
    python benchmarks/reading.py --runs 1000 --tracking-uri postgresql+psycopg://...
    python benchmarks/reading.py --runs 1000 --profile show

Writes made-up runs of experiments/activation.yaml (scikit-learn's digits, 1 epoch, 5 arms) to a new
store in a temporary folder, and then lets a fresh process show them and another one write their
report, as the commands do. Prints the seconds and the peak of the memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tracking import made_up_run

ROOT = Path(__file__).resolve().parents[1]
READ = """
import resource, sys, time
began = time.perf_counter()
from lecun_ablate import api
uri = sys.argv[2]
import cProfile
profile = cProfile.Profile()
if len(sys.argv) > 3:
    profile.enable()
if sys.argv[1] == "show":
    from lecun_ablate.terminal import experiments
    shown = api.show("activation", uri)
    assert len(shown.evidence.results.final)
else:
    api.report("activation", tracking_uri=uri)
profile.disable()
seconds = time.perf_counter() - began
if len(sys.argv) > 3:
    import pstats
    pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)
used = resource.getrusage(resource.RUSAGE_SELF)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def write(runs: int, uri: str) -> float:
    """Write runs to a new store; return the seconds per run."""
    from lecun_ablate import data
    from lecun_ablate.config.experiment import parse_experiment
    from lecun_ablate.config.source import Overrides, read
    from lecun_ablate.plan.plan import Plan
    from lecun_ablate.plan.results import EPOCH_METRICS, RunStatus
    from lecun_ablate.running.training import answers_file
    from lecun_ablate.tracking.names import ANSWERS, WEIGHTS
    from lecun_ablate.tracking.plan_run import PlanRun
    from lecun_ablate.tracking.writer import Writer
    from lecun_ablate.trainers.base import Identity

    digits = data.load("digits")
    overrides = Overrides(seeds=runs // 5, epochs=1, data="digits")
    experiment = parse_experiment(read(ROOT / "experiments/activation.yaml", overrides), overrides)
    identity = Identity("native", "cpu", "avx2", 1)
    plan = Plan.make(experiment, digits, {arm.name: identity for arm in experiment.arms})
    rng = np.random.default_rng(0)
    weights = made_up_run(rng)[1]["weights.npz"]
    train, labels = len(digits.train.labels), digits.test.labels.astype(np.uint8)
    with Writer.opened(uri) as writer, PlanRun.opened(writer, plan, print) as plan_run:
        began = time.perf_counter()
        for arm, seed in plan.keys:
            number = plan.experiment.arms.index(plan.experiment.arm(arm))
            missed = rng.random(len(labels)) < 0.05 + 0.005 * number
            answers = np.where(missed, (labels + 1) % 10, labels).astype(np.uint8)
            misses = {"train": int(rng.integers(train // 20, train // 10)), "test": missed.sum()}
            row = dict.fromkeys(EPOCH_METRICS, 0.1)
            for split, images in (("train", train), ("test", len(labels))):
                row |= {f"{split}_misses": misses[split], f"{split}_error": misses[split] / images}
            files = {WEIGHTS: weights, ANSWERS: answers_file(labels, answers)}
            plan_run.log(arm, seed, [row], RunStatus.FINISHED, files)
        plan_run.results()
        return (time.perf_counter() - began) / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--tracking-uri", help="a new store (default: an SQLite file)")
    parser.add_argument("--profile", choices=["show", "report"], help="show where the time goes")
    options = parser.parse_args()
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            uri = options.tracking_uri or f"sqlite:///{Path(folder, 'mlflow.db')}"
            written = write(runs, uri)
            print(f"{runs} runs, written in {1000 * written:.1f} ms each", flush=True)
            for what in [options.profile] if options.profile else ["show", "report"]:
                words = [sys.executable, "-c", READ, what, uri]
                words += ["profile"] if options.profile else []
                done = subprocess.run(
                    words, cwd=folder, check=True, capture_output=True, text=True, env=os.environ
                )
                *more, last = done.stdout.splitlines()
                seconds, cpu, peak = map(float, last.split())
                print("\n".join(more), end="\n" if more else "")
                print(f"  {what}: {seconds:.1f} s ({cpu:.1f} s of CPU), {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
