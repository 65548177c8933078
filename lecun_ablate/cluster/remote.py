"""A trainer whose runs are trained by the nodes of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

from lecun_ablate.cluster import worker
from lecun_ablate.cluster.admission import PATTERNS, Probe, Probed, objection, probed
from lecun_ablate.cluster.crew import Crew, Ended, Slot
from lecun_ablate.cluster.dispatch import DEADLINE, FACTOR, Dispatch
from lecun_ablate.cluster.pace import Pace
from lecun_ablate.cluster.travel import Data, Kit, sources
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.trainers.base import EpochReport, Identity, OnEpoch, Run, Trainer
from lecun_ablate.trainers.shared import refuse_unsupported

_Splits = tuple[Split, dict[str, Split]]
PROBES = 3  # that a node may lose before it is left out


class RemoteTrainer:
    """Trains on a cluster what another trainer would train here, with its identity and its bits.

    `recipes` are those of the plan: every node trains a few patterns with each of them first, and
    is left out if a bit differs. Raises ConfigError if a component of the user's own cannot travel.
    """

    def __init__(self, inner: Trainer, recipes: Sequence[Recipe], crew: Crew):
        self.inner = inner
        self.name, self.device, self.together = inner.name, inner.device, inner.together
        self.recipes = tuple(dict.fromkeys(recipes))
        self.crew = crew
        sources(self.recipes)
        self._admitted: dict[str, bool] = {}  # by node; False: being probed
        self._lost_probes: Counter[str] = Counter()
        self._probe: Probe | None = None
        self._sent: tuple[_Splits, Any] | None = None  # the data that the nodes have

    def identity(self) -> Identity:
        """Return what about the trainer decides a run's numbers; see trainers.base."""
        return self.inner.identity()

    def unsupported(self, recipe: Recipe) -> str | None:
        """Return why the trainer cannot train a recipe, or None."""
        return self.inner.unsupported(recipe)

    def train(
        self,
        runs: Sequence[Run],
        fit: Split,
        evaluate: Mapping[str, Split],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[EpochReport]:
        """Train runs on the nodes; see trainers.base. Of a run, all reports come at once.

        Unless `on_epoch` is given, only the last has tensors and predictions. Raises
        LecunAblateError, with arm and seed, for runs that were lost again and again, once all
        others have ended.
        """
        if not runs:
            return
        refuse_unsupported(self.inner, {run.recipe for run in runs})
        share = self.crew.engine.share
        recipes = {run.recipe for run in runs}
        self._kit = share(Kit.of(_on_one_core(self.inner), [*self.recipes, *recipes]))
        self._begin(fit)
        pace = Pace(self._guess(len(fit)))
        data = self._shared(fit, evaluate)
        dispatch = Dispatch(self.crew, runs, pace, self.together, self._kit, data)
        yield from dispatch.reports(self._slots, self._judge, on_epoch)

    def _shared(self, fit: Split, evaluate: Mapping[str, Split]) -> Any:
        """Return data where the nodes find them; a study has the same ones again and again."""
        asked = (fit, dict(evaluate))
        if self._sent is None or not _same(self._sent[0], asked):
            self._sent = (asked, self.crew.engine.share(Data.of(fit, evaluate)))
        return self._sent[1]

    # ---- admission

    def _begin(self, fit: Split) -> None:
        """Train the probe here."""
        if self._probe is None:
            self._probe = Probe.of(self.recipes, fit)
            self._here = probed(_on_one_core(self.inner), self._probe)

    def _guess(self, patterns: int) -> Callable[[Run], float]:
        """Return about how many seconds an epoch of some patterns takes, from the probe."""
        mean = sum(self._here.seconds) / len(self._here.seconds)
        return lambda run: mean * patterns / PATTERNS

    def _slots(self) -> list[Slot]:
        """Return the slots that may train; send a probe to a node that is new."""
        ready = [slot for slot in self.crew.slots.values() if slot.ready]
        for slot in ready:
            node = slot.place.node
            if node not in self._admitted:
                self._admitted[node] = False
                patience = max(DEADLINE, FACTOR * sum(self._here.seconds))
                self.crew.submit(slot, patience, self, worker.probe, self._kit, self._probe)
        found = [slot for slot in ready if self._admitted[slot.place.node]]
        self.crew.show(found)
        return found

    def _judge(self, ended: Ended) -> bool:
        """Admit a node or leave it out, if this is what has become of its probe; tell whether."""
        if ended.about is not self:
            return False
        node = ended.slot.place.node
        if ended.lost:
            self._lost_probes[node] += 1
            del self._admitted[node]  # another slot will be asked
            if self._lost_probes[node] >= PROBES:
                self.crew.refuse(ended.slot, ended.lost)
            return True
        found: Probed = ended.value
        if reason := objection(self._here, found):
            self.crew.refuse(ended.slot, reason)
        self._admitted[node] = reason is None
        return True


def _same(one: _Splits, other: _Splits) -> bool:
    """Tell whether these are the very same splits."""
    (fit, evaluate), (other_fit, others) = one, other
    return (
        fit is other_fit
        and evaluate.keys() == others.keys()
        and all(evaluate[name] is others[name] for name in evaluate)
    )


def _on_one_core(trainer: Trainer) -> Trainer:
    """Return a copy of a trainer for one core, or for one GPU."""
    one = copy(trainer)
    if one.device == "cpu" and hasattr(one, "threads"):
        one.threads = 1
    return one
