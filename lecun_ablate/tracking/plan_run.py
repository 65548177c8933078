"""A plan that is being run, as MLflow sees it: its own run, a run per arm, a run per seed.

A seed run that several plans share stands under the arm that trained it; the arms of the other
plans link to that arm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.plan.plan import RESAMPLED_SPLIT, SPLIT, Plan
from lecun_ablate.plan.results import EPOCH_METRICS, Results, RunStatus
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.system.provenance import environment
from lecun_ablate.system.text import count, markdown
from lecun_ablate.tracking import kept_run, views
from lecun_ablate.tracking.address import artifact_folder
from lecun_ablate.tracking.ended_run import EndedRun, params
from lecun_ablate.tracking.health import runs_with_files, unknown_runs
from lecun_ablate.tracking.kept_run import KeptRun
from lecun_ablate.tracking.names import (
    ANSWER,
    ARM,
    ENVIRONMENT,
    KEY,
    LAST_RUN,
    LEVEL,
    LONGEST_NOTE,
    LOOKS,
    NOTE,
    PARENT,
    PLAN,
    PLAN_FILE,
    SEEDS,
    STATUS,
    SUMMARY,
    VARIANT,
    Level,
)
from lecun_ablate.tracking.records import PlanRecord, UnusableRun
from lecun_ablate.tracking.tags import plan_record
from lecun_ablate.tracking.writer import Contents, Writer

SUMMARISED = ("train_loss", "train_error", "test_loss", "test_error")


@dataclass(frozen=True)
class ArmSummary:
    """What is concluded about an arm, for its run."""

    numbers: Mapping[str, float]  # metrics
    tags: Mapping[str, str]
    files: Contents


@dataclass(frozen=True)
class Conclusion:
    """What is concluded about a plan."""

    answer: str  # in a line
    note: str  # Markdown: the description of the plan's run, and of its MLflow experiment
    numbers: Mapping[str, float]  # metrics of the whole
    arms: Mapping[str, ArmSummary]


class PlanRun:
    """A plan being written to MLflow.

    `plan` is widened by the seeds that it was run with before, and the arms of its path so far.

    `run_id` is the plan's own run, `arms` are the runs of its arms.
    """

    def __init__(
        self, writer: Writer, plan: Plan, experiment_id: str, notice: Callable[[str], None]
    ):
        """Look up what the store has of a plan; `notice` is told what a user must know of it."""
        self._writer = writer
        self._notice = notice
        self.experiment_id = experiment_id
        writer.take_up(experiment_id, notice)
        finished, unusable = writer.store.finished(self.experiment_id)
        self._finished = finished
        self.plan = self._with_earlier_seeds(writer.store.with_earlier_arms(plan))
        self._replace_unusable(unusable, self.plan.keys.values())
        nameless = [run for key, run in unusable.items() if key == run.run_id]
        if nameless:
            notice("\n".join(["Not counted, and left as they are:", *map(str, nameless)]))
        self.run_id = ""
        self.arms: dict[str, str] = {}
        self._looks: tuple[int, ...] = ()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, writer: Writer, plan: Plan, notice: Callable[[str], None]) -> Iterator[PlanRun]:
        """Begin or continue the run of a plan, and end it when the block ends.

        It is left FINISHED, KILLED (interrupted) or FAILED.
        """
        with writer.driving(plan.tracking_name) as experiment_id:
            plan_run = cls(writer, plan, experiment_id, notice)
            with writer.ending(lambda: [*plan_run.arms.values(), plan_run.run_id]):
                with held_back():  # an interruption waits until the run is known
                    plan_run.run_id = plan_run._begin()
                plan_run._begin_arms()
                plan_run._take_back(with_hint=True)
                yield plan_run

    def _take_back(self, *, with_hint: bool = False) -> None:
        """Write the rows of this plan's runs whose files lie beside a database that lost them.

        A kill leaves the files of single runs behind; more come from a database that was lost: with
        a hint, that is said.
        """
        database = self._writer.connection.database
        if database is None:
            return
        with self._writer.connection.reading():
            unknown, all_runs = unknown_runs(database), runs_with_files(database)
        taken = 0
        if self._writer.connection.has_known_tables:
            missing = {self.plan.keys[which]: which for which in self.plan.pending(self._finished)}
            for run_id, folder in unknown.items():
                found = kept_run.read(folder)
                which = missing.get(found.key or "") if found else None
                if found and which and self._taken_back(found, which, run_id, folder):
                    del missing[self.plan.keys[which]]
                    taken += 1
        if taken:
            self._finished = self._writer.store.finished(self.experiment_id)[0]
            self._notice(
                f"{count(taken, 'finished run')} that the store had lost "
                f"{'is' if taken == 1 else 'are'} taken back from {artifact_folder(database)}"
            )
        left = len(unknown) - taken
        if with_hint and left > len(all_runs) // 2:
            self._notice(
                f"{artifact_folder(database)} has the files of {count(left, 'run')} that the store "
                f"does not know: if {database} was "
                "lost or emptied, running their experiments again takes back those that are whole; "
                "a copy of it put back has all"
            )

    def _taken_back(
        self, found: KeptRun, which: tuple[str, int], run_id: str, folder: Path
    ) -> bool:
        arm, _ = which
        tags = {PARENT: self.arms[arm], ARM: arm, PLAN: self.plan.key}
        tags[views.used(self.plan.key)] = arm
        run = EndedRun(
            self.experiment_id,
            name=found.name,
            tags=found.tags | tags,
            values=found.values,
            history=found.history,
            data=self._dataset(),
            seconds=found.seconds,
            ended=found.ended,
        )
        return set(EPOCH_METRICS) <= set(found.history) and not self._writer.take_back(
            run, run_id, folder
        )

    def _replace_unusable(self, unusable: dict[str, UnusableRun], keys: Collection[str]) -> None:
        """Delete those of some runs that do not count, or are found to be damaged, and say so.

        They must not stand beside those that take their place. Damaged ones join `unusable`.
        """
        keys = set(keys)
        own = {key: run for key, run in self._finished.items() if key in keys}
        damaged = self._writer.store.sound(own)[1] if own else {}
        for key in damaged:
            del self._finished[key]
        unusable |= damaged
        unusable = {key: run for key, run in unusable.items() if key in keys}
        again = [str(run) for key, run in unusable.items() if key not in self._finished]
        if again:
            one = len(again) == 1
            self._notice(
                "\n".join(
                    [
                        f"{len(again)} finished run{'' if one else 's'} cannot be used and will be "
                        "trained again:",
                        *again[:10],
                        *([f"and {len(again) - 10} more"] if len(again) > 10 else []),
                    ]
                )
            )
        self._writer.delete([run.run_id for run in unusable.values()])

    def pending(self, only: Collection[str] = ()) -> list[tuple[str, int]]:
        """Return the (arm, seed) runs that are still to be trained; of some arms `only`, if any."""
        todo = self.plan.pending(self._finished)
        return [run for run in todo if not only or run[0] in only]

    def add_seeds(self, more: int) -> None:
        """Widen the plan by seeds that follow those it has; they start at 0."""
        self._widen(self.plan.with_seeds(range(len(self.plan.experiment.seeds) + more)))

    def add_sets(self, more: Iterable[Collection[str]]) -> None:
        """Widen the plan by arms for more sets of the changes that a path makes."""
        self._widen(self.plan.with_sets(more))

    def _widen(self, plan: Plan) -> None:
        """Go on with a plan that has more runs; some of them may have finished before."""
        before = set(self.plan.keys.values())
        self.plan = plan
        self._begin()
        self._begin_arms()
        self._finished, unusable = self._writer.store.finished(self.experiment_id)
        self._replace_unusable(unusable, set(plan.keys.values()) - before)
        self._take_back()

    def results(self) -> Results:
        """Return the results of all runs of the plan that have finished."""
        self._writer.flush()
        name = self.plan.experiment.name
        record = PlanRecord(self.run_id, self.experiment_id, name, "RUNNING", 0, self._looks)
        return self._writer.store.results(record)

    def log(
        self,
        arm: str,
        seed: int,
        history: Sequence[Mapping[str, float]],
        status: RunStatus,
        files: Contents,
        trained_on: Mapping[str, str] | None = None,
    ) -> str | None:
        """Write a finished seed run, whole, and return its id; None: see Writer.write.

        `history` holds the EPOCH_METRICS of each epoch, from 1; `trained_on` is the
        environment of the machine that has trained it, by default that of this process.
        """
        columns = {name: [float(row[name]) for row in history] for name in EPOCH_METRICS}
        run = EndedRun(
            self.experiment_id,
            name=f"{arm} seed {seed}",
            tags={
                PARENT: self.arms[arm],
                ARM: arm,
                KEY: self.plan.keys[arm, seed],
                PLAN: self.plan.key,
                views.used(self.plan.key): arm,
                STATUS: str(status),
                ENVIRONMENT: json.dumps(dict(trained_on or environment())),
            },
            values=self._params(arm, seed) | {"seed": seed},
            history=columns,
            data=self._dataset(),
            seconds=sum(columns["epoch_seconds"]),
        )
        return self._writer.write(run, Level.RUN, files)

    def conclude(self, results: Results, found: Conclusion) -> None:
        """Write what has been found: to the plan's run, to the run of each arm, and as views.

        Every seed run that has lost its arm is given to one of these. The number of seeds is noted
        as that of a look at the data, whose error cannot be spent again.
        """
        self._looks = tuple(sorted({*self._looks, len(self.plan.experiment.seeds)}))
        note, looks = found.note[:LONGEST_NOTE], json.dumps(self._looks)
        self._writer.set_tags(self.run_id, {NOTE: note, ANSWER: found.answer, LOOKS: looks})
        for arm, table in results.frame.groupby("arm", sort=False):
            with held_back():
                self.arms[arm] = self._summarise(arm, table, found.arms[arm])
        with self._writer.writing():
            self._gather(results.final)
            self._log_whole(found.numbers)
        for arm, summary in found.arms.items():
            self._writer.put(self.arms[arm], summary.files)
        shown = views.plan_views(
            self.plan.key,
            self.run_id,
            self.plan.experiment.varied,
            list(self.arms),
            len(results.final),
        )
        tags = {views.TAG + key: state for key, state in shown.items()}
        if self.run_id == self._writer.store.plans(self.experiment_id)[0].run_id:
            tags[NOTE] = note
        self._writer.describe_experiment(self.experiment_id, tags)

    def _log_whole(self, numbers: Mapping[str, float]) -> None:
        """Write numbers of the whole plan, unless they are there; a step is a number of runs."""
        client, step = self._writer.client, int(numbers["runs"])
        known = client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        new = [
            Metric(name, float(value), now, step)
            for name, value in numbers.items()
            if known.get(name) != value
        ]
        if new:
            self._writer.log_metrics(self.run_id, new)

    # ---- the plan's own run

    def _tagged(
        self, tags: Mapping[str, str], only: Collection[str] | None = None
    ) -> Iterator[Run]:
        return self._writer.connection.tagged(self.experiment_id, tags, only)

    def _record(self, key: str) -> PlanRecord | None:
        """Return the run of the plan with a key, if there is one."""
        for run in self._tagged({LEVEL: Level.EXPERIMENT, PLAN: key}):
            return plan_record(run)
        return None

    def _with_earlier_seeds(self, plan: Plan) -> Plan:
        """Return the plan with those of its earlier seeds that all of its arms have finished."""
        experiment, record = plan.experiment, self._record(plan.key)
        if record is None or experiment.until:  # a rule alone says how far seeds grow
            return plan
        try:
            before = self._writer.store.plan(record).experiment.seeds
        except LecunAblateError:  # its file is gone or damaged, and will be written again
            own = [run for run in self._finished.values() if run.plan == plan.key]
            before = tuple(sorted({run.seed for run in own}))
        wider = plan.with_seeds(sorted({*experiment.seeds, *before}))
        earlier = [
            seed
            for seed in before
            if seed not in (*experiment.seeds, *experiment.without_seeds)
            and all(wider.keys[arm.name, seed] in self._finished for arm in experiment.arms)
        ]
        if not earlier:
            return plan
        seeds = sorted({*experiment.seeds, *earlier})
        self._notice(
            f"{len(earlier)} more seed{'s have' if len(earlier) > 1 else ' has'} been run before: "
            f"all {len(seeds)} are shown"
        )
        return plan.with_seeds(seeds)

    def _begin(self) -> str:
        """Return the run of the plan, continued or new, RUNNING, with the plan as a file."""
        writer = self._writer
        with writer.writing():
            same = self._record(self.plan.key)
            if same and not same.variant:  # the options say what the file says
                self.plan = self.plan.as_in_the_file()
            plan = self.plan
            if same:
                run_id, self._looks = same.run_id, same.looks
                writer.resume(run_id)
            else:
                about = {PLAN: plan.key, "question": plan.experiment.question, "data": plan.data}
                name = plan.experiment.name
                run_id = writer.create(self.experiment_id, name, Level.EXPERIMENT, about)
                writer.log_data(run_id, self._dataset())
            files: dict[str, str | Path] = {PLAN_FILE: plan.to_json()}
            if plan.experiment.file and plan.experiment.file.is_file():
                files[plan.experiment.file.name] = plan.experiment.file
            writer.put(run_id, files)
            seeds, now = str(len(plan.experiment.seeds)), str(int(time.time() * 1000))
            looks, variant = json.dumps(self._looks), plan.experiment.variant
            tags = {SEEDS: seeds, LAST_RUN: now, LOOKS: looks, VARIANT: variant}
            writer.set_tags(run_id, tags)
        return run_id

    def _dataset(self) -> DatasetInput:
        source = json.dumps({"name": self.plan.data})
        dataset = Dataset(self.plan.data, self.plan.data_digest, "code", source)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", SPLIT)])

    # ---- arms

    def _params(self, arm: str, seed: int | None = None) -> dict[str, Any]:
        """Return the parameters of an arm, or of its run with a seed."""
        planned = self.plan.experiment.arm(arm)
        tuning, recipe = planned.tuning, planned.described
        if seed is not None:
            tuning, recipe = planned.tuning_for(seed), planned.recipe_for(seed).model_dump()
        return (
            recipe
            | {"tuned_by": f"{tuning.study} v{tuning.version} on {tuning.data}" if tuning else None}
            | self.plan.trainers[arm].params
            | {"data": self.plan.data, "data_digest": self.plan.data_digest}
            | ({"split": RESAMPLED_SPLIT} if planned.resampled else {})
        )

    def _begin_arms(self) -> None:
        """Let every arm of the plan have a run, in the order of the plan."""
        names = [arm.name for arm in self.plan.experiment.arms]
        for arm in names:
            if arm not in self.arms:
                with held_back():
                    self.arms[arm] = self._begin_arm(arm)
        self.arms = {arm: self.arms[arm] for arm in names}

    def _begin_arm(self, arm: str) -> str:
        """Return the run of an arm, continued or new, RUNNING."""
        with self._writer.writing():
            arms = self._tagged({LEVEL: Level.ARM, PLAN: self.plan.key, ARM: arm})
            same = {run.info.run_id: run.data.tags.get(PARENT) for run in arms}
            if not same:
                return self._create_arm(arm)
            first, *doubles = same
            for double in doubles:  # a process was killed while one took the other's place
                self._replace_arm(double, first)
            if same[first] != self.run_id:  # somebody deleted the run that it stood under
                self._writer.set_tags(first, {PARENT: self.run_id})
            self._writer.resume(first)
        return str(first)

    def _create_arm(self, arm: str) -> str:
        key = self.plan.key
        tags = {PARENT: self.run_id, ARM: arm, PLAN: key, views.used(key): arm}
        run_id = self._writer.create(self.experiment_id, arm, Level.ARM, tags)
        self._writer.log_metrics(run_id, [], params(self._params(arm)))
        return run_id

    def _replace_arm(self, old: str, new: str) -> None:
        """Let one run of an arm take another's place, its children, and the links to it."""
        client = self._writer.client
        for child in self._tagged({PARENT: old}):
            client.set_tag(child.info.run_id, PARENT, new)
        for arm in self._tagged({LEVEL: Level.ARM}):
            note = arm.data.tags.get(NOTE, "")
            if old in note:
                client.set_tag(arm.info.run_id, NOTE, note.replace(old, new))
        client.set_terminated(old, "FINISHED")
        self._writer.delete([old])

    def _summarise(self, arm: str, table: pd.DataFrame, summary: ArmSummary) -> str:
        """Write an arm's mean, sd and n per epoch over its seeds; return the arm's run id.

        As in the table of arms, diverged runs are left out and counted. Another summary, of the arm
        or its baseline with other seeds, is replaced: MLflow cannot change a metric, so a new run
        takes the old one's place.
        """
        with self._writer.writing():
            run_id = self.arms[arm]
            seeds = sorted(map(int, table.seed.unique()))
            diverged = int(table[table.status == RunStatus.DIVERGED].run_id.nunique())
            content = [seeds, diverged, dict(summary.numbers), dict(summary.tags)]
            fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
            run, old = self._writer.client.get_run(run_id), None
            if run.data.tags.get(SUMMARY) == fingerprint:
                return run_id
            if run.data.metrics:
                old, run_id = run_id, self._create_arm(arm)
            self._writer.log_metrics(run_id, _summary_metrics(table, summary.numbers))
            self._writer.set_tags(run_id, {**summary.tags, SUMMARY: fingerprint})
            if old:
                self._replace_arm(old, run_id)
        return run_id

    def _gather(self, final: pd.DataFrame) -> None:
        """Give seed runs that have lost their arm to those of this plan.

        An arm notes which of its runs stand under the arms of other plans. `final` has the arm of
        every run_id of the plan.
        """
        client, use = self._writer.client, views.used(self.plan.key)
        own = dict(zip(final.run_id, final.arm, strict=True))
        alive = {run.info.run_id: run for run in self._tagged({LEVEL: Level.ARM})}
        elsewhere: dict[str, Counter[str]] = {arm: Counter() for arm in self.arms}
        for run in self._tagged({LEVEL: Level.RUN}, (use, ARM, PLAN, PARENT)):
            run_id, tags = run.info.run_id, run.data.tags
            if run_id in own and tags.get(use) != own[run_id]:
                client.set_tag(run_id, use, own[run_id])
            arm = own.get(run_id) or (tags.get(ARM) if tags.get(PLAN) == self.plan.key else None)
            parent = tags.get(PARENT)
            if arm not in self.arms or parent == self.arms[arm]:
                continue
            if parent is not None and parent in alive:
                elsewhere[arm][parent] += 1
            else:
                client.set_tag(run_id, PARENT, self.arms[arm])
        for arm, run_id in self.arms.items():
            if elsewhere[arm]:
                note = self._note({alive[i]: n for i, n in elsewhere[arm].items()})
                client.set_tag(run_id, NOTE, note)
            elif run_id in alive and NOTE in alive[run_id].data.tags:
                client.delete_tag(run_id, NOTE)

    def _note(self, holders: Mapping[Run, int]) -> str:
        """Return the description of an arm some of whose runs stand under other arms."""
        page = f"#/experiments/{self.experiment_id}/runs"
        each = [
            f"{number} under [{markdown(arm.data.tags.get(ARM, ''))}]({page}/{arm.info.run_id})"
            for arm, number in holders.items()
        ]
        return f"Of this arm's runs, other plans have trained some before: {', '.join(each)}."


def _summary_metrics(table: pd.DataFrame, counted: Mapping[str, float]) -> list[Metric]:
    """Return an arm's statistics after each epoch, and `counted` after the last."""
    ended = table[table.status != RunStatus.DIVERGED]
    by_epoch = ended.groupby("epoch")[list(SUMMARISED)].agg(["mean", "std"])
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{name}_{label}", float(value), now, int(epoch))
        for (name, statistic), column in by_epoch.items()
        for label in [{"mean": "mean", "std": "sd"}[statistic]]
        for epoch, value in column.items()
        if not np.isnan(value)
    ]
    counts = ended.groupby("epoch").seed.count()
    metrics += [Metric("seeds", float(n), now, int(epoch)) for epoch, n in counts.items()]
    last = int(table.epoch.max())
    return metrics + [Metric(name, float(value), now, last) for name, value in counted.items()]
