"""The speed of a user's own components on one core: the source of the README's table.

    python benchmarks/components.py

Each of the user's components takes turns with a built-in one and with itself on the torch trainer
at 32 replicas, round by round, on one pinned core. The table shows medians over the rounds:
microseconds per step of a replica, and their ratios. The seconds are those that a fresh process
takes from a registered function to one that can be called, when nothing has been kept (first) and
when it has been (again). They do not count the imports of PyTorch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lecun_ablate.compiled.build import Compiler
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.registry import registry
from lecun_ablate.trainers.base import Run, Trainer
from lecun_ablate.trainers.native import NativeTrainer, compiled_for, kernel
from lecun_ablate.trainers.torch_trainer import TorchTrainer

PATTERNS = 7291  # as many as USPS has
REPLICAS = 32
MINE = """
import torch
from lecun_ablate import register

@register("activation")
def squareplus(x):
    return (x + torch.sqrt(x * x + 4)) / 2

@register("activation")
def my_tanh(x):
    return torch.tanh(x)

@register("loss")
def my_mse(outputs, targets):
    return ((outputs - targets) ** 2).mean(-1)

@register("loss")
def huber(outputs, targets):
    return torch.nn.functional.huber_loss(outputs, targets, reduction="none").mean(-1)

@register("optimizer")
def heavy_ball(parameters, gradients, state, lr, momentum):
    if "velocity" not in state:
        state["velocity"] = torch.zeros_like(parameters)
    state["velocity"].mul_(momentum).add_(gradients)
    parameters.sub_(lr * state["velocity"])

@register("optimizer")
def my_adam(parameters, gradients, state, lr):
    if not state:
        state["m"], state["v"] = torch.zeros_like(parameters), torch.zeros_like(parameters)
        state["step"] = 0
    state["step"] += 1
    state["m"].mul_(0.9).add_(gradients, alpha=0.1)
    state["v"].mul_(0.999).addcmul_(gradients, gradients, value=0.001)
    m = state["m"] / (1 - 0.9 ** state["step"])
    v = state["v"] / (1 - 0.999 ** state["step"])
    parameters.sub_(lr * m / (v.sqrt() + 1e-8))
"""
# the user's component, in the words of a recipe, and the built-in one beside it
MATCHES = [
    ({"activation": "squareplus"}, {"activation": "softsign"}),
    ({"activation": "my_tanh"}, {"activation": "tanh"}),
    ({"loss": "my_mse"}, {"loss": "mse"}),
    ({"loss": "huber"}, {"loss": "mse"}),
    ({"optimizer": "heavy_ball", "momentum": 0.9}, {"optimizer": "sgd", "momentum": 0.9}),
    ({"optimizer": "my_adam", "lr": 1e-3}, {"optimizer": "adam", "lr": 1e-3}),
]
SECONDS = """
import sys, time
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native
registry.load(sys.argv[1])
component = registry.get(sys.argv[2], sys.argv[3])
begin = time.perf_counter()
native.compiled_for(component, native.kernel.INSTRUCTION_SETS[0], float(sys.argv[4]))
print(time.perf_counter() - begin)
"""


def random_split(n: int) -> Split:
    generator = np.random.default_rng(0)
    return Split(generator.uniform(-1, 1, (n, 16, 16)), generator.integers(0, 10, n))


def microseconds(trainer: Trainer, fields: dict, images: Split, replicas: int = 1) -> float:
    """Return the time of a step of one replica, in an epoch without evaluation."""
    recipe = Recipe(**{"lr": 0.003, **fields}, epochs=1)
    runs = [Run(recipe, seed) for seed in range(replicas)]
    begin = time.perf_counter()
    list(trainer.train(runs, images, {}))
    return 1e6 * (time.perf_counter() - begin) / (replicas * len(images))


def compilation(mine: Path, fields: dict, core: int) -> tuple[float, float]:
    """Return the seconds until a component can be called: the first time, and from the cache."""
    kind, name = next(
        item for item in fields.items() if item[0] in ("activation", "loss", "optimizer")
    )
    words = [str(mine), kind, name, str(fields.get("momentum", 0.0))]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}

        def seconds() -> float:
            done = subprocess.run(
                [sys.executable, "-c", SECONDS, *words],
                env=environment, capture_output=True, text=True, check=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )  # fmt: skip
            return float(done.stdout)

        return seconds(), seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds of turns (default: 15)")
    parser.add_argument("--core", type=int, default=0, help="the core to run on (default: 0)")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "mine.py"
        mine.write_text(MINE)
        registry.load(mine)
        own, builtin = NativeTrainer(1, own_components=True), NativeTrainer(1)
        slow = TorchTrainer(threads=1)
        images, few = random_split(PATTERNS), random_split(100)
        turns: list[dict[str, Callable[[], float]]] = [
            {
                "own": lambda f=fields: microseconds(own, f, images),
                "builtin": lambda f=like: microseconds(builtin, f, images),
                "torch": lambda f=fields: microseconds(slow, f, few, REPLICAS),
            }
            for fields, like in MATCHES
        ]
        for fields, _ in MATCHES:
            recipe = Recipe(**fields)
            for field in ("activation", "loss", "optimizer"):
                compiled_for(recipe.component(field), own.instruction_set, recipe.momentum)
        times: list[dict[str, list[float]]] = [{name: [] for name in t} for t in turns]
        for counted in range(options.rounds + 1):  # the first one warms up
            for turn, found in zip(turns, times, strict=True):
                for name, work in turn.items():
                    spent = work()
                    if counted:
                        found[name].append(spent)
        seconds = [compilation(mine, fields, options.core) for fields, _ in MATCHES]

    compiler = Compiler.find()
    print(
        f"{own.instruction_set}; {compiler.version if compiler else ''}; the kernel by "
        f"{kernel.COMPILER}; PyTorch {torch.__version__}; float32; medians of {options.rounds} "
        "rounds.\n"
    )
    print("| the user's | µs | beside | µs | × | torch, µs | × | first, s | again, s |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for (fields, like), found, (first, again) in zip(MATCHES, times, seconds, strict=True):
        middle = {name: statistics.median(values) for name, values in found.items()}
        ratio = statistics.median(
            a / b for a, b in zip(found["own"], found["builtin"], strict=True)
        )
        gain = statistics.median(a / b for a, b in zip(found["torch"], found["own"], strict=True))
        name, beside = (" ".join(str(v) for k, v in f.items() if k != "lr") for f in (fields, like))
        print(
            f"| {name} | {middle['own']:.2f} | {beside} | {middle['builtin']:.2f} | {ratio:.2f} | "
            f"{middle['torch']:.1f} | {gain:.1f} | {first:.2f} | {again:.3f} |"
        )


if __name__ == "__main__":
    main()
