"""The speed of the trainers on one core: the source of the README's table.

    python benchmarks/trainers.py

Trains the notebook's recipe (23 epochs, with an evaluation on both splits after each) on as many
random images as USPS has; the arithmetic is the same. All trainers take turns, round by round, on
one pinned core, and the table shows medians over the rounds. The native trainer trains whole runs.
The slower ones train one epoch on some of the images, and the time is extrapolated. A multiply-add
counts as 2 FLOP. Only the network's own multiply-adds count (8 planes of H1 per plane of H2, no
padded lanes), without the activations.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.trainers.base import Run, Trainer
from lecun_ablate.trainers.native import NativeTrainer, kernel
from lecun_ablate.trainers.torch_trainer import TorchTrainer

TRAIN, TEST, EPOCHS = 7291, 2007, 23
FORWARD_MACS = 63_660
STEP_MACS = 2 * FORWARD_MACS + 38_400 + 5_760 + 300  # forward, weights, and H2, H3, out inputs
RUN_FLOP = 2 * EPOCHS * (TRAIN * STEP_MACS + (TRAIN + TEST) * FORWARD_MACS)


def random_split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split(rng.uniform(-1, 1, (n, 16, 16)), rng.integers(0, 10, n))


def part(split: Split, fraction: float) -> Split:
    return split.take(np.arange(round(fraction * len(split))))


class Notebook(nn.Module):
    """The notebook's training loop: a module and its optimizer, one pattern at a time, float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1337)

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            bound = 2.4 / fan_in**0.5
            return nn.Parameter((torch.rand(shape, dtype=torch.float64) - 0.5) * 2 * bound)

        def constant(value: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, value, dtype=torch.float64))

        self.h1w, self.h1b = uniform(25, 12, 1, 5, 5), constant(0, 12, 8, 8)
        self.h2w, self.h2b = uniform(200, 12, 8, 5, 5), constant(0, 12, 4, 4)
        self.h3w, self.h3b = uniform(192, 192, 30), constant(0, 30)
        self.outw, self.outb = uniform(30, 30, 10), constant(-1, 10)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.03)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (n, 10), for images (n, 1, 16, 16)."""
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)
        x = torch.tanh(F.conv2d(x, self.h1w, stride=2) + self.h1b)
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)
        seen = (x[:, 0:8], x[:, 4:12], torch.cat([x[:, 0:4], x[:, 8:12]], dim=1))
        blocks = [
            F.conv2d(planes, self.h2w[4 * i : 4 * i + 4], stride=2) for i, planes in enumerate(seen)
        ]
        x = torch.tanh(torch.cat(blocks, dim=1) + self.h2b)
        x = torch.tanh(x.flatten(1) @ self.h3w + self.h3b)
        return torch.tanh(x @ self.outw + self.outb)

    def fit(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """Train one step per image."""
        for i in range(len(images)):
            loss = torch.mean((self(images[[i]]) - targets[[i]]) ** 2)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
        """Return the mean loss and the error rate."""
        outputs = self(images)
        wrong = outputs.argmax(1) != targets.argmax(1)
        return torch.mean((outputs - targets) ** 2).item(), wrong.double().mean().item()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def time_notebook(train: Split, test: Split, fraction: float) -> tuple[float, float]:
    """Return the seconds per step and per run."""
    splits = [
        (torch.from_numpy(s.images)[:, None], F.one_hot(torch.from_numpy(s.labels), 10).double())
        for s in (part(train, fraction), part(test, fraction))
    ]
    notebook = Notebook()
    step = seconds(lambda: notebook.fit(*splits[0])) / len(splits[0][0])
    evaluation = seconds(lambda: [notebook.evaluate(*s) for s in splits]) / fraction
    return step, EPOCHS * (TRAIN * step + evaluation)


def time_trainer(
    trainer: Trainer,
    dtype: str,
    train: Split,
    test: Split,
    replicas: int = 1,
    fraction: float = 1,
    epochs: int = EPOCHS,
) -> tuple[float, float]:
    """Return the seconds per step and per run, each of one replica."""
    fit, held = part(train, fraction), part(test, fraction)
    runs = [Run(Recipe(dtype=dtype), seed, until=epochs) for seed in range(replicas)]

    def epoch(splits: dict[str, Split]) -> float:
        return seconds(lambda: list(trainer.train(runs, fit, splits))) / replicas / epochs

    step = epoch({}) / len(fit)
    return step, EPOCHS * epoch({"train": fit, "test": held}) / fraction


def time_peak(dtype: str, instruction_set: str) -> float:
    """Return the peak FLOP per second, measured with multiply-adds only."""
    spin = getattr(kernel, f"multiply_adds_{dtype}")
    begin = time.perf_counter()
    operations = spin(instruction_set, 1_000_000)
    return operations / (time.perf_counter() - begin)


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds in which each trainer takes one turn (default: 15)",
    )
    parser.add_argument("--core", type=int, default=0, help="the core to run on (default: 0)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)

    train, test = random_split(TRAIN, 0), random_split(TEST, 1)
    native, eager = NativeTrainer(threads=1), TorchTrainer(threads=1)

    def batched(dtype: str) -> tuple[float, float]:
        return time_trainer(eager, dtype, train, test, replicas=32, fraction=0.02, epochs=1)

    turns: dict[str, Callable[[], tuple[float, float]]] = {
        "the notebook's loop, eager PyTorch|float64": lambda: time_notebook(train, test, 0.03),
        "torch, 32 replicas|float32": lambda: batched("float32"),
        "torch, 32 replicas|float64": lambda: batched("float64"),
        "native|float32": lambda: time_trainer(native, "float32", train, test),
        "native|float64": lambda: time_trainer(native, "float64", train, test),
    }
    steps: dict[str, list[float]] = {name: [] for name in turns}
    totals: dict[str, list[float]] = {name: [] for name in turns}
    peaks: dict[str, list[float]] = {"float32": [], "float64": []}
    for turn in turns.values():
        turn()  # warm up
    for _ in range(options.rounds):
        for name, turn in turns.items():
            dtype = name.split("|")[1]
            peaks[dtype].append(time_peak(dtype, native.instruction_set))
            step, total = turn()
            steps[name].append(step)
            totals[name].append(total)

    loop = totals["the notebook's loop, eager PyTorch|float64"]
    peak = {dtype: statistics.median(values) for dtype, values in peaks.items()}
    print(
        f"One core of {cpu_name()}, {native.instruction_set}; {kernel.COMPILER}, PyTorch "
        f"{torch.__version__}; medians of {options.rounds} interleaved rounds. Measured peak of "
        f"multiply-adds: {peak['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{peak['float64'] / 1e9:.0f} in float64.\n"
    )
    print("| trainer | dtype | µs per replica-step | s per run | × the loop | GFLOP/s | of peak |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in turns:
        label, dtype = name.split("|")
        total = statistics.median(totals[name])
        ratio = statistics.median(a / b for a, b in zip(loop, totals[name], strict=True))
        rate = RUN_FLOP / total
        print(
            f"| {label} | {dtype} | {statistics.median(steps[name]) * 1e6:.1f} | {total:.2f} | "
            f"{ratio:.0f} | {rate / 1e9:.1f} | {rate / peak[dtype]:.0%} |"
        )


if __name__ == "__main__":
    main()
