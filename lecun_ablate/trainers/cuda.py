"""The CUDA trainer: hundreds of networks at once, a thread block each, an epoch per launch.

What runs the kernels is a launcher: lecun_ablate.cuda.gpu.Gpu, or in the tests the same source
compiled for the CPU. PyTorch holds the memory in either case, so all else here is the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda.compiler import ACTIVATIONS, LOSSES, PARAMETERS, Choices
from lecun_ablate.cuda.gpu import Gpu, availability
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.network import initial
from lecun_ablate.trainers.base import EpochReport, Identity, OnEpoch, Run, Scores, State
from lecun_ablate.trainers.download import download
from lecun_ablate.trainers.flat import flatten, tensors
from lecun_ablate.trainers.orders import Orders
from lecun_ablate.trainers.workers import Finish, reports_of

# Batches in flight: two, of half the networks that the GPU holds at a time, fill it; the third
# keeps it busy while the host reports an epoch of another. (So an epoch's seconds hold the time in
# which a batch waits for others.)
BATCHES = 3
IMAGES_PER_BLOCK = 32  # as in step.hpp


class Kernels(Protocol):
    """The two kernels of kernels.cu, for some choices."""

    @property
    def resident(self) -> int:
        """How many networks are trained at a time."""

    def train(self, networks: int, *arguments: Tensor | int) -> None:
        """Start `train` on one block per network."""

    def evaluate(self, blocks: int, *arguments: Tensor | int) -> None:
        """Start `evaluate` on one block per network and chunk of images."""


class Launcher(Protocol):
    """What runs the kernels."""

    torch_device: torch.device
    instruction_set: str

    def kernels(self, choices: Choices) -> Kernels:
        """Return the kernels for some choices, or raise LecunAblateError."""


class CudaTrainer:
    """Trains batches of runs that share what a kernel is compiled for.

    `threads` batches are in flight at a time. Raises ConfigError where the GPU cannot be used.
    """

    name = "cuda"
    device = "cuda"
    numerics = 2

    def __init__(self, launcher: Launcher | None = None, threads: int = BATCHES):
        if launcher is None:
            if absent := availability():
                raise ConfigError(f"the cuda trainer cannot run: {absent}")
            launcher = Gpu()
        self.launcher = launcher
        self.threads = threads
        self._making = threading.Lock()

    def identity(self) -> Identity:
        """Return what of the trainer decides a run's numbers; see trainers.base."""
        return Identity(self.name, self.device, self.launcher.instruction_set, self.numerics)

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return why the kernels cannot train a recipe, or None.

        Inits, connectivities, targets and orders are data to them, so any of these will do. The
        kernels are compiled here, if they have not been before: that may fail too.
        """
        known = {
            "activation": ACTIVATIONS,
            "output_activation": ACTIVATIONS,
            "loss": LOSSES,
            "optimizer": ("sgd",),
        }
        for field, names in known.items():
            component = recipe.component(field)
            if not component.builtin or component.name not in names:
                return f"the cuda trainer has no {component.kind} {component.name!r}"
        try:
            self.launcher.kernels(_choices(recipe))
        except LecunAblateError as error:
            return str(error)
        return None

    def train(
        self,
        runs: Sequence[Run],
        fit: Split,
        evaluate: Mapping[str, Split],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[EpochReport]:
        """Train runs on `fit`, scoring each on the splits of `evaluate`; see trainers.base."""
        for recipe in {run.recipe for run in runs}:
            if reason := self.unsupported(recipe):
                raise ConfigError(reason)
        place = self.launcher.torch_device
        data = {
            dtype: _Data(_Images.of(fit, dtype, place),
                         {name: _Images.of(s, dtype, place) for name, s in evaluate.items()})
            for dtype in {run.recipe.dtype for run in runs}
        }  # fmt: skip
        jobs = [
            partial(self._train_batch, members, [runs[i] for i in members],
                    data[runs[members[0]].recipe.dtype])
            for members in self._batches(runs)
        ]  # fmt: skip
        yield from reports_of(jobs, self.threads, on_epoch, "cuda-trainer")

    def _batches(self, runs: Sequence[Run]) -> list[list[int]]:
        """Split runs into batches for one launch each.

        A batch fills half the GPU at most, so that another works while the host reports on it; all
        of the GPU where no other is in flight.
        """
        alike: dict[Any, list[int]] = {}
        for index, run in enumerate(runs):
            begin = run.state.epoch if run.state else 0
            key = (_choices(run.recipe), begin, run.last_epoch)
            alike.setdefault(key, []).append(index)
        batches = []
        for (choices, *_), members in alike.items():
            most = max(1, self.launcher.kernels(choices).resident // min(2, self.threads))
            parts = -(-len(members) // most)
            batches += [part.tolist() for part in np.array_split(members, parts)]
        return batches

    def _train_batch(
        self, members: Sequence[int], runs: Sequence[Run], data: _Data, finish: Finish
    ) -> None:
        place = self.launcher.torch_device
        stream = torch.cuda.Stream(place) if place.type == "cuda" else None
        with torch.cuda.stream(stream) if stream else nullcontext():
            with self._making:  # one by one, so that the first starts while the next is drawn
                batch = _Batch(runs, self.launcher.kernels(_choices(runs[0].recipe)), data, place)
            begin = runs[0].state.epoch if runs[0].state else 0
            active = list(range(len(runs)))
            for epoch in range(begin + 1, runs[0].last_epoch + 1):
                began = time.perf_counter()
                batch.start_epoch(epoch, active)
                if epoch < runs[0].last_epoch:
                    batch.orders.draw_ahead(epoch + 1, active)
                results = batch.results()
                seconds = (time.perf_counter() - began) / len(active)
                going_on = []
                for i in active:
                    state, scores = results.of(i, epoch)
                    finite = all(np.isfinite(score.loss) for score in scores.values())
                    diverged = not (finite and np.isfinite(results.parameters[i]).all())
                    last = diverged or epoch == runs[i].last_epoch
                    report = EpochReport(members[i], epoch, scores, seconds, diverged, last, state)
                    if not finish(report):
                        going_on.append(i)
                active = going_on
                if not active:
                    return


def _choices(recipe: Recipe) -> Choices:
    return Choices(
        recipe.dtype, recipe.activation, recipe.output_activation, recipe.loss, recipe.momentum > 0
    )


@dataclass(frozen=True)
class _Images:
    """A split on the device."""

    images: Tensor  # (n, 16, 16)
    labels: Tensor  # (n,) int32
    split: Split

    @classmethod
    def of(cls, split: Split, dtype: str, place: torch.device) -> _Images:
        images = torch.tensor(split.images, dtype=getattr(torch, dtype), device=place)
        return cls(images, torch.tensor(split.labels, dtype=torch.int32, device=place), split)


@dataclass(frozen=True)
class _Data:
    """The splits that runs of one dtype train on and are scored on."""

    fit: _Images
    evaluate: Mapping[str, _Images]


@dataclass(frozen=True)
class _Results:
    """All that an epoch leaves behind, on the host; the networks come first."""

    parameters: np.ndarray  # (R, 10960)
    velocity: np.ndarray | None  # (R, 10960)
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]]  # (R, n) digits and (R, chunks) losses
    evaluate: Mapping[str, _Images]

    def of(self, i: int, epoch: int) -> tuple[State, dict[str, Scores]]:
        """Return the state and the scores of network i."""
        optimizer = {} if self.velocity is None else tensors(self.velocity[i], "velocity/")
        scores = {}
        for name, (digits, losses) in self.answers.items():
            labels = self.evaluate[name].split.labels
            misses = int((digits[i] != labels).sum())
            scores[name] = Scores(float(losses[i].sum() / len(labels)), misses, digits[i].copy())
        return State(epoch, tensors(self.parameters[i]), optimizer), scores


class _Batch:
    """Networks on the device that one launch advances."""

    def __init__(self, runs: Sequence[Run], kernels: Kernels, data: _Data, place: torch.device):
        self.runs = runs
        self.kernels = kernels
        self.data = data
        self.place = place
        recipe = runs[0].recipe
        flat = np.empty((len(runs), PARAMETERS), recipe.dtype)
        moving = np.zeros_like(flat) if recipe.momentum else None
        settings = np.zeros(len(runs), _settings_type(recipe.dtype))
        for i, run in enumerate(runs):
            if run.state is None:
                begin = initial.start(run.recipe, run.seed)
                seen, parameters = begin.connectivity, begin.parameters
            else:
                seen = initial.connectivity(run.recipe, run.seed)
                parameters = run.state.parameters
                if moving is not None and run.state.optimizer:
                    moving[i] = flatten(run.state.optimizer, recipe.dtype, "velocity/")
            flat[i] = flatten(parameters, recipe.dtype)
            targets = run.recipe.component("target")(torch.arange(10)).double().numpy()
            settings[i] = (targets, run.recipe.lr, run.recipe.momentum, run.recipe.padding, seen)
        self.orders = Orders(runs, len(data.fit.labels))
        self.parameters = self._upload(flat)
        self.velocity = None if moving is None else self._upload(moving)
        self.settings = self._upload(settings.view(np.uint8))
        self.answers = {
            name: (
                self._upload(np.zeros((len(runs), len(s.labels)), np.uint8)),
                self._upload(np.zeros((len(runs), -(-len(s.labels) // IMAGES_PER_BLOCK)))),
            )
            for name, s in data.evaluate.items()
        }

    def start_epoch(self, epoch: int, active: Sequence[int]) -> None:
        """Start an epoch of the active networks and their evaluations; wait for neither."""
        fit = self.data.fit
        orders, rows = self.orders.take(epoch, active)
        order_rows = self._upload(rows.astype(np.int32))
        self.kernels.train(
            len(self.runs),
            self.parameters,
            self.parameters if self.velocity is None else self.velocity,
            self.settings,
            fit.images,
            fit.labels,
            self._upload(orders.astype(np.int32)),
            order_rows,
            len(fit.labels),
        )
        for name, split in self.data.evaluate.items():
            digits, losses = self.answers[name]
            self.kernels.evaluate(
                losses.numel(),
                self.parameters,
                self.settings,
                split.images,
                split.labels,
                len(split.labels),
                order_rows,
                digits,
                losses,
            )

    def results(self) -> _Results:
        """Wait for what was started, and return it."""
        names = list(self.answers)
        arrays = [self.parameters, *(t for pair in self.answers.values() for t in pair)]
        if self.velocity is not None:
            arrays.append(self.velocity)
        found = download(arrays)
        velocity = None if self.velocity is None else found.pop()
        parameters, *rest = found
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return _Results(
            parameters, velocity, dict(zip(names, pairs, strict=True)), self.data.evaluate
        )

    def _upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.place)


def _settings_type(dtype: str) -> np.dtype:
    """Return the layout of Settings in step.hpp."""
    fields = [
        ("targets", "f8", (10, 10)),
        ("learning_rate", dtype),
        ("momentum", dtype),
        ("padding", dtype),
        ("connected", "?", (12, 12)),
    ]
    return np.dtype(fields, align=True)
