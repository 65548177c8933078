"""Running a study up to its report: data, trainers, Optuna's storage, MLflow, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lecun_ablate import data as datasets
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.study import SearchStudy, SeedStudy
from lecun_ablate.reporting.tables import Table
from lecun_ablate.running.estimate import estimate
from lecun_ablate.running.progress import Progress
from lecun_ablate.studies import search, search_report, seed_report, seeds, tuned_arms
from lecun_ablate.studies.optuna_storage import driving, explained, open_storage
from lecun_ablate.studies.outcome import SearchResult
from lecun_ablate.studies.report import StudyReport, value_text
from lecun_ablate.studies.search import PreparedSearch
from lecun_ablate.studies.seeds import PreparedSeeds
from lecun_ablate.studies.versions import Records, latest
from lecun_ablate.system import disk
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.tracking.study_run import StudyRun
from lecun_ablate.tracking.writer import Writer

FOLDER = Path("reports", "studies")
DASHBOARD = "http://127.0.0.1:8080/dashboard"  # optuna-dashboard's default address


@dataclass(frozen=True)
class StudyPlan:
    """What a study would do, for --dry-run."""

    title: str
    table: Table
    runs: int  # still to be trained
    at_most: bool  # fewer, if the arms' own values turn out to be among the best
    seconds: float  # about how long they take
    values: dict[str, Any]  # everything as plain values


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study: its report, the report's folder, and a row per trial."""

    report: StudyReport
    folder: Path
    frame: pd.DataFrame
    link: str = ""  # to the MLflow UI
    dashboard: str = ""  # to the first arm's study in Optuna's dashboard


def prepare(
    study: SearchStudy | SeedStudy,
    data_dir: Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
) -> PreparedSearch | PreparedSeeds:
    """Load a study's data and choose its trainers."""
    digits = datasets.load(study.data.name, study.data.fallback, data_dir)
    if isinstance(study, SearchStudy):
        return search.prepare(study, digits, trainer, device)
    return seeds.prepare(study, digits, trainer, device)


def prepare_tuning(
    experiment: Experiment,
    data_dir: Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
) -> PreparedSearch:
    """Prepare the study that tunes an experiment, on the experiment's data."""
    data = experiment.data
    study = replace(tuned_arms.study_of(experiment), data=data)
    return search.prepare(study, datasets.load(data.name, data.fallback, data_dir), trainer, device)


def fresh_notices(prepared: PreparedSearch | PreparedSeeds, storage: str, fresh: bool) -> list[str]:
    """Return the notice that a new version starts beside an older one."""
    opened = open_storage(storage) if fresh else None
    if opened is None:
        return []
    with explained(storage):
        version = latest(opened, prepared.study.name, prepared.digits.name, {}).version
    if not version:
        return []
    name = f"{prepared.study.name} on {prepared.digits.name}"
    return [
        f"--fresh starts version {version + 1} of {name} from its beginning, beside version "
        f"{version}; leave --fresh out to continue it later"
    ]


def plan(prepared: PreparedSearch | PreparedSeeds, storage: str, fresh: bool = False) -> StudyPlan:
    """Return what would be trained, without creating or changing anything.

    Raises ConfigError if `run` would refuse the study.
    """
    rows: dict[str, dict[str, Any]]
    if isinstance(prepared, PreparedSearch):
        standing = search.to_do(prepared, storage, fresh)
        todo = {arm: left.runs for arm, left in standing.items()}
        at_most = sum(todo.values()) > 0
        study = prepared.study
        fixed = {"trials": study.trials, "seeds": len(study.seeds), "search": _space(study)}
        if study.searches:
            fixed = {"searches": study.searches} | fixed
        rows = {
            arm.name: fixed
            | {
                "own values": study.own_values(arm),
                "epochs": arm.recipe.epochs,
                "best to confirm": standing[arm.name].confirmed,
            }
            for arm in study.arms
        }
        seconds = search.estimate(prepared, todo)
    else:
        pairs = seeds.runs_to_do(prepared, storage, fresh)
        at_most = False
        governs = prepared.study.governs
        todo = {what: sum(arm == what for arm, _ in pairs) for what in governs}
        fixed = {"seeds": len(prepared.study.seeds), "epochs": prepared.study.recipe.epochs}
        rows = dict.fromkeys(governs, fixed)
        seconds = estimate(prepared.runs, pairs)
    rows = {arm: row | {"runs to do": todo[arm]} for arm, row in rows.items()}
    cells = [{"arm": arm} | {k: _text(v) for k, v in row.items()} for arm, row in rows.items()]
    values = {
        "study": prepared.study.name,
        "data": prepared.digits.name,
        "data_digest": prepared.digits.digest,
        "arms": rows,
        "todo": sum(todo.values()),
        "at_most": at_most,
        "estimated_seconds": round(seconds, 1),
    }
    title = f"{prepared.study.name} on {prepared.digits.name}: {prepared.study.question}"
    table = Table.of(cells, words=["arm", "search", "own values"])
    return StudyPlan(title.rstrip(": "), table, sum(todo.values()), at_most, seconds, values)


def _space(study: SearchStudy) -> dict[str, str]:
    return {
        field: ", ".join(map(str, values))
        if isinstance(values, tuple)
        else f"{values.low:g} - {values.high:g}{' (log)' if values.log else ''}"
        for field, values in study.search.items()
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {value_text(inner)}" for key, inner in value.items())
    return value_text(value)


def run(
    prepared: PreparedSearch | PreparedSeeds,
    storage: str,
    fresh: bool = False,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> FinishedStudy:
    """Train the missing runs of a study and report on it.

    The report goes to reports/, to the study's run in MLflow and to Optuna's dashboard.
    """
    with (
        driving(storage, prepared.title) as optuna_storage,
        Writer.opened(tracking_uri) as writer,
    ):
        if isinstance(prepared, PreparedSearch):
            found, records = search.run(prepared, optuna_storage, writer, fresh, progress)
            report, run_id, frame = search_report.report(found), found.run_id, found.frame
            note = f"{prepared.study.question}\n\n{report.markdown()}".lstrip()
            fields, place = list(prepared.study.search), found.experiment_id
            link = StudyRun.conclude(writer, place, run_id, _best(found), note, fields)
        else:
            told, records = seeds.run(prepared, optuna_storage, writer, fresh, progress)
            report, run_id, frame = seed_report.report(told), told.run_id, told.frame
            link = writer.connection.link(writer.connection.info(run_id).experiment_id)
        files = report.files()
        writer.put(run_id, files)
        if prepared.study.file.is_file():
            writer.put(run_id, {"study.yaml": prepared.study.file})
        _publish(records, report)
        first = next(iter(records.values()))
        dashboard = f"{DASHBOARD}/studies/{first._study_id}"
    folder = FOLDER / prepared.title
    for name, content in files.items():
        disk.write(folder / name, content)
    return FinishedStudy(report, folder, frame, link, dashboard)


def _best(found: SearchResult) -> str:
    """Return the best values of each arm in one line."""
    each = [
        f"{arm.label} at " + ", ".join(f"{field} {_text(v)}" for field, v in arm.values.items())
        for arm in found.arms
    ]
    return f"best: {'; '.join(each)}"


@held_back()
def _publish(records: Records, report: StudyReport) -> None:
    """Add the report to every arm's study in Optuna's dashboard, as a note and plots."""
    from optuna_dashboard import save_note, save_plotly_graph_object

    note = report.markdown()
    for record in records.values():
        save_note(record, note)
        for name, plot in report.plots.items():
            save_plotly_graph_object(record, plot, graph_object_id=name)
