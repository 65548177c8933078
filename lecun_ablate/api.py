"""The package from Python: one function for each thing that the command line does.

Heavy imports wait until a function needs them, so that a wrong file or missing data end a command
before the seconds that they take.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lecun_ablate.errors import ConfigError
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.tracking import new_store

if TYPE_CHECKING:
    import pandas as pd

    from lecun_ablate.config.experiment import Experiment
    from lecun_ablate.config.source import Overrides
    from lecun_ablate.config.yaml_file import YamlFile
    from lecun_ablate.data import Digits
    from lecun_ablate.data.places import Found
    from lecun_ablate.evidence.weighing import Evidence
    from lecun_ablate.plan.plan import Plan
    from lecun_ablate.registry import Component
    from lecun_ablate.running.progress import Progress
    from lecun_ablate.running.reproduce import Reproduction
    from lecun_ablate.running.training import Prepared
    from lecun_ablate.running.two_runs import RunComparison
    from lecun_ablate.statistics import PairResult, PowerAnalysis
    from lecun_ablate.studies.runner import FinishedStudy, StudyPlan
    from lecun_ablate.tracking.records import OtherPlan, PlanRecord
    from lecun_ablate.tracking.store import Store
    from lecun_ablate.tracking.writer import Writer

REPORTS = Path("reports")
STUDY_STORAGE = "sqlite:///studies/optuna.db"


@dataclass(frozen=True)
class Options:
    """Where data are, what trains, and where results are stored."""

    data_dir: Path | None = None  # None: LECUN_ABLATE_DATA, else the cache, else the Hub
    trainer: str = "auto"  # see trainers.names.TrainerChoice
    device: str = "auto"  # see trainers.names.DeviceChoice
    storage: str = STUDY_STORAGE  # where Optuna keeps studies
    tracking_uri: str | None = None  # of MLflow; None: MLFLOW_TRACKING_URI, else ./mlflow.db


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """What is told while a command works."""

    notice: Callable[[str], None] = warnings.warn  # what a user must know
    remark: Callable[[str], None] = _ignore  # what explains a delay or a choice
    progress: Progress | None = None
    studied: Callable[[FinishedStudy], None] = _ignore  # a study that `tune` has run first


UNWATCHED = Watch()


@dataclass(frozen=True)
class DryRun:
    """What an experiment would do."""

    plan: Plan
    todo: list[tuple[str, int]]  # (arm, seed) runs that are still to be trained
    seconds: float  # about how long they take

    @property
    def values(self) -> dict[str, object]:
        """The same as plain values."""
        plan = self.plan
        return {
            "experiment": plan.experiment.name,
            "data": plan.data,
            "data_digest": plan.data_digest,
            "arms": {arm.name: arm.recipe.model_dump() for arm in plan.experiment.arms},
            "baseline": plan.experiment.baseline,
            "seeds": list(plan.experiment.seeds),
            "runs": len(plan.keys),
            "done": len(plan.keys) - len(self.todo),
            "todo": len(self.todo),
            "estimated_seconds": round(self.seconds, 1),
            "trainers": {arm: identity.name for arm, identity in plan.trainers.items()},
        }


@dataclass(frozen=True)
class Shown:
    """The results of an experiment, and where to see more of them."""

    evidence: Evidence
    link: str  # to the MLflow UI
    ui_command: str | None  # that starts the UI, unless it is running already
    other_plans: list[OtherPlan]


# ---- run


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
    tune: bool = False,
    storage: str = STUDY_STORAGE,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train what is missing of an experiment and return all of its results.

    `experiment` is a YAML file, which the keyword arguments override as the options of the command
    line do, or an Experiment. `storage` is where Optuna keeps the study that tunes it, if one does;
    `tune` runs what is missing of that study first. Returns a tidy frame with a row per run and
    epoch: arm, seed, epoch, train_loss, train_error, train_misses, test_loss, test_error,
    test_misses (errors as fractions), epoch_seconds, status and run_id. Seeds that the same plan
    has been run with before are among them. Raises ConfigError, DataError or LecunAblateError.
    """
    from lecun_ablate.config.source import Overrides

    overrides = Overrides(seeds, epochs, dtype, data, components, assignments)
    options = Options(_path(data_dir), trainer, device, storage, tracking_uri)
    watch = Watch(progress=progress)
    shown = evaluate(experiment, overrides, options, watch, tune=tune)
    return shown.evidence.results.frame


def evaluate(
    experiment: str | Path | Experiment,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    tune: bool = False,
) -> Shown:
    """Do as `run` does, and return the results with what they show.

    The report is written under reports/ and to the experiment's run in MLflow.
    """
    experiment = _experiment(experiment, overrides, options, watch, writes=True)
    from lecun_ablate.running.experiment import run_experiment
    from lecun_ablate.tracking.writer import Writer

    if tune:
        _tune(experiment, options, watch)
    prepared = prepare(experiment, options)
    for notice in prepared.notices:
        watch.notice(notice)
    # only the report needs this; most of the import goes on while the trainer is at work
    with Writer.opened(options.tracking_uri) as writer, _importing("lecun_ablate.reporting.page"):
        evidence = run_experiment(prepared, writer, watch.notice, watch.progress)
        _write_report(evidence, prepared.digits, writer)
    return _shown(evidence, writer.store)


def dry_run(
    experiment: str | Path | Experiment,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    tune: bool = False,
) -> DryRun:
    """Return what `run` would do; arms whose study has not been run have their own values."""
    experiment = _experiment(experiment, overrides, options, watch)
    from lecun_ablate.running.estimate import estimate
    from lecun_ablate.tracking.store import still_to_do

    if tune:
        _refuse_untunable(experiment)
    prepared = prepare(experiment, options, untuned_too=True)
    for notice in prepared.notices:
        watch.notice(notice)
    todo = still_to_do(prepared.plan, options.tracking_uri)
    return DryRun(prepared.plan, todo, estimate(prepared, todo))


def prepare(
    experiment: Experiment, options: Options = Options(), untuned_too: bool = False
) -> Prepared:
    """Load an experiment's data, give its arms their tuned values, and make its plan.

    Raises tuned_arms.NotStudied if the study that tunes the arms has not been run on these data;
    `untuned_too` makes that a notice.
    """
    from lecun_ablate import data as datasets
    from lecun_ablate.running import training

    digits = datasets.load(experiment.data.name, experiment.data.fallback, options.data_dir)
    notices = []
    if experiment.tuned:
        from lecun_ablate.studies import tuned_arms

        said = _study_options(experiment, options)
        try:
            experiment = tuned_arms.apply(experiment, digits, options.storage, said)
        except tuned_arms.NotStudied as missing:
            if not untuned_too:
                raise
            notices = [f"{missing}\nThe plan shows the values before tuning."]
    prepared = training.prepare(experiment, digits, options.trainer, options.device)
    return replace(prepared, notices=[*prepared.notices, *notices])


def _experiment(
    experiment: str | Path | Experiment,
    overrides: Overrides,
    options: Options,
    watch: Watch,
    writes: bool = False,
) -> Experiment:
    """Return an experiment; read from a file, and its data looked for before the slow imports."""
    if isinstance(experiment, str | Path):
        yaml = _read(experiment, overrides, options, watch)
        if writes:
            new_store.begin(options.tracking_uri)
        from lecun_ablate.config.experiment import parse_experiment

        return parse_experiment(yaml, overrides)
    return experiment


def _read(file: str | Path, overrides: Overrides, options: Options, watch: Watch) -> YamlFile:
    """Read a file; raise DataError, or remark that a fallback will be taken, if data are absent."""
    from lecun_ablate.config.source import data_asked, read
    from lecun_ablate.data.places import seek

    yaml = read(file, overrides)
    asked = data_asked(yaml)
    reason = seek(asked.name, asked.fallback, options.data_dir) if asked else None
    if reason and asked:
        watch.remark(f"{reason.splitlines()[0]}\ngoing on with {asked.fallback}")
    return yaml


def _refuse_untunable(experiment: Experiment) -> None:
    if experiment.tuned is None:
        raise ConfigError(f"--tune: {experiment.file} names no study under `tuned`")


def _tune(experiment: Experiment, options: Options, watch: Watch) -> None:
    """Run what is missing of the study that tunes an experiment."""
    from lecun_ablate.studies import runner
    from lecun_ablate.studies.tuned_arms import NotStudied

    _refuse_untunable(experiment)
    try:
        prepare(experiment, options)
    except NotStudied:  # values that have been found are good, whichever trainer found them
        prepared = runner.prepare_tuning(
            experiment, options.data_dir, options.trainer, options.device
        )
        for notice in prepared.notices:
            watch.notice(notice)
        uri, progress = options.tracking_uri, watch.progress
        watch.studied(runner.run(prepared, options.storage, False, uri, progress))


def _study_options(experiment: Experiment, options: Options) -> Mapping[str, object]:
    """Return the options with which `study` finds the same data, components and storage."""
    storage = None if options.storage == STUDY_STORAGE else without_passwords(options.storage)
    return {
        "--data-dir": options.data_dir,
        "--components": experiment.components or [],
        "--storage": storage,
    }


@contextmanager
def _importing(module: str) -> Iterator[None]:
    """Import a module on another thread while the block runs."""
    thread = threading.Thread(target=import_module, args=(module,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _path(path: str | Path | None) -> Path | None:
    return Path(path) if path else None


# ---- what has been run


def load_results(name_or_id: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the results of an experiment that has been run, as `run` does.

    `name_or_id` is an experiment's name, 'name/data', its YAML file, or the id of any of its MLflow
    runs; of several plans, the latest. Raises LecunAblateError with the nearest names.
    """
    from lecun_ablate.tracking.store import Store

    store = Store(tracking_uri)
    return store.results(store.find(name_or_id)).frame


def show(name_or_id: str, tracking_uri: str | None = None) -> Shown:
    """Return the results of an experiment with what they show; `name_or_id` as in load_results."""
    store, record, evidence = _weighed(name_or_id, tracking_uri)
    return replace(_shown(evidence, store), other_plans=store.other_plans(record))


def power(
    name_or_id: str, effect: float, tracking_uri: str | None = None
) -> list[tuple[PairResult, PowerAnalysis]]:
    """Return how many seeds it takes to see a true `effect`, a fraction, in each comparison.

    `name_or_id` as in load_results. Raises LecunAblateError if no two arms have two seeds in
    common.
    """
    if not 0 < effect < 1:
        raise ConfigError(
            f"--effect {100 * effect:g}: expected points of error, more than 0 and below 100"
        )
    return _weighed(name_or_id, tracking_uri)[2].power(effect)


def _weighed(name_or_id: str, tracking_uri: str | None) -> tuple[Store, PlanRecord, Evidence]:
    from lecun_ablate.evidence.weighing import weigh
    from lecun_ablate.tracking.store import Store

    store = Store(tracking_uri)
    record = store.find(name_or_id)
    return store, record, weigh(store.results(record), store.files)


def _shown(evidence: Evidence, store: Store) -> Shown:
    return Shown(evidence, store.link(evidence.results), store.connection.ui_command(), [])


def report(
    name_or_id: str,
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    pictures: bool = True,
    tracking_uri: str | None = None,
) -> Path:
    """Write the report of an experiment that has been run once more; return its page.

    `name_or_id` as in load_results. Raises DataError if the digits are not available, or are not
    those that the runs were tested on; without `pictures` of them, they are not needed.
    """
    from lecun_ablate import data as datasets
    from lecun_ablate.tracking.writer import Writer

    _load(components)
    store, _, evidence = _weighed(name_or_id, tracking_uri)
    digits = None
    if pictures:
        plan = evidence.plan
        digits = datasets.load_exactly(plan.data, plan.data_digest, _path(data_dir))
    return _write_report(evidence, digits, Writer(store))


def _write_report(evidence: Evidence, digits: Digits | None, writer: Writer) -> Path:
    """Write the report under reports/ and to the plan's run in MLflow; return the page."""
    from lecun_ablate.reporting.page import build

    files = build(evidence, digits, writer.files)
    writer.put(evidence.results.run_id, files)
    page = page_of(evidence.plan)
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (page.parent / name).write_bytes(content)
    return page


def page_of(plan: Plan) -> Path:
    """Return where the page of a plan's report is written."""
    return REPORTS / plan.tracking_name / "report.html"


def compare(run_a: str, run_b: str, tracking_uri: str | None = None) -> RunComparison:
    """Compare two single runs, given by their ids, digit by digit."""
    from lecun_ablate.running.two_runs import compare_runs
    from lecun_ablate.tracking.store import Store

    return compare_runs(Store(tracking_uri), run_a, run_b)


def reproduce(
    run_id: str,
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    trainer: str | None = None,
    tracking_uri: str | None = None,
) -> Reproduction:
    """Train a single run again from what MLflow holds, and compare every metric.

    `trainer` is another trainer than the run's own. See running.reproduce.reproduce.
    """
    from lecun_ablate.running import reproduce
    from lecun_ablate.tracking.store import Store

    _load(components)
    return reproduce.reproduce(Store(tracking_uri), run_id, _path(data_dir), trainer)


# ---- studies


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
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train what is missing of a study and return a row per trial.

    `file` is a study's YAML; `storage` is where Optuna keeps it: sqlite:///FILE, any other address
    that SQLAlchemy knows, or the path of a journal file. `fresh` starts a new version of a study,
    beside the old one. Columns: those of studies.outcome.SearchResult.frame for a study that
    searches, of studies.seeds.SeedResult.frame for one of seeds. Raises ConfigError, DataError or
    LecunAblateError.
    """
    from lecun_ablate.config.source import Overrides

    overrides = Overrides(data=data, components=components, assignments=assignments)
    options = Options(_path(data_dir), trainer, device, storage, tracking_uri)
    return run_study(file, overrides, options, Watch(progress=progress), fresh=fresh).frame


def run_study(
    file: str | Path,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    fresh: bool = False,
) -> FinishedStudy:
    """Do as `study` does, and return the report as well."""
    yaml = _read(file, overrides, options, watch)
    new_store.begin(options.tracking_uri)
    from lecun_ablate.config.study import parse_study
    from lecun_ablate.studies import runner

    asked = parse_study(yaml)
    prepared = runner.prepare(asked, options.data_dir, options.trainer, options.device)
    for notice in prepared.notices + runner.fresh_notices(prepared, options.storage, fresh):
        watch.notice(notice)
    return runner.run(prepared, options.storage, fresh, options.tracking_uri, watch.progress)


def plan_study(
    file: str | Path,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    fresh: bool = False,
) -> StudyPlan:
    """Return what `study` would do, without creating or changing anything."""
    yaml = _read(file, overrides, options, watch)
    from lecun_ablate.config.study import parse_study
    from lecun_ablate.studies import runner

    asked = parse_study(yaml)
    prepared = runner.prepare(asked, options.data_dir, options.trainer, options.device)
    for notice in prepared.notices + runner.fresh_notices(prepared, options.storage, fresh):
        watch.notice(notice)
    return runner.plan(prepared, options.storage, fresh)


# ---- data and components


def data_places(
    data_dir: str | Path | None = None, components: Sequence[str | Path] = ()
) -> list[Found]:
    """Return where each data set was looked for and what is there."""
    from lecun_ablate.data.places import survey

    _load(components)
    return survey(_path(data_dir))


def contact_sheet(
    file: str | Path,
    name: str = "usps",
    fallback: str | None = "digits",
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
) -> Digits:
    """Write a picture (PNG) of many digits of a data set, and return the data set."""
    from lecun_ablate import data as datasets
    from lecun_ablate.data.sheet import contact_sheet
    from lecun_ablate.errors import LecunAblateError

    _load(components)
    digits = datasets.load(name, fallback if fallback != name else None, _path(data_dir))
    try:
        contact_sheet(digits, Path(file))
    except OSError as error:
        raise LecunAblateError(f"{file}: cannot be written: {error.strerror}") from None
    return digits


def components(
    kind: str | None = None, files: Sequence[str | Path] = ()
) -> dict[str, list[Component]]:
    """Return the registered components by kind: of one kind, or of all."""
    from lecun_ablate.registry import KINDS, registry

    _load(files)
    kinds = [kind] if kind else list(KINDS)
    return {one: [registry.get(one, name) for name in registry.names(one)] for one in kinds}


def _load(files: Sequence[str | Path]) -> None:
    from lecun_ablate.registry import registry

    for file in files:
        registry.load(file)
