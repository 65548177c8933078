"""One arm's search: an Optuna study that proposes trials in batches and is told their results.

A trial's `index` is its place in the arm's budget: 0, 1, ... An interrupted trial is told as FAIL
and replaced by another with its index and parameters. The proposal for an index depends only on the
trials before it and on a seed derived from the index, so an interruption changes neither the trials
nor the winner.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from lecun_ablate.config.arms import Arm
from lecun_ablate.config.recipe import Recipe, is_numeric
from lecun_ablate.config.study import Alternatives, Range, SearchStudy
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.statistics import DIVERGED_ERROR, finalists
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.trainers.base import EpochReport, State

# attributes of the trials
INDEX, RETRY_OF, ERRORS, DIVERGED, MLFLOW_RUN = (
    "index",
    "retry_of",
    "validation_errors",
    "diverged",
    "mlflow_run_id",
)
MISSES = "validation_misses"  # of the trials; as MISSES/label, of the study
PROGRESS, CONFIRMED = "progress", "confirmed"  # attributes of the study
OWN = "own"  # the label of an arm's own values if they are not among the trials


@dataclass
class Replica:
    """One seed of a trial, trained up to some epoch."""

    arm: Arm
    values: Mapping[str, Any]
    recipe: Recipe
    seed: int
    until: int  # the epoch to which it is trained next
    state: State | None = None
    errors: list[float] = field(default_factory=list)  # validation error after each epoch
    diverged: bool = False
    missed: np.ndarray | None = None  # (images,) bool, after the last epoch
    search: int = 0  # if the study repeats its search

    @property
    def error(self) -> float:
        """The validation error after the last epoch."""
        return self.errors[-1]

    def take(self, report: EpochReport, labels: np.ndarray) -> None:
        """Record the outcome of an epoch; `labels` (images,) are those of the validation split."""
        self.diverged = report.diverged
        error = DIVERGED_ERROR if report.diverged else report.scores["validation"].error
        self.errors.append(error)
        if report.last:
            self.state = report.state
            self.missed = report.scores["validation"].predictions != labels


@dataclass(frozen=True)
class Ended:
    """A trial that is about to be told."""

    index: int
    number: int  # Optuna's
    state: TrialState
    score: float
    replicas: list[Replica]


class ArmSearch:
    """The search of one arm: `ask` for runs to train, train them, `tell`; until it is `done`.

    After every batch, one attribute of the Optuna study says which trials continue, from which
    epoch, and which index comes next. An interrupted batch is resumed from there.
    """

    def __init__(self, study: SearchStudy, arm: Arm, record: optuna.Study):
        self.study = study
        self.arm = arm
        self.record = record
        self.space = {name: _distribution(name, v) for name, v in study.search.items()}
        progress = record.user_attrs.get(PROGRESS, {"active": [], "next": 0})
        self.active: dict[int, int] = dict(progress["active"])  # index -> epoch reached
        self.next: int = progress["next"]
        self._batch: dict[int, int] = {}  # the same, including the new trials
        self._replicas: dict[int, list[Replica]] = {}

    @property
    def name(self) -> str:
        """The arm, and which of its searches this is if there are several."""
        return self.study.label(self.arm.name)

    @property
    def done(self) -> bool:
        """Whether the budget of trials is used up."""
        return not self.active and self.next >= self.study.trials

    def trials(self) -> dict[int, FrozenTrial]:
        """Return the trials by index, without interrupted ones.

        Raises LecunAblateError if a finished trial lacks one of its attributes.
        """
        found = [t for t in self.own_trials() if t.state != TrialState.FAIL]
        for trial in found:
            lacking = {ERRORS, DIVERGED, MLFLOW_RUN} - trial.user_attrs.keys()
            if trial.state.is_finished() and lacking:
                raise LecunAblateError(
                    f"trial {trial.number} of Optuna's study {self.record.study_name!r} lacks the "
                    f"attribute {min(lacking)}: the storage is damaged or was edited; restore a "
                    "copy of it, or start again with --fresh"
                )
        return {t.user_attrs[INDEX]: t for t in sorted(found, key=lambda t: t.user_attrs[INDEX])}

    def own_trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the study's own trials, in all or only some states.

        Trials added by others, for example from Optuna's dashboard, have no index and are left out.
        """
        trials = self.record.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if INDEX in trial.user_attrs]

    def budget(self) -> dict[int, FrozenTrial]:
        """Return the told trials within the study's budget, by index.

        If the budget has been reduced, trials beyond it no longer count.
        """
        trials = self.trials().items()
        return {i: t for i, t in trials if i < self.study.trials and t.state.is_finished()}

    def missing(self) -> int:
        """Return how many runs are still needed, at least 1 if any is.

        While trials are missing, this is an upper bound: it is not yet known which trials will be
        confirmed, and the arm's own values may be among them.
        """
        study = self.study
        if not self.done:
            return study.most_runs(max(1, study.trials - len(self.budget())))
        seeds = set(study.confirm_seeds)
        return sum(len(seeds - set(self.confirmed(label))) for label in self.candidates())

    @held_back()
    def interrupt(self) -> None:
        """Tell Optuna that trials still running were interrupted."""
        for trial in self.own_trials(TrialState.RUNNING):
            self.record.tell(trial.number, state=TrialState.FAIL)

    @property
    def has_own(self) -> bool:
        """Whether the arm's own values lie in the search space; if so, they are its first trial."""
        own = self.study.own_values(self.arm)
        return all(own[name] in values for name, values in self.study.search.items())

    # ---- ask

    @held_back()
    def ask(self) -> list[Replica]:
        """Fill the batch with new trials and return the runs to train, each to its next rung."""
        batch = self.study.batch
        # without a pruner no trial is active, and batches end at multiples of their size
        free = batch - len(self.active) if self.study.pruner else batch - self.next % batch
        room = max(0, min(free, self.study.trials - self.next))
        self._batch = self.active | dict.fromkeys(range(self.next, self.next + room), 0)
        failed = self.own_trials(TrialState.FAIL)
        interrupted = {trial.user_attrs[INDEX]: trial for trial in failed}
        wanted = []
        for index in sorted(self._batch):
            known = self.trials()
            if index not in known:
                self._start(index, known, interrupted.get(index))
            elif known[index].state != TrialState.RUNNING:
                continue  # told before an interruption
            if index not in self._replicas:
                self._replicas[index] = self._replicas_of(self.trials()[index].params)
            for replica in self._replicas[index]:
                replica.until = self._next_stop(replica.recipe, self._batch[index])
                wanted.append(replica)
        return wanted

    def _replicas_of(self, values: Mapping[str, Any]) -> list[Replica]:
        return [self.replica(values, seed) for seed in self.study.seeds]

    def replica(self, values: Mapping[str, Any], seed: int) -> Replica:
        """Return a run of the arm with values and a seed, to be trained from the start."""
        recipe, search = self.study.recipe(self.arm, values), self.study.repetition or 0
        return Replica(self.arm, values, recipe, seed, recipe.epochs, search=search)

    def _next_stop(self, recipe: Recipe, epoch: int) -> int:
        pruner = self.study.pruner
        return min(recipe.epochs, pruner.next_rung(epoch)) if pruner else recipe.epochs

    def _start(
        self, index: int, known: Mapping[int, FrozenTrial], interrupted: FrozenTrial | None
    ) -> None:
        """Add the trial of an index as running, with its old parameters if it was interrupted.

        This is one call, so that a kill leaves the trial complete or absent.
        """
        attributes: dict[str, Any] = {INDEX: index}
        passed = {}
        if interrupted:
            params = interrupted.params
            values = interrupted.intermediate_values
            passed = {e: value for e, value in values.items() if e <= self._batch[index]}
            attributes[RETRY_OF] = interrupted.number
        else:
            params = self._propose(index, known)
        self.record.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions=self.space,
                intermediate_values=passed,
                user_attrs=attributes,
            )
        )

    def _propose(self, index: int, known: Mapping[int, FrozenTrial]) -> dict[str, Any]:
        """Return the parameters of a new trial: the arm's own first, then the sampler's.

        The sampler sees the trials before this one, those of this batch as running, in the order of
        their indices. They are in an in-memory study, because in the real one a trial that replaces
        an interrupted one comes later.
        """
        if index == 0 and self.has_own:
            return self.study.own_values(self.arm)
        memory = optuna.create_study(sampler=self._sampler(index))
        memory.add_trials(self._seen(i, trial, index) for i, trial in known.items() if i < index)
        return memory.ask(self.space).params

    def _seen(self, i: int, trial: FrozenTrial, index: int) -> FrozenTrial:
        """Return trial `i` as the sampler sees it when it proposes `index`.

        Without a pruner, trials of the same batch are shown as running, even if a smaller budget
        ended within the batch before. So increasing the budget gives the same trials as a budget
        that was large from the start.
        """
        if self.study.pruner or i < index - index % self.study.batch:
            return trial
        return create_trial(state=TrialState.RUNNING, params=trial.params, distributions=self.space)

    def _sampler(self, index: int) -> optuna.samplers.BaseSampler:
        """Return one trial's sampler. All arms have the same seeds, so the same random trials."""
        asked = self.study.sampler
        digest = hashlib.sha256(f"{asked.seed}/{index}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        if asked.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=asked.startup, constant_liar=True
        )

    # ---- tell

    @held_back()
    def tell(self, log: Callable[[ArmSearch, Ended], str]) -> None:
        """Tell Optuna the results of the batch, in the order of the indices.

        `log` writes a finished trial to MLflow before Optuna is told, and returns the run's id. At
        a rung, the values of the whole batch are reported before any trial is judged.
        """
        trials = self.trials()
        running = [i for i in sorted(self._batch) if trials[i].state == TrialState.RUNNING]
        rungs = {i: self._replicas[i][0].until for i in running}
        for index, rung in rungs.items():
            if rung < self._replicas[index][0].recipe.epochs:
                self._handle(trials[index]).report(_score(self._replicas[index]), rung)
        trials = self.trials()
        self.active = {}
        for index, rung in rungs.items():
            replicas = self._replicas[index]
            if rung == replicas[0].recipe.epochs or any(r.diverged for r in replicas):
                state = TrialState.COMPLETE
            elif not self._passes(index, rung, trials):
                state = TrialState.PRUNED
            else:
                self.active[index] = rung
                continue
            del self._replicas[index]
            ended = Ended(index, trials[index].number, state, _score(replicas), replicas)
            self._end(trials[index], ended, log)
        self.next = max([self.next, *(index + 1 for index in self._batch)])
        progress = {"active": list(self.active.items()), "next": self.next}
        self.record.set_user_attr(PROGRESS, progress)

    def _handle(self, trial: FrozenTrial) -> Trial:
        # Optuna's public API has a Trial only from `ask`, which samples at once: the trial # could
        # not be added complete, with its index, in one call
        return Trial(self.record, trial._trial_id)

    def _passes(self, index: int, rung: int, trials: Mapping[int, FrozenTrial]) -> bool:
        """Return whether a trial is among the best 1 / factor of all that have reached a rung."""
        assert self.study.pruner
        scores = sorted(
            (trial.intermediate_values[rung], i)
            for i, trial in trials.items()
            if rung in trial.intermediate_values
        )
        best = scores[: -(-len(scores) // self.study.pruner.factor)]
        return index in {i for _, i in best}

    def _end(
        self, trial: FrozenTrial, ended: Ended, log: Callable[[ArmSearch, Ended], str]
    ) -> None:
        handle = self._handle(trial)
        handle.set_user_attr(MLFLOW_RUN, log(self, ended))
        handle.set_user_attr(ERRORS, [replica.error for replica in ended.replicas])
        handle.set_user_attr(MISSES, [_packed(replica) for replica in ended.replicas])
        handle.set_user_attr(DIVERGED, sum(replica.diverged for replica in ended.replicas))
        if ended.state == TrialState.COMPLETE:
            self.record.tell(ended.number, ended.score)
        else:
            self.record.tell(ended.number, state=ended.state)

    # ---- confirm

    def candidates(self) -> dict[str, dict[str, Any]]:
        """Return the values to confirm, by label: the best trials, and the arm's own values.

        A label is the trial's index, or OWN.
        """
        own = {self.own_label: self.study.own_values(self.arm)}
        return {str(trial.user_attrs[INDEX]): trial.params for trial in self.best()} | own

    def best(self) -> list[FrozenTrial]:
        """Return the trials to confirm, the best first.

        These are the best on each half of the validation images, so that the other half can judge
        them. Complete trials come first; if there are too few, the pruned ones that got furthest
        are added. Diverged trials are left out. If a trial's misses are not known, because an older
        version of this package trained it, the best on all images are taken.
        """
        sound = [t for t in self.budget().values() if not t.user_attrs[DIVERGED]]
        number = self.study.confirm.trials
        if sound and all(MISSES in trial.user_attrs for trial in sound):
            return [sound[k] for k in finalists(self.searched(sound), number)]

        def rank(trial: FrozenTrial) -> tuple[float, float, int]:
            assert trial.value is not None
            return self._behind(trial), trial.value, trial.user_attrs[INDEX]

        return sorted(sound, key=rank)[:number]

    def searched(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """Return trials' misses, (trials, seeds, images), plus 1 for each epoch lost to pruning."""
        missed = np.array([[unpacked(row) for row in t.user_attrs[MISSES]] for t in trials])
        behind = np.array([self._behind(trial) for trial in trials])
        counted: np.ndarray = missed + behind[:, None, None]
        return counted

    def _behind(self, trial: FrozenTrial) -> int:
        """Return how many epochs before its last a trial was pruned; 0 for a complete one."""
        if trial.state != TrialState.PRUNED:
            return 0
        epochs = self.study.recipe(self.arm, trial.params).epochs
        return epochs - max(trial.intermediate_values)

    @property
    def own_label(self) -> str:
        """The label of the arm's own values."""
        return "0" if self.has_own else OWN

    def confirmed(self, label: str) -> dict[int, float]:
        """Return the known validation errors of a candidate, by fresh seed."""
        known = self.record.user_attrs.get(f"{CONFIRMED}/{label}", {})
        return {int(seed): error for seed, error in known.items()}

    def confirmed_misses(self, label: str) -> np.ndarray | None:
        """Return a candidate's misses, (fresh seeds, images); None if they are not known."""
        known = self.record.user_attrs.get(f"{MISSES}/{label}", {})
        if not all(str(seed) in known for seed in self.study.confirm_seeds):
            return None
        return np.array([unpacked(known[str(seed)]) for seed in self.study.confirm_seeds])

    @held_back()
    def confirm(self, label: str, runs: Sequence[Replica]) -> None:
        """Add a candidate's runs over fresh seeds: their validation errors and misses."""
        missed = self.record.user_attrs.get(f"{MISSES}/{label}", {})
        packed = {str(run.seed): _packed(run) for run in runs}
        # the errors are written last: they mark the runs as complete
        self.record.set_user_attr(f"{MISSES}/{label}", missed | packed)
        known = self.confirmed(label) | {run.seed: run.error for run in runs}
        self.record.set_user_attr(f"{CONFIRMED}/{label}", {str(s): e for s, e in known.items()})


def _packed(run: Replica) -> str:
    """Return a run's misses as text: the number of images, a colon, and bits in base64.

    A run that diverged has no bits.
    """
    assert run.missed is not None
    bits = b"" if run.diverged else np.packbits(run.missed).tobytes()
    return f"{len(run.missed)}:{base64.b64encode(bits).decode()}"


def unpacked(text: str) -> np.ndarray:
    """Invert `_packed`, (images,): 1.0 where an image was missed, else 0.0.

    For a run that diverged, DIVERGED_ERROR on every image.
    """
    number, bits = text.split(":")
    if not bits:
        return np.full(int(number), DIVERGED_ERROR)
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=int(number)) * 1.0


def _distribution(name: str, values: Range | Alternatives) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    if is_numeric(name, whole=True):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _score(replicas: list[Replica]) -> float:
    """Return the mean validation error over the seeds; DIVERGED_ERROR if any diverged."""
    if any(replica.diverged for replica in replicas):
        return DIVERGED_ERROR
    return float(np.mean([replica.error for replica in replicas]))


def searches(study: SearchStudy, records: Mapping[str, optuna.Study]) -> list[ArmSearch]:
    """Return the searches of the arms that have records, in the order of the arms."""
    return [
        ArmSearch(one, arm, records[one.label(arm.name)])
        for arm in study.arms
        for one in study.each()
        if one.label(arm.name) in records
    ]
