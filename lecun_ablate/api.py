"""The package from Python: what the command line calls, too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lecun_ablate import data as datasets
from lecun_ablate.config.experiment import Experiment, load_experiment
from lecun_ablate.data import Digits
from lecun_ablate.plan.plan import Plan
from lecun_ablate.registry import registry
from lecun_ablate.running import training as runner
from lecun_ablate.running.training import Prepared, Progress
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.tracking.store import Store

if TYPE_CHECKING:
    from lecun_ablate.evidence.weighing import Evidence

REPORTS = Path("reports")
STUDY_STORAGE = "sqlite:///studies/optuna.db"


def run(
    experiment: str | Path | Experiment,
    *,
    seeds: int | Sequence[int] | None = None,
    epochs: int | None = None,
    dtype: str | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    assignments: Sequence[str] = (),
    trainer: str = "auto",
    device: str = "auto",
    storage: str = STUDY_STORAGE,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train what is missing of an experiment and return all of its results.

    `experiment` is a YAML file, which the keyword arguments override as the options of the command
    line do, or an Experiment; `storage` is where Optuna keeps the study that tunes it, if one
    does. Returns a tidy frame with a row per run and epoch: arm, seed, epoch,
    train_loss, train_error, train_misses, test_loss, test_error, test_misses (errors as
    fractions), epoch_seconds, status and run_id. Seeds that the same plan has been run with before
    are among them. Raises ConfigError, DataError or LecunAblateError.
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(
            experiment,
            seeds=seeds,
            epochs=epochs,
            dtype=dtype,
            data=data,
            components=components,
            assignments=assignments,
        )
    prepared = prepare(experiment, data_dir, trainer, device, storage)
    return run_prepared(prepared, tracking_uri, progress).results.frame


def prepare(
    experiment: Experiment,
    data_dir: str | Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
    storage: str = STUDY_STORAGE,
    untuned_too: bool = False,
) -> Prepared:
    """Load an experiment's data, give its arms their tuned values, and make its plan.

    `storage` is where Optuna keeps the study that tunes the arms. Raises
    tuned_arms.NotStudied where that has not been run on these data; `untuned_too` makes it a
    notice.
    """
    digits = datasets.load(
        experiment.data.name, experiment.data.fallback, Path(data_dir) if data_dir else None
    )
    notices = []
    if experiment.tuned:
        from lecun_ablate.studies import tuned_arms

        options = _study_options(experiment, data_dir, storage)
        try:
            experiment = tuned_arms.apply(experiment, digits, storage, options)
        except tuned_arms.NotStudied as missing:
            if not untuned_too:
                raise
            notices = [f"{missing}\nThe plan shows the values before tuning."]
    prepared = runner.prepare(experiment, digits, trainer, device)
    return replace(prepared, notices=[*prepared.notices, *notices])


def _study_options(experiment: Experiment, data_dir: str | Path | None, storage: str) -> list[str]:
    """Return the options of `study` that lead it to the same data, components and storage."""
    options = ["--data-dir", str(data_dir)] if data_dir else []
    options += [word for file in experiment.components or () for word in ("--components", file)]
    if storage != STUDY_STORAGE:
        options += ["--storage", without_passwords(storage)]
    return options


def run_prepared(
    prepared: Prepared,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] = warnings.warn,
) -> Evidence:
    """Train what is missing of a plan, track it, and write its report under reports/."""
    with Store.writing(tracking_uri) as store:
        evidence = runner.execute(prepared, store, progress, notice)
        write_report(evidence, prepared.digits, store)
    return evidence


def report(
    name_or_id: str,
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    pictures: bool = True,
    tracking_uri: str | None = None,
) -> Path:
    """Write the report of an experiment that has been run again; return its page.

    `name_or_id` as for `load_results`. Raises DataError where the digits are not to be had, or are
    not those that the runs were tested on; without `pictures` of them, they are not needed.
    """
    from lecun_ablate.evidence.weighing import weigh

    for file in components:
        registry.load(file)
    store = Store(tracking_uri)
    evidence = weigh(runner.load(store, store.find(name_or_id).info.run_id), store)
    digits = None
    if pictures:
        folder = Path(data_dir) if data_dir else None
        digits = datasets.load_exactly(evidence.plan.data, evidence.plan.data_digest, folder)
    return write_report(evidence, digits, store)


def write_report(evidence: Evidence, digits: Digits | None, store: Store) -> Path:
    """Write the report under reports/ and to the experiment's MLflow run; return the page."""
    from lecun_ablate.report.page import build

    files = build(evidence, digits, store)
    store.put(evidence.results.run_id, files)
    page = page_of(evidence.plan)
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (page.parent / name).write_bytes(content)
    return page


def page_of(plan: Plan) -> Path:
    """Return where the page of a plan's report is written."""
    return REPORTS / plan.tracking_name / "report.html"


def study(
    file: str | Path,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    assignments: Sequence[str] = (),
    trainer: str = "auto",
    device: str = "auto",
    storage: str = STUDY_STORAGE,
    fresh: bool = False,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Train what is missing of a study and return a row per trial.

    `file` is a study's YAML; `storage` is where Optuna keeps it: sqlite:///FILE, any other address
    that SQLAlchemy knows, or the path of a journal file. `fresh` starts a new version of a study,
    beside the old one. Columns: as search_outcome.StudyResult.frame for a study that searches, as
    seed_study.SeedResult.frame for one of seeds. Raises ConfigError, DataError or
    LecunAblateError.
    """
    from lecun_ablate.config.study import load_study
    from lecun_ablate.studies import study_runner

    asked = load_study(file, data=data, components=components, assignments=assignments)
    prepared = study_runner.prepare(asked, data_dir, trainer, device)
    return study_runner.run(prepared, storage, fresh, tracking_uri)[1]


def load_results(name_or_id: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the results of an experiment that has been run, as `run` does.

    `name_or_id` is an experiment's name, 'name/data', or the id of any of its MLflow runs; of
    several plans, the latest. Raises LecunAblateError with the nearest names.
    """
    store = Store(tracking_uri)
    return runner.load(store, store.find(name_or_id).info.run_id).frame
