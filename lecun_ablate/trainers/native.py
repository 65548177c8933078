"""The native trainer: the compiled kernel of lecun_ablate/native, one run per CPU core."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from lecun_ablate.compiled.build import Compiler
from lecun_ablate.compiled.component import compiled
from lecun_ablate.compiled.library import (
    Compiled,
    CompiledActivation,
    CompiledLoss,
    CompiledOptimizer,
)
from lecun_ablate.compiled.target import Target
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.network.epoch import (
    augmented,
    dropout_masks,
    learning_rates,
    smoothed,
    steps_of,
)
from lecun_ablate.network.initial import pattern_order
from lecun_ablate.network.reference import predictions
from lecun_ablate.registry import Component
from lecun_ablate.system.cores import usable_cores
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
from lecun_ablate.trainers.flat import flatten, tensors
from lecun_ablate.trainers.instructions import PINNED
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


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the kernel can use here, the fastest first."""
    return () if kernel is None else tuple(kernel.INSTRUCTION_SETS)


ACTIVATION_FIELDS = ("activation", "output_activation")


def compiled_for(
    component: Component, instruction_set: str, momentum: float = 0.0
) -> Compiled | None:
    """Return a component of the user's own, compiled for a kernel; None for a built-in.

    `momentum` is what an optimizer is given. Raises Refused, with the reason, if the component
    cannot be compiled.
    """
    if component.builtin:
        return None
    options = tuple(kernel.OPTIONS[instruction_set].split())
    target = Target(instruction_set, kernel.VECTOR_BYTES[instruction_set], options)
    return compiled(component, target, momentum)


class NativeTrainer:
    """Trains each run alone, as many runs at a time as there are threads.

    `instruction_set` is one of those that the CPU has ("avx512", "avx2", "baseline" or "neon"),
    by default the one that is pinned, else the fastest. Between instruction sets, results differ in
    rounding. With `own_components`, it compiles components of the user's own; the compiler is part
    of its identity then. Raises ConfigError if the kernel or the instruction set is missing.
    """

    name = "native"
    device = "cpu"
    together = 1

    def __init__(
        self,
        threads: int | None = None,
        instruction_set: str | None = None,
        own_components: bool = False,
    ):
        if kernel is None:
            raise ConfigError(f"the native trainer cannot run: {_missing}")
        instruction_set = instruction_set or os.environ.get(PINNED) or None
        if instruction_set is not None and instruction_set not in kernel.INSTRUCTION_SETS:
            raise ConfigError(
                f"instruction set {instruction_set!r} is not available: "
                f"{nearest(instruction_set, kernel.INSTRUCTION_SETS)}"
            )
        self.threads = threads or usable_cores()
        self.instruction_set = instruction_set or kernel.INSTRUCTION_SETS[0]
        self.own_components = own_components

    def __reduce__(self) -> tuple[Any, ...]:
        # another machine may lack the kernel or the instruction set: it raises there
        return NativeTrainer, (self.threads, self.instruction_set, self.own_components)

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers; see trainers.base."""
        compiler = Compiler.find() if self.own_components else None
        version = compiler.version if compiler else ""
        return Identity(self.name, self.device, self.instruction_set, 2, version)

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return why the kernel cannot train a recipe, or None.

        Inits, connectivities, targets, orders, schedules and augmentations are data to the kernel,
        so it supports all of them. Other components of the user's own are compiled here.
        """
        if not self.own_components:
            names = (kernel.ACTIVATIONS, kernel.ACTIVATIONS, kernel.LOSSES, kernel.OPTIMIZERS)
            known = dict(zip(COMPILED_FIELDS, names, strict=True))
            return unknown_component(self.name, recipe, known)
        return uncompilable(
            self.name, recipe, lambda c, momentum: compiled_for(c, self.instruction_set, momentum)
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
        network = _Network(self.instruction_set, recipe, run.seed, connected, state)
        for epoch in range(run.first_epoch, run.last_epoch + 1):
            began = time.perf_counter()
            network.train(epoch, fit)
            scores = {
                name: self._scores(network.scoring, network.scored, split)
                for name, split in evaluate.items()
            }
            state = network.state(epoch)
            seconds = time.perf_counter() - began
            if finish(epoch_report(index, run, state, scores, seconds)):
                return

    def _scores(self, choices: Any, parameters: np.ndarray, split: Split) -> Scores:
        outputs = np.empty((len(split), 10), parameters.dtype)
        loss = kernel.evaluate(
            self.instruction_set, choices, parameters, split.images, split.labels, outputs
        )
        answers = predictions(outputs)
        return Scores(loss, int((answers != split.labels).sum()), len(split), answers)


class _Network:
    """One network and what its optimizer keeps, all of it flat."""

    def __init__(
        self, instruction_set: str, recipe: Recipe, seed: int, connected: np.ndarray, state: State
    ):
        self.instruction_set = instruction_set
        self.recipe = recipe
        self.seed = seed
        self.parameters = flatten(state.parameters, recipe.dtype)
        self.optimizer = optimizer = recipe.component("optimizer")
        wanted = targets(recipe)
        smooth = smoothed(recipe, torch.from_numpy(wanted)).numpy()
        activations = [recipe.component(field) for field in ACTIVATION_FIELDS]
        loss = recipe.component("loss")
        called = [compiled_for(component, instruction_set) for component in (*activations, loss)]
        addresses = [
            own.addresses(recipe.dtype)
            if isinstance(own, CompiledActivation | CompiledLoss)
            else None
            for own in called
        ]
        self.scoring, self.training = (
            kernel.Choices(
                *(component.name for component in activations),
                loss.name,
                recipe.lr,
                recipe.momentum,
                recipe.padding,
                *(leak(recipe, field) for field in ACTIVATION_FIELDS),
                codes,
                connected,
                *addresses,
            )
            for codes in (wanted, smooth)
        )
        own = compiled_for(optimizer, instruction_set, recipe.momentum)
        self.own: OwnState | None = None
        self.own_step = 0  # its address
        if isinstance(own, CompiledOptimizer):
            self.own = OwnState.of(own.slots[recipe.dtype], state, recipe.dtype)
            self.own_step = own.address(f"step_{recipe.dtype}")
        # the slots of the state that are used, as the torch trainer names them
        first, second = slots(recipe)
        self.first = self._tensor(state, first)
        self.second = self._tensor(state, second)
        self.average = self._tensor(state, AVERAGE if recipe.average else None, self.parameters)
        self.values: dict[str, Any] = optimizer.values if optimizer.builtin else {}
        self.running = self.values.get("estimate") == "running"
        self.curvature = self._tensor(state, CURVATURE if optimizer.name == "sdlm" else None)
        self.estimated = self.running and f"{CURVATURE}/h1_weight" in state.optimizer
        self.powers = None
        if optimizer.name in ("adam", "adamw"):
            one = np.ones(1)
            self.powers = np.concatenate([state.optimizer.get(p, one) for p in POWERS])
        self.tensors = {first: self.first, second: self.second, AVERAGE: self.average}
        if self.running:  # else it is estimated anew before every epoch
            self.tensors[CURVATURE] = self.curvature
        # on-line gradient descent as it has always been, bit for bit
        self.plain = optimizer.name == "sgd" and all(
            getattr(recipe, field) == Recipe.model_fields[field].default
            for field in ("schedule", "batch_size", "dropout", "weight_decay", "average")
        )

    def _tensor(
        self, state: State, slot: str | None, begin: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return a slot of the state; a new one is a copy of `begin`, or 0; None without a slot."""
        if slot is None:
            return None
        if f"{slot}/h1_weight" in state.optimizer:
            return flatten(state.optimizer, self.recipe.dtype, f"{slot}/")
        return np.zeros_like(self.parameters) if begin is None else begin.copy()

    @property
    def scored(self) -> np.ndarray:
        """The parameters with which the network is scored."""
        return self.parameters if self.average is None else self.average

    def state(self, epoch: int) -> State:
        """Return the network after an epoch."""
        optimizer: dict[str, np.ndarray] = {}
        for slot, values in self.tensors.items():
            if values is not None:
                optimizer |= tensors(values, f"{slot}/")
        if self.powers is not None:
            optimizer |= {name: self.powers[i : i + 1].copy() for i, name in enumerate(POWERS)}
        if self.own is not None:
            optimizer |= self.own.stored()
        return State(epoch, tensors(self.parameters), optimizer)

    def train(self, epoch: int, fit: Split) -> None:
        """Train one epoch."""
        recipe, seed, n = self.recipe, self.seed, len(fit)
        order = pattern_order(recipe, seed, epoch, n).numpy()
        images = augmented(recipe, seed, epoch, torch.from_numpy(fit.images)).contiguous().numpy()
        if self.plain:
            kernel.train(
                self.instruction_set,
                self.training,
                self.parameters,
                self.first,
                images,
                fit.labels,
                order,
            )
            return
        if self.curvature is not None and not self.estimated:
            some = slice(0, int(self.values["patterns"]))
            kernel.curvature(
                self.instruction_set,
                self.training,
                self.parameters,
                images[some],
                fit.labels[some],
                self.curvature,
            )
            self.estimated = self.running
        kept = dropout_masks(recipe, seed, epoch, n)
        kernel.train_by(
            self.instruction_set,
            self.training,
            self._method(),
            self.parameters,
            self.first,
            self.second,
            self.curvature,
            self.average,
            self.powers,
            images,
            fit.labels,
            order,
            min(recipe.batch_size, max(n, 1)),
            np.ascontiguousarray(learning_rates(recipe, epoch, steps_of(recipe, n))),
            None if kept is None else kept.view(np.uint8),
            [] if self.own is None else list(self.own.weights),
            None if self.own is None else self.own.numbers,
            self.own is None or self.own.fresh,
        )
        if self.own is not None:
            self.own.fresh = False

    def _method(self) -> Any:
        values = self.values
        return kernel.Method(
            self.optimizer.name,
            momentum=self.recipe.momentum,
            beta1=values.get("beta1", 0.0),
            beta2=values.get("beta2", values.get("alpha", 0.0)),
            eps=values.get("eps", 0.0),
            decay=values.get("weight_decay", 0.0),
            mu=values.get("mu", 0.0),
            gamma=values.get("gamma", 0.0),
            running=self.running,
            weight_decay=self.recipe.weight_decay,
            average=self.recipe.average,
            dropout=self.recipe.dropout,
            own=self.own_step,
        )


def _convert(split: Split, dtype: str) -> Split:
    """Return a split as the kernel reads it: (n, 16, 16) in `dtype`, labels int64."""
    return Split(
        np.ascontiguousarray(split.images, dtype), np.ascontiguousarray(split.labels, np.int64)
    )
