"""The first thing to know of the CUDA trainer on a GPU: is it right, and how fast is it?

    python scripts/gpu_first_number.py --machine    the GPU, its driver, the versions of what counts
    python scripts/gpu_first_number.py              1,000 runs of 2 epochs, in about a minute

The runs are those of the notebook's recipe on random images of USPS's number and size, scored on
both splits after each epoch. Three of them are compared, bit for bit, with the same kernels
compiled for the CPU, which takes a C++ compiler. Exit status: 1 where bits differ, 3 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda.gpu import availability
from lecun_ablate.trainers.base import EpochReport, Run, Trainer
from lecun_ablate.trainers.cuda import CudaTrainer

ROOT = Path(__file__).parent.parent
RUNS, EPOCHS, COMPARED = 1000, 2, (0, 499, 999)
DIFFERENT, NO_GPU = 1, 3


def machine() -> str:
    """Return what a reader of the figures must know of the machine."""
    lines = [f"Python {platform.python_version()}"]
    if command := shutil.which("nvidia-smi"):
        asked = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        done = subprocess.run(
            [command, asked, "--format=csv"], capture_output=True, text=True, check=False
        )
        lines.insert(0, done.stdout.strip())
    packages = ("torch", "numpy", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc")
    for package in packages:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} not installed")
    lines.append(f"cuda trainer: {availability() or 'available'}")
    lines.append(f"torch trainer on CUDA: {'available' if torch.cuda.is_available() else 'no'}")
    return "\n".join(lines)


def bits(report: EpochReport) -> bytes:
    """Return a run's weights and answers after an epoch, as bytes."""
    parts = [t.tobytes() for t in report.state.parameters.values()]
    for score in report.scores.values():
        parts += [score.predictions.tobytes(), np.float64(score.loss).tobytes()]
    return b"".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--machine", action="store_true", help="print the versions, train nothing")
    options = parser.parse_args()
    if options.machine:
        print(machine())
    if absent := availability():
        print(f"This needs a GPU: {absent}.", file=sys.stderr)
        return NO_GPU
    if options.machine:
        return 0

    sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    from cuda_on_cpu import COMPILER, Cpu
    from trainers import TEST, TRAIN, random_split

    train, test = random_split(TRAIN, 0), random_split(TEST, 1)
    splits = {"train": train, "test": test}
    recipe = Recipe(lr=0.003, epochs=EPOCHS)  # the labels are random: learn gently

    def trained(trainer: Trainer, seeds: list[int]) -> tuple[dict[int, bytes], float]:
        """Return the bits of some runs after their last epoch, and the seconds of the last one."""
        found, ends = {}, [0.0] * EPOCHS
        for report in trainer.train([Run(recipe, seed) for seed in seeds], train, splits):
            ends[report.epoch - 1] = time.perf_counter()
            if report.last and seeds[report.index] in COMPARED:
                found[seeds[report.index]] = bits(report)
        return found, ends[1] - ends[0]

    trainer = CudaTrainer()
    began = time.perf_counter()
    on_gpu, _ = trained(trainer, list(range(RUNS)))
    first = time.perf_counter() - began
    began = time.perf_counter()
    trained(trainer, list(range(RUNS)))
    print(
        f"{RUNS:,} runs x {EPOCHS} epochs on {torch.cuda.get_device_name()}: {first:.2f} s with "
        f"compilation, {time.perf_counter() - began:.2f} s without"
    )
    if COMPILER is None:
        print("No C++ compiler: the bits are not compared.")
        return 0
    on_cpu, _ = trained(CudaTrainer(Cpu()), list(COMPARED))
    same = [seed for seed in COMPARED if on_gpu[seed] == on_cpu[seed]]
    print(f"{len(same)} of {len(COMPARED)} runs have the bits of the CPU build")
    return 0 if len(same) == len(COMPARED) else DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
