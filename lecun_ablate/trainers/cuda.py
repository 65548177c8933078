"""The CUDA trainer: hundreds of networks at once, a thread block each, an epoch per launch.

What runs the kernels is a launcher: lecun_ablate.cuda.gpu.Gpu, or in the tests the same source
compiled for the CPU. PyTorch holds the memory in either case, so all else here is the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.compiled.component import compiled
from lecun_ablate.compiled.device import ON_CPU, device_source
from lecun_ablate.compiled.library import Compiled, CompiledOptimizer
from lecun_ablate.compiled.optimizer import Slot
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda.compiler import ACTIVATIONS, LOSSES, OPTIMIZERS, OWN, PAIRS, Choices
from lecun_ablate.cuda.gpu import Gpu, availability
from lecun_ablate.cuda.method import method_of, method_type, method_values, powers_after, rates
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.network import initial
from lecun_ablate.network.epoch import (
    H3_INPUTS,
    augmented,
    dropout_masks,
    learning_rates,
    smoothed,
)
from lecun_ablate.network.initial import PARAMETERS
from lecun_ablate.parameters import Value
from lecun_ablate.registry import Component
from lecun_ablate.trainers.base import (
    AVERAGE,
    CURVATURE,
    EpochReport,
    Identity,
    OnEpoch,
    Run,
    Scores,
    State,
)
from lecun_ablate.trainers.download import download
from lecun_ablate.trainers.flat import flatten, tensors
from lecun_ablate.trainers.orders import Orders
from lecun_ablate.trainers.own_state import OwnState
from lecun_ablate.trainers.shared import (
    COMPILED_FIELDS,
    POWERS,
    begin,
    epoch_report,
    leak,
    refuse_unsupported,
    slots,
    targets,
    uncompilable,
    unknown_component,
)
from lecun_ablate.trainers.workers import Finish, reports_of

# Batches in flight: two, of half the networks that the GPU holds at a time, fill it; the third
# keeps it busy while the host reports an epoch of another. (So an epoch's seconds hold the time in
# which a batch waits for others.)
BATCHES = 3
IMAGES_PER_BLOCK = 32  # as in step.hpp
CONNECTION_BYTES = 458  # of Connections in step.hpp
MOST_SINGLES = 16  # as in step.hpp
# COMPILED_FIELDS in the words of compiled/device.py
OWN_FIELDS = ("hidden", "output", "loss", "optimizer")


class Kernels(Protocol):
    """The two kernels of kernels.cu, for some choices; `pairs` is one of PAIRS."""

    def resident(self, pairs: int) -> int:
        """Return how many networks are trained at a time."""

    def train(self, networks: int, pairs: int, *arguments: Tensor | int) -> None:
        """Start the kernel that trains on one block per network."""

    def evaluate(self, blocks: int, pairs: int, *arguments: Tensor | int) -> None:
        """Start `evaluate` on one block per network and chunk of images."""


class Launcher(Protocol):
    """What runs the kernels."""

    torch_device: torch.device
    instruction_set: str
    compiler: str

    def kernels(self, choices: Choices, pairs: int) -> Kernels:
        """Return the kernels for some choices, or raise LecunAblateError."""


class CudaTrainer:
    """Trains batches of runs that share what a kernel is compiled for.

    `threads` batches are in flight at a time. With `own_components`, it compiles components of the
    user's own; the compiler is part of its identity then. Raises ConfigError where the GPU cannot
    be used.
    """

    name = "cuda"
    device = "cuda"
    together = 1024  # fills the largest GPUs, all batches in flight
    numerics = 3

    def __init__(
        self,
        launcher: Launcher | None = None,
        threads: int = BATCHES,
        own_components: bool = False,
    ):
        if launcher is None:
            if absent := availability():
                raise ConfigError(f"the cuda trainer cannot run: {absent}")
            launcher = Gpu()
        self.launcher = launcher
        self.threads = threads
        self.own_components = own_components
        self._making = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # another machine has a GPU of its own, and compiles for it
        launcher = None if isinstance(self.launcher, Gpu) else self.launcher
        return CudaTrainer, (launcher, self.threads, self.own_components)

    def identity(self) -> Identity:
        """Return what of the trainer decides a run's numbers; see trainers.base."""
        version = self.launcher.compiler if self.own_components else ""
        chip = self.launcher.instruction_set
        return Identity(self.name, self.device, chip, self.numerics, version)

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return why the kernels cannot train a recipe, or None.

        Inits, connectivities, targets, orders, schedules and augmentations are data to them, so any
        of these will do. The kernels are compiled here, if they have not been before: that may fail
        too. So may a network that takes too much of the GPU's memory; a connectivity that depends
        on the seed is judged by seed 0.
        """
        if self.own_components:
            reason = uncompilable_there(recipe)
        else:
            names = (ACTIVATIONS, ACTIVATIONS, LOSSES, OPTIMIZERS)
            known = dict(zip(COMPILED_FIELDS, names, strict=True))
            reason = unknown_component(self.name, recipe, known)
        if reason:
            return reason
        try:
            self.launcher.kernels(_choices(recipe), _pairs(Run(recipe, seed=0)))
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
        refuse_unsupported(self, {run.recipe for run in runs})
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
            key = (_choices(run.recipe), _pairs(run), run.first_epoch, run.last_epoch,
                   _launched_alike(run.recipe))  # fmt: skip
            alike.setdefault(key, []).append(index)
        batches = []
        for (choices, pairs, *_), members in alike.items():
            resident = self.launcher.kernels(choices, pairs).resident(pairs)
            most = max(1, resident // min(2, self.threads))
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
                batch = _Batch(runs, self.launcher, data)
            active = list(range(len(runs)))
            for epoch in range(runs[0].first_epoch, runs[0].last_epoch + 1):
                began = time.perf_counter()
                batch.start_epoch(epoch, active)
                if epoch < runs[0].last_epoch:
                    batch.orders.draw_ahead(epoch + 1, active)
                results = batch.results()
                seconds = (time.perf_counter() - began) / len(active)
                going_on = []
                for i in active:
                    state, scores = results.of(i, epoch)
                    report = epoch_report(members[i], runs[i], state, scores, seconds)
                    if not finish(report):
                        going_on.append(i)
                active = going_on
                if not active:
                    return


def _pairs(run: Run) -> int:
    """Return the least of PAIRS that holds all pairs of planes that a run connects."""
    seen = initial.connectivity(run.recipe, run.seed)
    return next(most for most in PAIRS if seen.sum() <= most)


def _choices(recipe: Recipe) -> Choices:
    method = method_of(recipe)
    components = [recipe.component(field) for field in COMPILED_FIELDS]
    hidden, output, loss, _ = (c.name if c.builtin else OWN for c in components)
    made = [_compiled(component, recipe.momentum) for component in components]
    own = device_source(dict(zip(OWN_FIELDS, made, strict=True)), recipe.dtype)
    momentum = recipe.momentum > 0 and method is None
    return Choices(recipe.dtype, hidden, output, loss, momentum, method, own)


def _compiled(component: Component, momentum: float) -> Compiled | None:
    """Return a component of the user's, compiled for a CPU as for a GPU; None for a built-in.

    Raises Refused, with the reason, if it cannot be compiled.
    """
    return None if component.builtin else compiled(component, ON_CPU, momentum)


def uncompilable_there(recipe: Recipe) -> str | None:
    """Return why components of the user's in a recipe cannot be compiled for a GPU, or None."""
    return uncompilable("cuda", recipe, _compiled)


def _own_slots(recipe: Recipe) -> tuple[Slot, ...]:
    """Return what an optimizer of the user's keeps; nothing for a built-in."""
    own = _compiled(recipe.component("optimizer"), recipe.momentum)
    return own.slots[recipe.dtype] if isinstance(own, CompiledOptimizer) else ()


def _launched_alike(recipe: Recipe) -> tuple[Any, ...]:
    """Return what else must be the same for networks of a launch: which arrays there are."""
    return (
        recipe.augmentation != "none",
        recipe.dropout > 0,
        recipe.average > 0,
        recipe.batch_size,
        slots(recipe),
        _estimate(recipe),
    )


def _estimate(recipe: Recipe) -> Value | None:
    """Return how the curvature of sdlm is estimated; None for other optimizers."""
    optimizer = recipe.component("optimizer")
    return optimizer.values.get("estimate") if optimizer.builtin else None


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

    parameters: np.ndarray  # (R, PARAMETERS)
    kept: Mapping[str, np.ndarray]  # by slot of a state, (R, PARAMETERS) each
    powers: np.ndarray | None  # (R, 2), those of POWERS
    own: Sequence[OwnState]  # of each network
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]]  # (R, n) digits and (R, chunks) losses
    evaluate: Mapping[str, _Images]

    def of(self, i: int, epoch: int) -> tuple[State, dict[str, Scores]]:
        """Return the state and the scores of network i."""
        optimizer: dict[str, np.ndarray] = {}
        for slot, values in self.kept.items():
            optimizer |= tensors(values[i], f"{slot}/")
        if self.powers is not None:
            optimizer |= {name: self.powers[i, [k]] for k, name in enumerate(POWERS)}
        optimizer |= self.own[i].stored()
        scores = {}
        for name, (digits, losses) in self.answers.items():
            labels = self.evaluate[name].split.labels
            misses = int((digits[i] != labels).sum())
            loss = float(losses[i].sum() / len(labels))
            scores[name] = Scores(loss, misses, len(labels), digits[i].copy())
        return State(epoch, tensors(self.parameters[i]), optimizer), scores


class _Batch:
    """Networks on the device that one launch advances."""

    def __init__(self, runs: Sequence[Run], launcher: Launcher, data: _Data):
        self.runs = runs
        self.pairs = _pairs(runs[0])
        self.data = data
        self.place = launcher.torch_device
        recipe = runs[0].recipe
        self.method = method_of(recipe)
        self.kernels = launcher.kernels(_choices(recipe), self.pairs)
        first, second = slots(recipe)
        curvature = CURVATURE if self.method == "sdlm" else None
        self.slots = (first, second, curvature, AVERAGE if recipe.average else None)
        self.running = _estimate(recipe) == "running"
        flat = np.empty((len(runs), PARAMETERS), recipe.dtype)
        kept = {slot: np.zeros_like(flat) for slot in self.slots if slot}
        settings = np.zeros((2, len(runs)), _settings_type(recipe.dtype))  # to train and to score
        self.powers = np.ones((len(runs), 2)) if self.method in ("adam", "adamw") else None
        own_slots = _own_slots(recipe)
        self.own: list[OwnState] = []  # of each network; without slots for a built-in optimizer
        self.estimated = np.zeros(len(runs), bool)  # whether there is a curvature to go on with
        for i, run in enumerate(runs):
            seen, state = begin(run)
            flat[i] = flatten(state.parameters, recipe.dtype)
            for slot, values in kept.items():
                if f"{slot}/h1_weight" in state.optimizer:
                    values[i] = flatten(state.optimizer, recipe.dtype, f"{slot}/")
                elif slot == AVERAGE:
                    values[i] = flat[i]
            if self.powers is not None and POWERS[0] in state.optimizer:
                self.powers[i] = [state.optimizer[name].item() for name in POWERS]
            self.estimated[i] = self.running and f"{CURVATURE}/h1_weight" in state.optimizer
            self.own.append(OwnState.of(own_slots, state, recipe.dtype))
            settings[:, i] = _settings(run.recipe, seen)
            wanted = torch.from_numpy(targets(run.recipe))
            settings["targets"][0, i] = smoothed(run.recipe, wanted).numpy()
        self.orders = Orders(runs, len(data.fit.labels))
        self.parameters = self._upload(flat)
        self.kept = {slot: self._upload(values) for slot, values in kept.items()}
        self.own_settings = settings[0]
        self.training, self.scoring = (self._upload(part.view(np.uint8)) for part in settings)
        self.nothing = torch.empty(0, device=self.place)  # a null pointer to a kernel
        if self.method is not None:
            self._make_room()
        self.images, self.masks = data.fit.images, self.nothing
        if recipe.augmentation != "none":
            self.images = torch.empty(
                len(runs), *data.fit.images.shape, dtype=self.images.dtype, device=self.place
            )
        if recipe.dropout:
            shape = (len(runs), len(data.fit.labels), H3_INPUTS)
            self.masks = torch.empty(shape, dtype=torch.uint8, device=self.place)
        self.answers = {
            name: (
                self._upload(np.zeros((len(runs), len(s.labels)), np.uint8)),
                self._upload(np.zeros((len(runs), -(-len(s.labels) // IMAGES_PER_BLOCK)))),
            )
            for name, s in data.evaluate.items()
        }

    def _make_room(self) -> None:
        """Make what only a method's steps need: what an optimizer of the user's keeps, and scratch.

        In the scratch, the kernel has all states in an order of its own.
        """
        networks, own = len(self.runs), self.own[0]
        self.own_weights = self._upload(np.stack([o.weights for o in self.own]))
        numbers = np.zeros((networks, 2 * len(own.numbers) + MOST_SINGLES))
        numbers[:, : len(own.numbers)] = [o.numbers for o in self.own]
        self.own_numbers = self._upload(numbers)
        shape = (networks, len(self.kept) + len(own.weights), PARAMETERS)
        self.scratch = torch.zeros(shape, dtype=self.parameters.dtype, device=self.place)

    def start_epoch(self, epoch: int, active: Sequence[int]) -> None:
        """Start an epoch of the active networks and their evaluations; wait for neither."""
        orders, rows = self.orders.take(epoch, active)
        order_rows = self._upload(rows.astype(np.int32))
        self._show(epoch, active)
        own = len(self.data.fit.labels) if self.images.ndim > 3 else 0
        shown = (self.images, self.data.fit.labels)
        in_order = (self._upload(orders.astype(np.int32)), order_rows, len(self.data.fit.labels))
        if self.method is None:
            self._set_rates(epoch)
            velocity = self.kept.get("velocity", self.parameters)
            told: tuple[Tensor | int, ...] = (self.parameters, velocity, self.training)
            told += shown
        else:
            kept = (self.kept[slot] if slot else self.nothing for slot in self.slots)
            told = (self.parameters, *kept, self.own_weights, self.scratch, self.own_numbers)
            told += (self.training,)
            told += (*self._methods(epoch, active), *shown, self.masks)
        self.kernels.train(len(self.runs), self.pairs, *told, *in_order, own)
        for name, split in self.data.evaluate.items():
            digits, losses = self.answers[name]
            self.kernels.evaluate(
                losses.numel(),
                self.pairs,
                self.kept.get(AVERAGE, self.parameters),
                self.scoring,
                split.images,
                split.labels,
                len(split.labels),
                order_rows,
                digits,
                losses,
            )

    def _show(self, epoch: int, active: Sequence[int]) -> None:
        """Put in place what the active networks are shown of the epoch's patterns."""
        fit = self.data.fit
        for i in active:
            recipe, seed = self.runs[i].recipe, self.runs[i].seed
            if self.images.ndim > 3:
                images = torch.tensor(fit.split.images, dtype=self.images.dtype)
                self.images[i] = augmented(recipe, seed, epoch, images)
            masks = dropout_masks(recipe, seed, epoch, len(fit.labels))
            if masks is not None:
                self.masks[i] = torch.from_numpy(masks.view(np.uint8))

    def _set_rates(self, epoch: int) -> None:
        """Give every network the rate of an epoch."""
        if all(run.recipe.schedule == "constant" for run in self.runs):
            return
        for own, run in zip(self.own_settings, self.runs, strict=True):
            own["learning_rate"] = learning_rates(run.recipe, epoch, 1)[0]
        self.training = self._upload(self.own_settings.view(np.uint8))

    def _methods(self, epoch: int, active: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the networks' methods, the different rates of an epoch, and who has which."""
        n = len(self.data.fit.labels)
        methods = np.zeros(len(self.runs), method_type(self.runs[0].recipe.dtype))
        rows: dict[Any, int] = {}
        tables: list[np.ndarray] = []
        row_of = np.zeros(len(self.runs), np.int32)
        for i in active:
            recipe = self.runs[i].recipe
            own, estimate = self.own[i], not self.estimated[i]
            methods[i] = method_values(recipe, n, estimate, own.fresh)
            own.fresh = False
            powers = () if self.powers is None else tuple(self.powers[i])
            row_of[i] = rows.setdefault((recipe, powers), len(tables))
            if row_of[i] == len(tables):
                tables.append(rates(recipe, epoch, n, powers))
            if self.powers is not None:
                self.powers[i] = powers_after(recipe, n, powers)
        if self.running:
            self.estimated[list(active)] = True
        table = self._upload(np.stack(tables))
        return self._upload(methods.view(np.uint8)), table, self._upload(row_of)

    def results(self) -> _Results:
        """Wait for what was started, and return it."""
        names = list(self.answers)
        # a curvature that is not running is estimated anew before every epoch
        kept = {s: t for s, t in self.kept.items() if s != CURVATURE or self.running}
        answers = [tensor for pair in self.answers.values() for tensor in pair]
        kept_own = [self.own_weights, self.own_numbers] if self.own[0].slots else []
        parameters, *rest = download([self.parameters, *kept_own, *kept.values(), *answers])
        own = list(self.own)
        if kept_own:
            own = [
                replace(before, weights=weights, numbers=numbers[: len(before.numbers)])
                for before, weights, numbers in zip(own, *rest[:2], strict=True)
            ]
        rest = rest[len(kept_own) :]
        states, rest = dict(zip(kept, rest, strict=False)), rest[len(kept) :]
        pairs = dict(zip(names, zip(rest[::2], rest[1::2], strict=True), strict=True))
        powers = None if self.powers is None else self.powers.copy()
        return _Results(parameters, states, powers, own, pairs, self.data.evaluate)

    def _upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.place)


def _connections(seen: np.ndarray) -> np.ndarray:
    """Return Connections of step.hpp as bytes. seen: (12, 12) bool, [H2 plane, H1 plane]."""
    h1, h2 = np.nonzero(seen.T)  # sorted by the plane of H1
    by_h2 = np.argsort(h2, kind="stable")
    first_of_h1 = np.append(0, np.cumsum(seen.sum(0)))
    first_of_h2 = np.append(0, np.cumsum(seen.sum(1)))
    whole = [np.pad(part, (0, seen.size - len(h1))) for part in (h1, h2, by_h2)]
    return np.concatenate([*whole, first_of_h1, first_of_h2]).astype(np.uint8)


def _settings(recipe: Recipe, seen: np.ndarray) -> tuple[Any, ...]:
    """Return Settings of step.hpp."""
    return (
        targets(recipe),
        recipe.lr,
        recipe.momentum,
        recipe.padding,
        leak(recipe, "activation"),
        leak(recipe, "output_activation"),
        _connections(seen),
    )


def _settings_type(dtype: str) -> np.dtype:
    """Return the layout of Settings in step.hpp."""
    fields = [
        ("targets", "f8", (10, 10)),
        ("learning_rate", dtype),
        ("momentum", dtype),
        ("padding", dtype),
        ("leak", dtype),
        ("output_leak", dtype),
        ("connections", "u1", CONNECTION_BYTES),
    ]
    return np.dtype(fields, align=True)
