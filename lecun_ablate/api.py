"""The package from Python: what the command line calls, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lecun_ablate import data as datasets
from lecun_ablate import runner
from lecun_ablate.experiment import Experiment, load_experiment
from lecun_ablate.runner import Prepared, Progress, Results
from lecun_ablate.tracking import Store

REPORTS = Path("reports")


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
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train what is missing of an experiment and return all of its results.

    `experiment` is a YAML file, which the keyword arguments override as the options of the command
    line do, or an Experiment. Returns a tidy frame with a row per run and epoch: arm, seed, epoch,
    train_loss, train_error, train_misses, test_loss, test_error, test_misses (errors as
    fractions), epoch_seconds, status and run_id. Raises ConfigError, DataError or
    LecunAblateError.
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(
            experiment, seeds=seeds, epochs=epochs, dtype=dtype, data=data,
            components=components, assignments=assignments,
        )  # fmt: skip
    prepared = prepare(experiment, data_dir=data_dir, trainer=trainer, device=device)
    return run_prepared(prepared, tracking_uri, progress).frame


def prepare(
    experiment: Experiment,
    data_dir: str | Path | None = None,
    trainer: str = "auto",
    device: str = "auto",
) -> Prepared:
    """Load an experiment's data, choose its trainers and make its plan."""
    digits = datasets.load(
        experiment.data.name, experiment.data.fallback, Path(data_dir) if data_dir else None
    )
    return runner.prepare(experiment, digits, trainer, device)


def run_prepared(
    prepared: Prepared, tracking_uri: str | None = None, progress: Progress | None = None
) -> Results:
    """Train what is missing of a plan, track it, and write its figure under reports/."""
    with Store.writing(tracking_uri) as store:
        results = runner.execute(prepared, store, progress)
        write_report(results, store)
    return results


def write_report(results: Results, store: Store) -> list[Path]:
    """Write the figures of an experiment under reports/ and to its MLflow run."""
    from lecun_ablate.report.figures import learning_curves, png

    plan = results.plan
    title = f"{plan.experiment.name} on {plan.data}"
    figures = {"learning_curves.png": png(learning_curves(results.frame, title))}
    store.put(results.run_id, figures)
    folder = REPORTS / plan.tracking_name
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in figures.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in figures]


def load_results(name_or_id: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the results of an experiment that has been run, as `run` does.

    `name_or_id` is an experiment's name, 'name/data', or the id of any of its MLflow runs; of
    several plans, the latest. Raises LecunAblateError with the nearest names.
    """
    store = Store(tracking_uri)
    return runner.load(store, store.find(name_or_id).info.run_id).frame
