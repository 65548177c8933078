"""A study that is being run, as MLflow sees it: its own run, and under it a run per trial."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lecun_ablate.tracking import views
from lecun_ablate.tracking.ended_run import EndedRun
from lecun_ablate.tracking.names import (
    ANSWER,
    LEVEL,
    LONGEST_NOTE,
    NOTE,
    PARENT,
    PLAN,
    STUDIES,
    Level,
)
from lecun_ablate.tracking.writer import Writer

# tags of trials: where they are recorded in Optuna
STORAGE_ID, RECORD, TRIAL = "optuna.id", "optuna.study", "optuna.trial"


class StudyRun:
    """A study being written to MLflow. `run_id` is the study's own run."""

    def __init__(self, writer: Writer, experiment_id: str, run_id: str):
        self._writer = writer
        self.experiment_id = experiment_id
        self.run_id = run_id

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, writer: Writer, title: str, name: str, key: str, tags: Mapping[str, str]
    ) -> Iterator[StudyRun]:
        """Begin or continue the run of a study, and end it when the block ends.

        `title` names the study and its data, `key` tells this version from all others. The run is
        left FINISHED, KILLED (interrupted) or FAILED.
        """
        run_id = ""
        with (
            writer.driving(STUDIES + title) as experiment_id,
            writer.ending(lambda: [run_id]),
        ):
            with writer.writing():  # an interruption waits until the run is known that must end
                level = {LEVEL: Level.STUDY, PLAN: key}
                for run in writer.connection.tagged(experiment_id, level):
                    run_id = str(run.info.run_id)
                    writer.resume(run_id)
                    break
                else:
                    run_id = writer.create(experiment_id, name, Level.STUDY, {PLAN: key, **tags})
            yield cls(writer, experiment_id, run_id)

    def log_trial(
        self,
        name: str,
        tags: Mapping[str, str],
        values: Mapping[str, Any],
        history: Mapping[str, Sequence[float]],
    ) -> str:
        """Write a trial's run, whole; `history` holds each metric's values per epoch, from 1."""
        run = EndedRun(self.experiment_id, name, {PARENT: self.run_id, **tags}, values, history)
        run_id = self._writer.write(run, Level.TRIAL, {})
        assert run_id is not None  # only seed runs are sent later
        self._writer.sync()  # Optuna, which is told next, syncs every commit
        return run_id

    def trials(self, storage_id: str) -> set[tuple[str, str]]:
        """Return the trials that have a run, as (name of the Optuna study, number)."""
        return set(self._trial_runs(storage_id).values())

    @staticmethod
    def conclude(
        writer: Writer,
        experiment_id: str,
        run_id: str,
        answer: str,
        note: str,
        searched: Sequence[str],
    ) -> str:
        """Describe a study in the UI and prepare the view of its trials; return its address."""
        note = note[:LONGEST_NOTE]
        shown = views.study_views(run_id, searched)
        tags = {views.TAG + key: state for key, state in shown.items()} | {NOTE: note}
        writer.set_tags(run_id, {NOTE: note, ANSWER: answer})
        writer.describe_experiment(experiment_id, tags)
        return writer.connection.link(experiment_id, views.trials_view(run_id))

    def delete_trials(self, storage_id: str, trials: Collection[tuple[str, str]]) -> None:
        """Delete the runs of trials, given as (name of the Optuna study, number).

        Only those of one storage: the runs of another may stand beside them.
        """
        if trials:
            which = self._trial_runs(storage_id)
            self._writer.delete([run_id for run_id, trial in which.items() if trial in trials])

    def _trial_runs(self, storage_id: str) -> dict[str, tuple[str, str]]:
        runs = self._writer.connection.tagged(self.experiment_id, {STORAGE_ID: storage_id})
        return {
            run.info.run_id: (run.data.tags.get(RECORD, ""), run.data.tags.get(TRIAL, ""))
            for run in runs
        }
