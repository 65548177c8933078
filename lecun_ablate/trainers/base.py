"""What a trainer is given, what it gives back, and what it must keep to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split


@dataclass(frozen=True)
class Identity:
    """What about a trainer decides a run's numbers. It is part of every run key."""

    name: str
    device: str  # "cpu" or "cuda"
    instruction_set: str  # of the CPU or the GPU: rounding depends on it
    numerics: int  # raised by hand whenever a change makes the trainer's golden test fail
    # the version of what compiles the user's own activations; "" where none is compiled
    compiler: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.device}, {self.instruction_set})"

    @property
    def stored(self) -> dict[str, Any]:
        """The identity as plain values, in the form that keys and stores hold."""
        values = asdict(self)
        if not self.compiler:  # the keys of runs of built-in components are older than this field
            del values["compiler"]
        return values

    @property
    def params(self) -> dict[str, Any]:
        """The identity as parameters of a tracked run."""
        return {
            "trainer": self.name,
            "device": self.device,
            "instruction_set": self.instruction_set,
            "numerics": self.numerics,
        } | ({"compiler": self.compiler} if self.compiler else {})


AVERAGE, CURVATURE = "average", "curvature"  # the slots of a state that no optimizer may use


@dataclass(frozen=True)
class State:
    """A network between two epochs: everything needed to continue, bit for bit.

    The orders of later epochs follow from the seed and the epoch, so they are not part of it.
    """

    epoch: int  # epochs trained so far
    parameters: dict[str, np.ndarray]  # initial.SHAPES, in the recipe's dtype
    # What the optimizer keeps: "velocity/h1_weight", ..., and "beta1_power", ..., one number each;
    # AVERAGE/... and CURVATURE/... too.
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def scored(self) -> dict[str, np.ndarray]:
        """The parameters with which the network is scored: the average, if there is one."""
        averages = {name: self.optimizer.get(f"{AVERAGE}/{name}") for name in self.parameters}
        return {
            name: value if (average := averages[name]) is None else average
            for name, value in self.parameters.items()
        }


@dataclass(frozen=True)
class Run:
    """One recipe trained with one seed, from its start or from a state, to epoch `until`."""

    recipe: Recipe
    seed: int
    state: State | None = None  # None: from the initial weights
    until: int | None = None  # None: the recipe's epochs
    arm: str = ""  # for messages

    @property
    def first_epoch(self) -> int:
        """The epoch, from 1, with which training begins or continues."""
        return 1 + (self.state.epoch if self.state else 0)

    @property
    def last_epoch(self) -> int:
        """The epoch after which the run ends."""
        return self.recipe.epochs if self.until is None else self.until


@dataclass(frozen=True)
class Scores:
    """A network's answers on one split. Loss is the mean over the images; error a fraction."""

    loss: float
    misses: int
    images: int
    predictions: np.ndarray  # (images,) uint8: the digit, or network.NO_DIGIT; (0,): left out

    @property
    def error(self) -> float:
        """The fraction of images missed."""
        return self.misses / self.images


@dataclass(frozen=True)
class EpochReport:
    """What is known of a run after one of its epochs.

    From another machine, only the last report of a run has predictions and the state's tensors.
    """

    index: int  # of the run in the sequence that was given to train()
    epoch: int  # from 1
    scores: dict[str, Scores]  # by the name of the split
    seconds: float  # wall time of the epoch with its evaluations, divided by the replicas it served
    diverged: bool  # a parameter or a loss is not finite: the run ends here
    last: bool  # no further report of this run follows
    state: State
    # provenance.environment() of the machine that has trained it; None: of this process
    environment: Mapping[str, str] | None = None


OnEpoch = Callable[[EpochReport], bool | None]


class Trainer(Protocol):
    """Trains runs. Its numbers depend on a run alone: not on other runs, threads or order."""

    name: str
    device: str  # "cpu" or "cuda"
    together: int  # how many runs it trains at once on a core or a GPU; fewer leave that idle

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers."""

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return why this trainer cannot train a recipe, or None if it can."""

    def train(
        self,
        runs: Sequence[Run],
        fit: Split,
        evaluate: Mapping[str, Split],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[EpochReport]:
        """Train runs on `fit`, scoring each on every split of `evaluate` after every epoch.

        Yields one report per run and epoch, as they come; those of one run in the order of their
        epochs. `on_epoch` sees each report before it is yielded, one at a time but perhaps on
        another thread; if it returns True, that run stops there and the others go on. Only
        the splits given here are seen: a caller that leaves out the test split never touches it.
        Closing the generator (or an exception such as KeyboardInterrupt) stops the training within
        an epoch of one group of runs.
        """


# A trainer that trains elsewhere what another would train here; the recipes are those of the plan.
Spread = Callable[[Trainer, Sequence[Recipe]], Trainer]
