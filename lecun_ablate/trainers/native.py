"""The native trainer: the compiled kernel of lecun_ablate/native, one run per CPU core."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from lecun_ablate.config.recipe import ADDED, Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.network.initial import pattern_order
from lecun_ablate.network.reference import predictions
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.trainers.base import EpochReport, Identity, OnEpoch, Run, Scores, State
from lecun_ablate.trainers.flat import flatten, tensors
from lecun_ablate.trainers.shared import (
    begin,
    epoch_report,
    refuse_unsupported,
    targets,
    unknown_component,
    unknown_field,
)
from lecun_ablate.trainers.workers import Finish, Job, reports_of

try:
    from lecun_ablate.trainers import _native as kernel  # type: ignore[attr-defined]
except ImportError as error:
    kernel = None
    if find_spec("lecun_ablate.trainers._native"):
        _missing = f"the compiled kernel cannot be loaded: {error}"
    else:
        _missing = "no C++ compiler built it when the package was installed"


def availability() -> str | None:
    """Return why the compiled kernel cannot be used here, or None if it can."""
    return _missing if kernel is None else None


class NativeTrainer:
    """Trains each run alone, as many runs at a time as there are threads.

    `instruction_set` is one of those that the CPU has ("avx512", "avx2", "baseline" or "neon"),
    by default the fastest. Between instruction sets, results differ in rounding.
    Raises ConfigError if the kernel or the instruction set is missing.
    """

    name = "native"
    device = "cpu"

    def __init__(self, threads: int | None = None, instruction_set: str | None = None):
        if kernel is None:
            raise ConfigError(f"the native trainer cannot run: {_missing}")
        if instruction_set is not None and instruction_set not in kernel.INSTRUCTION_SETS:
            raise ConfigError(
                f"instruction set {instruction_set!r} is not available: "
                f"{nearest(instruction_set, kernel.INSTRUCTION_SETS)}"
            )
        self.threads = threads or usable_cores()
        self.instruction_set = instruction_set or kernel.INSTRUCTION_SETS[0]

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers; see trainers.base."""
        return Identity(self.name, self.device, self.instruction_set, 2)

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return the component of a recipe that the kernel does not know, or None.

        Inits, connectivities, targets and orders are data to it, so any of these will do.
        """
        known = {
            "activation": kernel.ACTIVATIONS,
            "output_activation": kernel.ACTIVATIONS,
            "loss": kernel.LOSSES,
            "optimizer": ["sgd"],
        }
        return unknown_component(self.name, recipe, known) or unknown_field(
            self.name, recipe, ADDED
        )

    def train(
        self,
        runs: Sequence[Run],
        fit: Split,
        evaluate: Mapping[str, Split],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[EpochReport]:
        """Train runs on `fit`, scoring each on the splits of `evaluate`; see trainers.base."""
        refuse_unsupported(self, (run.recipe for run in runs))
        splits = {
            dtype: (_convert(fit, dtype), {n: _convert(s, dtype) for n, s in evaluate.items()})
            for dtype in {run.recipe.dtype for run in runs}
        }

        def job(index: int, run: Run) -> Job:
            return lambda finish: self._train(index, run, *splits[run.recipe.dtype], finish)

        jobs = [job(index, run) for index, run in enumerate(runs)]
        yield from reports_of(jobs, self.threads, on_epoch, "native-trainer")

    def _train(
        self, index: int, run: Run, fit: Split, evaluate: Mapping[str, Split], finish: Finish
    ) -> None:
        """Train one run until `finish` says that it ends."""
        recipe = run.recipe
        connected, state = begin(run)
        parameters = flatten(state.parameters, recipe.dtype)
        velocity = None
        if recipe.momentum:
            velocity = np.zeros_like(parameters)
            if state.optimizer:
                velocity = flatten(state.optimizer, recipe.dtype, "velocity/")
        choices = kernel.Choices(
            recipe.activation,
            recipe.output_activation,
            recipe.loss,
            recipe.lr,
            recipe.momentum,
            recipe.padding,
            targets(recipe),
            connected,
        )
        for epoch in range(run.first_epoch, run.last_epoch + 1):
            began = time.perf_counter()
            order = pattern_order(recipe, run.seed, epoch, len(fit)).numpy()
            kernel.train(
                self.instruction_set, choices, parameters, velocity, fit.images, fit.labels, order
            )
            scores = {
                name: self._scores(choices, parameters, split) for name, split in evaluate.items()
            }
            optimizer = {} if velocity is None else tensors(velocity, "velocity/")
            state = State(epoch, tensors(parameters), optimizer)
            seconds = time.perf_counter() - began
            if finish(epoch_report(index, run, state, scores, seconds)):
                return

    def _scores(self, choices: Any, parameters: np.ndarray, split: Split) -> Scores:
        outputs = np.empty((len(split), 10), parameters.dtype)
        loss = kernel.evaluate(
            self.instruction_set, choices, parameters, split.images, split.labels, outputs
        )
        answers = predictions(outputs)
        return Scores(loss, int((answers != split.labels).sum()), answers)


def _convert(split: Split, dtype: str) -> Split:
    """Return a split as the kernel reads it: (n, 16, 16) in `dtype`, labels int64."""
    return Split(
        np.ascontiguousarray(split.images, dtype), np.ascontiguousarray(split.labels, np.int64)
    )
