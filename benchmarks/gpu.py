"""How fast the trainers are on a GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --ingredients    each ingredient against plain gradient descent

Trains the notebook's recipe on random images of USPS's number and size (7,291 and 2,007; the
arithmetic is the same) and prints one table: the notebook's own loop on the GPU, the same network
batched by torch.func.vmap, which is what one would write for many seeds, the torch trainer with
and without CUDA graphs, and the cuda trainer. An epoch of a trainer is timed within one training
of 8 (of 32, where 8 are over before all replicas are at work), by the moments at which its reports
arrive while all are at work: the first epoch, with drawing, compiling and capturing, does not
count, nor does the end, where some have finished.
All batches of the cuda trainer are in flight for that, not three. Evaluation is what an epoch takes
longer with it than without. The steps of the torch trainer are timed on two parts of the images,
and what one takes more than the other goes for the rest. The last rows are no estimates: complete
runs of both trainers in float32, from the first draw to the last report, and those of the cuda
trainer again through the runner and an MLflow store. Takes 2 to 3 minutes; without a GPU it says so
and ends with status 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from tracking import experiment_seconds
from trainers import EPOCHS, RUN_FLOP, TEST, TRAIN, Notebook, part, random_split

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.network import initial
from lecun_ablate.trainers import cuda
from lecun_ablate.trainers.base import Run, State, Trainer
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.torch_trainer import GRAPH_STEPS, TorchTrainer

NO_DEVICE = 3
TIMED = (8, 32)  # epochs of a training by which one is timed: the second if the first is too short
CASES = (
    ("cuda", "float32", 132),
    ("cuda", "float32", 528),
    ("cuda", "float32", 1000),
    ("cuda", "float64", 264),
    ("torch, eager", "float32", 512),
    ("torch, graph", "float32", 128),
    ("torch, graph", "float32", 512),
    ("torch, graph", "float64", 512),
)
INGREDIENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "lr": 0.0003},
    "weight decay": {"weight_decay": 1e-4},
    "rmsprop": {"optimizer": "rmsprop", "lr": 1e-4},
    "lion": {"optimizer": "lion", "lr": 1e-5},
    "adamw": {"optimizer": "adamw", "lr": 1e-4},
    "adamw, average": {"optimizer": "adamw", "lr": 1e-4, "average": 0.999},
    "adamw, batches of 8": {"optimizer": "adamw", "lr": 1e-4, "batch_size": 8},
    "sdlm, per pass": {"optimizer": "sdlm", "lr": 1e-4},
    "sdlm, running": {"optimizer": "sdlm(estimate=running)", "lr": 1e-4},
    "dropout": {"dropout": 0.25},
    "shift": {"augmentation": "shift"},
}
REST = TRAIN % GRAPH_STEPS  # steps of an epoch that no graph holds
IMAGES = {  # that are trained on for a time
    "torch, eager": (40, 120),
    "torch, graph": (10 * GRAPH_STEPS + REST, 40 * GRAPH_STEPS + REST),
    "cuda": (TRAIN,),
}
# multiply-adds per clock of a multiprocessor, by compute capability: NVIDIA's CUDA C++ Programming
# Guide, "Throughput of native arithmetic instructions"
PER_CLOCK = {
    "float32": {(8, 0): 64, (9, 0): 128, (10, 0): 128},
    "float64": {(8, 0): 32, (9, 0): 64, (10, 0): 64},
}


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def notebook_run() -> float:
    """Return the seconds of one run of the notebook's loop, from 300 of its steps."""
    torch.set_default_device("cuda")
    try:
        images = torch.rand(300, 1, 16, 16, dtype=torch.float64) * 2 - 1
        targets = torch.nn.functional.one_hot(torch.randint(10, (300,)), 10).double()
        notebook = Notebook()
        notebook.fit(images[:50], targets[:50])
        step = seconds(lambda: notebook.fit(images, targets)) / len(images)
    finally:
        torch.set_default_device(None)
    return EPOCHS * TRAIN * step


def vmap_run(replicas: int) -> tuple[float, float]:
    """Return the seconds of runs batched by torch.func.vmap, in float32, and of evaluation in it.

    From 100 steps of all replicas, and one evaluation of 2,000 images.
    """
    torch.set_default_device("cuda")
    try:
        network = Notebook().float()
        parameters = {
            name: value.detach().expand(replicas, *value.shape).clone()
            for name, value in network.named_parameters()
        }
        images = torch.rand(100, 1, 1, 16, 16) * 2 - 1
        targets = torch.nn.functional.one_hot(torch.randint(10, (100, 1)), 10).float()

        def outputs(own: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(network, own, (batch,))

        def loss(own, image, target):
            return torch.mean((outputs(own, image) - target) ** 2)

        gradients = torch.func.vmap(torch.func.grad(loss), (0, None, None))

        def fit(steps: int) -> None:
            for image, target in zip(images[:steps], targets[:steps], strict=True):
                for name, gradient in gradients(parameters, image, target).items():
                    parameters[name] -= 0.03 * gradient

        @torch.no_grad()
        def evaluate() -> None:
            for batch in (torch.rand(2000, 1, 16, 16) * 2 - 1).split(200):
                torch.func.vmap(outputs, (0, None))(parameters, batch)

        fit(20)
        evaluate()
        step, evaluation = seconds(lambda: fit(100)) / 100, seconds(evaluate) / 2000
    finally:
        torch.set_default_device(None)
    evaluation *= TRAIN + TEST
    epoch = TRAIN * step + evaluation
    return EPOCHS * epoch, evaluation / epoch


def complete(
    trainer: Trainer, dtype: str, replicas: int, fit: Split, splits: dict[str, Split]
) -> float:
    """Return the seconds of complete runs, from the first draw of weights to the last report."""
    return seconds(lambda: moments(trainer, runs_of(dtype, replicas, EPOCHS), fit, splits))


def runs_of(
    dtype: str, replicas: int, epochs: int, state: State | None = None, **fields: Any
) -> list[Run]:
    gentle = {"lr": 0.003} | fields  # the labels are random
    recipe = Recipe(dtype=dtype, epochs=epochs, **gentle)
    return [Run(recipe, seed, state) for seed in range(replicas)]


def moments(trainer: Trainer, runs: list[Run], fit: Split, splits: dict[str, Split]) -> np.ndarray:
    """Return when the reports of a training arrive, in seconds: (runs, epochs)."""
    found = np.full((len(runs), runs[0].last_epoch), np.nan)
    for report in trainer.train(runs, fit, splits):
        if report.diverged:
            raise RuntimeError("a run diverged: its time would mean nothing")
        found[report.index, report.epoch - 1] = time.perf_counter()
    return found


def epoch_seconds(arrived: np.ndarray) -> float | None:
    """Return the seconds of an epoch of all runs, from the moments of their reports.

    While all are at work, from the last report of a first epoch to the first of a last one, so many
    epochs of each are done, parts of one included. None if they never were.
    arrived: (runs, epochs), as of `moments`.
    """
    begin, end = arrived[:, 0].max(), arrived[:, -1].min()
    if end <= begin:
        return None
    done = [np.diff(np.interp((begin, end), own, np.arange(len(own)))) for own in arrived]
    return float((end - begin) / np.mean(done))


def epoch_of(
    trainer: Trainer, dtype: str, replicas: int, images: tuple[int, ...]
) -> tuple[float, float]:
    """Return the seconds of an epoch's training, and of its evaluation on both splits."""
    whole = {"train": random_split(TRAIN, 0), "test": random_split(TEST, 1)}
    # from the same weights: to draw each run's would take longer than an epoch
    state = State(0, initial.start(Recipe(), 0).parameters)

    def epoch(n: int, splits: dict[str, Split]) -> float:
        fit = part(whole["train"], n / TRAIN)
        return one_epoch(trainer, lambda e: runs_of(dtype, replicas, e, state), fit, splits)

    few, *_ = images
    evaluation = epoch(few, whole) - (first := epoch(few, {}))
    if len(images) == 1:
        return first, evaluation
    many = images[1]
    last = epoch(many, {})
    return last + (TRAIN - many) * (last - first) / (many - few), evaluation


def one_epoch(
    trainer: Trainer,
    runs: Callable[[int], list[Run]],
    fit: Split,
    splits: dict[str, Split],
) -> float:
    """Return the seconds of an epoch of `runs(epochs)`, from as few epochs as tell."""
    for epochs in TIMED:
        if found := epoch_seconds(moments(trainer, runs(epochs), fit, splits)):
            return found
    raise RuntimeError("the runs were never all at work: an epoch's time is not known")


def ingredients() -> None:
    """Print what an epoch's training takes with each ingredient, networks that fill the GPU."""
    replicas, fit = 264, random_split(TRAIN, 0)
    state = State(0, initial.start(Recipe(), 0).parameters)
    trainer = CudaTrainer(threads=replicas)  # none waits for one
    print(f"| ingredient, {replicas} networks, float32 | ms per epoch | × plain |")
    print("|---|---:|---:|", flush=True)
    plain = None
    for name, fields in INGREDIENTS.items():
        own = partial(runs_of, "float32", replicas, state=state, **fields)
        epoch = one_epoch(trainer, own, fit, {})
        plain = plain or epoch
        print(f"| {name} | {epoch * 1e3:.0f} | {epoch / plain:.2f} |", flush=True)


def peak_flops(dtype: str) -> float | None:
    """Return the FLOP/s of the ordinary cores at the GPU's highest clock, or None if unknown."""
    from cuda.core import Device

    properties = Device(0).properties
    per_clock = PER_CLOCK[dtype].get(torch.cuda.get_device_capability())
    if per_clock is None:
        return None
    return 2 * per_clock * properties.multiprocessor_count * properties.clock_rate * 1e3  # kHz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ingredients", action="store_true", help="only these")
    options = parser.parse_args()
    if absent := cuda.availability():
        print(f"This needs a GPU: {absent}.", file=sys.stderr)
        return NO_DEVICE
    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}; "
        f"random images, {TRAIN:,} and {TEST:,}, {EPOCHS} epochs.\n"
    )
    if options.ingredients:
        ingredients()
        return 0
    print(
        "| trainer | dtype | replicas | s for all | runs per s | × the loop | of the FMA peak | "
        "in evaluation |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    peaks = {dtype: peak_flops(dtype) for dtype in PER_CLOCK}
    loop = notebook_run()

    def row(name: str, dtype: str, replicas: int, total: float, evaluation: float | None) -> None:
        rate, peak = replicas / total, peaks[dtype]
        print(
            f"| {name} | {dtype} | {replicas} | {total:.1f} | {rate:.3g} | {loop * rate:.0f} | "
            f"{f'{rate * RUN_FLOP / peak:.1%}' if peak else ''} | "
            f"{'' if evaluation is None else f'{evaluation:.0%}'} |",
            flush=True,
        )

    row("the notebook's loop", "float64", 1, loop, None)
    row("torch.func.vmap", "float32", 512, *vmap_run(512))
    trainers = {
        "torch, eager": TorchTrainer("cuda", graph_steps=0),
        "torch, graph": TorchTrainer("cuda"),
        "cuda": CudaTrainer(threads=max(replicas for *_, replicas in CASES)),  # none waits for one
    }
    for name, dtype, replicas in CASES:
        training, evaluation = epoch_of(trainers[name], dtype, replicas, IMAGES[name])
        total = EPOCHS * (training + evaluation)
        row(name, dtype, replicas, total, evaluation / (training + evaluation))
    whole = {"train": random_split(TRAIN, 0), "test": random_split(TEST, 1)}
    total = complete(CudaTrainer(), "float32", 1000, whole["train"], whole)
    row("cuda, all of it", "float32", 1000, total, None)
    tracked = experiment_seconds(CudaTrainer(), 1000, Recipe(lr=0.003))
    row("cuda, with tracking", "float32", 1000, tracked, None)
    slow = complete(TorchTrainer("cuda"), "float32", 512, whole["train"], whole)
    row("torch, all of it", "float32", 512, slow, None)
    print(f"\nTracking 1,000 runs takes {tracked - total:.1f} s more than training them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
