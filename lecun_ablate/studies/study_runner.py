"""From a study to its report: data, trainers, Optuna's storage, MLflow, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lecun_ablate import data as datasets
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.study import SearchStudy, SeedStudy
from lecun_ablate.report import search_report, seed_report
from lecun_ablate.report.study_report import StudyReport, TextTable, value_text
from lecun_ablate.running import training as runner
from lecun_ablate.studies import seed_study, tuned_arms, tuning
from lecun_ablate.studies.optuna_storage import driving, explained, open_storage
from lecun_ablate.studies.study_records import Records, latest
from lecun_ablate.tracking.store import Store

FOLDER = Path("reports", "studies")
PreparedStudy = tuning.PreparedSearch | seed_study.PreparedSeeds


def prepare(
    study: SearchStudy | SeedStudy,
    data_dir: str | Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
) -> PreparedStudy:
    """Load a study's data and choose its trainers."""
    digits = datasets.load(
        study.data.name, study.data.fallback, Path(data_dir) if data_dir else None
    )
    if isinstance(study, SearchStudy):
        return tuning.prepare(study, digits, trainer, device)
    return seed_study.prepare(study, digits, trainer, device)


def prepare_tuning(
    experiment: Experiment,
    data_dir: str | Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
) -> tuning.PreparedSearch:
    """Prepare the study that tunes an experiment, on the experiment's data."""
    study = tuned_arms.study_of(experiment)
    return prepare(replace(study, data=experiment.data), data_dir, trainer, device)


@dataclass(frozen=True)
class StudyPlan:
    """What a study would do, as its --dry-run says."""

    title: str
    table: TextTable
    runs: int  # still to be trained
    at_most: bool  # fewer, if the arms' own values turn out to be among the best
    seconds: float  # about how long they take
    values: dict[str, Any]  # all of it as plain values


def fresh_notices(prepared: PreparedStudy, storage: str, fresh: bool) -> list[str]:
    """Return what must be said of a new version that starts beside an older one."""
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
        f"{version}; leave --fresh out to go on with it later"
    ]


def plan(prepared: PreparedStudy, storage: str, fresh: bool = False) -> StudyPlan:
    """Return what is to be trained, without creating or changing anything.

    Raises ConfigError where `run` would refuse the study.
    """
    if isinstance(prepared, tuning.PreparedSearch):
        standing = tuning.to_do(prepared, storage, fresh)
        todo = {arm: left.runs for arm, left in standing.items()}
        at_most = sum(todo.values()) > 0
        study = prepared.study
        fixed = {"trials": study.trials, "seeds": len(study.seeds), "search": _space(study)}
        rows = {
            arm.name: fixed
            | {
                "own values": study.own_values(arm),
                "epochs": arm.recipe.epochs,
                "best to confirm": standing[arm.name].confirmed,
            }
            for arm in study.arms
        }
        seconds = tuning.estimate(prepared, todo)
    else:
        pairs = seed_study.runs_to_do(prepared, storage, fresh)
        at_most = False
        todo = {what: sum(arm == what for arm, _ in pairs) for what in prepared.study.governs}
        rows = {
            what: {"seeds": len(prepared.study.seeds), "epochs": prepared.study.recipe.epochs}
            for what in prepared.study.governs
        }
        seconds = runner.estimate(prepared.runs, pairs)
    rows = {arm: row | {"runs to do": todo[arm]} for arm, row in rows.items()}
    columns = ["arm", *next(iter(rows.values()))]
    table = TextTable(columns, [[arm, *map(_text, row.values())] for arm, row in rows.items()])
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
    prepared: PreparedStudy,
    storage: str,
    fresh: bool = False,
    tracking_uri: str | None = None,
    progress: Any = None,
) -> tuple[StudyReport, pd.DataFrame]:
    """Train what is missing of a study and return its report, with a row per trial.

    The report also goes to reports/, to the study's run in MLflow and to Optuna's dashboard.
    `progress` is a tuning.Progress or, for a study of seeds, a runner.Progress.
    """
    with (
        driving(storage, prepared.title) as optuna_storage,
        Store.writing(tracking_uri) as store,
    ):
        if isinstance(prepared, tuning.PreparedSearch):
            result, records = tuning.run(prepared, optuna_storage, store, fresh, progress)
            report = search_report.report(result)
        else:
            result, records = seed_study.run(prepared, optuna_storage, store, fresh, progress)
            report = seed_report.report(result)
        files = report.files()
        store.put(result.run_id, files)
        if prepared.study.file.is_file():
            store.put(result.run_id, {"study.yaml": prepared.study.file})
        _publish(records, report)
    folder = FOLDER / prepared.title
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return report, result.frame


def _publish(records: Records, report: StudyReport) -> None:
    """Put the report beside every arm's study in Optuna's dashboard: a note and the plots."""
    from optuna_dashboard import save_note, save_plotly_graph_object

    note = report.markdown()
    for record in records.values():
        save_note(record, note)
        for name, plot in report.plots.items():
            save_plotly_graph_object(record, plot, graph_object_id=name)
