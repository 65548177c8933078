"""The time to write runs to the MLflow store, which must not slow down a fast trainer.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --overlapped
    python benchmarks/tracking.py --runs 100 --tracking-uri postgresql+psycopg://... [--client]

Writes seed runs of realistic size (23 epochs of 7 metrics, the recipe as params, the weights and
the answers on the test split as artifacts) to a store in a temporary folder, and prints the total
time, and the time to find them again. --tracking-uri writes to another store; --client writes
through MLflow's client, one run at a time, as this package once did to servers and to PostgreSQL.
--profile also shows where the time is spent. --overlapped runs a whole experiment instead, with the
cuda trainer on a device that computes nothing. That leaves the work of the host, from drawing the
first weights to writing the last run.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from trainers import TEST, TRAIN, random_split

from lecun_ablate.config.arms import Arm
from lecun_ablate.config.base import DataChoice
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.network.initial import SHAPES
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import EPOCH_METRICS, RunStatus
from lecun_ablate.reporting.conclusion import conclude
from lecun_ablate.running.experiment import run_experiment
from lecun_ablate.running.training import Prepared
from lecun_ablate.tracking import sqlite
from lecun_ablate.tracking.connection import Connection
from lecun_ablate.tracking.plan_run import PlanRun
from lecun_ablate.tracking.writer import Writer
from lecun_ablate.trainers.base import Identity, Trainer
from lecun_ablate.trainers.cuda import CudaTrainer

IDENTITY = Identity("cuda", "cuda", "sm_90", 1)


def made_up_plan(runs: int, digits: Digits, identity: Identity, recipe: Recipe) -> Plan:
    experiment = Experiment(
        f"logging-{uuid.uuid4().hex[:8]}",  # new in any store
        "How fast?",
        DataChoice(name="usps"),
        (Arm("one", {}, recipe),),
        "one",
        tuple(range(runs)),
    )
    return Plan.make(experiment, digits, {"one": identity})


class Idle:
    """A launcher whose kernels do nothing."""

    torch_device = torch.device("cpu")
    instruction_set = "none"

    def kernels(self, choices, pairs):
        """Return itself, for all choices."""
        return self

    def resident(self, pairs):
        """Return how many networks an H100 trains at a time."""
        return 528

    def train(self, networks, pairs, *arguments):
        """Do nothing."""

    def evaluate(self, blocks, pairs, *arguments):
        """Do nothing."""


def experiment_seconds(trainer: Trainer, runs: int, recipe: Recipe) -> float:
    """Return the seconds of an experiment with one arm, with the runner and a store of its own."""
    digits = Digits("usps", random_split(TRAIN, 0), random_split(TEST, 1), "made up")
    plan = made_up_plan(runs, digits, trainer.identity(), recipe)
    with (
        tempfile.TemporaryDirectory() as folder,
        Writer.opened(f"sqlite:///{Path(folder, 'mlflow.db')}") as writer,
    ):
        began = time.perf_counter()
        with PlanRun.opened(writer, plan, print) as plan_run:
            prepared = Prepared(plan, digits, {"one": trainer}, [])
            conclude(run_experiment(prepared, plan_run), writer.files, plan_run)
        return time.perf_counter() - began


def made_up_run(rng: np.random.Generator) -> tuple[list[dict], dict[str, bytes]]:
    history = [dict(zip(EPOCH_METRICS, rng.uniform(size=7), strict=True)) for _ in range(23)]
    weights = io.BytesIO()
    np.savez(weights, **{name: rng.normal(size=s).astype("f4") for name, s in SHAPES.items()})
    answers = {name: rng.integers(0, 10, TEST).astype(np.uint8) for name in ("label", "prediction")}
    return history, {
        "weights.npz": weights.getvalue(),
        "test_predictions.parquet": pd.DataFrame(answers).to_parquet(index=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="number of runs (default: 1000)")
    parser.add_argument("--profile", action="store_true", help="show where the time is spent")
    parser.add_argument("--tracking-uri", help="the store (default: an SQLite file)")
    parser.add_argument("--client", action="store_true", help="write through MLflow's client")
    parser.add_argument("--overlapped", action="store_true", help="run a whole experiment")
    options = parser.parse_args()
    if options.overlapped:
        began = time.process_time()
        seconds = experiment_seconds(CudaTrainer(Idle()), options.runs, Recipe())
        cpu = time.process_time() - began
        print(f"{options.runs} runs in {seconds:.1f} s ({cpu:.1f} s of CPU), without any training")
        return
    images = Split(np.zeros((1, 16, 16)), np.zeros(1, np.int64))
    digits = Digits("usps", images, images, "made up")
    plan = made_up_plan(options.runs, digits, IDENTITY, Recipe())
    history, artifacts = made_up_run(np.random.default_rng(0))
    profile = cProfile.Profile()
    if options.client:
        sqlite.TESTED_REVISIONS.clear()
        Connection.is_server = False  # then runs are written one by one
    with (
        tempfile.TemporaryDirectory() as folder,
        Writer.opened(options.tracking_uri or f"sqlite:///{Path(folder, 'mlflow.db')}") as writer,
        PlanRun.opened(writer, plan, print) as plan_run,
    ):
        began, cpu = time.perf_counter(), time.process_time()
        if options.profile:
            profile.enable()
        for seed in range(options.runs):
            plan_run.log("one", seed, history, RunStatus.FINISHED, artifacts)
        writer.flush()
        profile.disable()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        began = time.perf_counter()
        assert len(writer.store.finished(plan_run.experiment_id)[0]) == options.runs
        reading = time.perf_counter() - began
    per_run = 1000 * seconds / options.runs
    print(f"{options.runs} runs in {seconds:.1f} s ({cpu:.1f} s of CPU): {per_run:.1f} ms each")
    print(f"found again in {reading:.2f} s: {1000 * reading / options.runs:.1f} ms each")
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
