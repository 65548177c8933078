"""The package from Python: one function for each command.

Heavy imports wait until a function needs them, so that a wrong file or missing data end a command
before these seconds are spent.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.system import disk
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
    from lecun_ablate.running.two_arms import ArmComparison
    from lecun_ablate.running.two_runs import RunComparison
    from lecun_ablate.statistics import PairResult, PowerAnalysis
    from lecun_ablate.studies.runner import FinishedStudy, StudyPlan
    from lecun_ablate.tracking.contents import Doomed, Entry
    from lecun_ablate.tracking.doctor import Finding
    from lecun_ablate.tracking.records import OtherPlan, PlanRecord
    from lecun_ablate.tracking.store import Store
    from lecun_ablate.tracking.writer import Writer

REPORTS = Path("reports")
STUDY_STORAGE = "sqlite:///studies/optuna.db"


@dataclass(frozen=True)
class Options:
    """Where data are, what trains, and where results are stored."""

    data_dir: Path | None = None  # None: LECUN_ABLATE_DATA, otherwise the cache, otherwise the Hub
    trainer: str = "auto"  # see trainers.names.TrainerChoice
    device: str = "auto"  # see trainers.names.DeviceChoice
    storage: str = STUDY_STORAGE  # where Optuna keeps studies
    tracking_uri: str | None = None  # of MLflow; None: MLFLOW_TRACKING_URI, else ./mlflow.db


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Callbacks that report while a command works."""

    notice: Callable[[str], None] = warnings.warn  # notices that a user must not miss
    remark: Callable[[str], None] = _ignore  # remarks that explain a delay or a choice
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
            "arms": {arm.name: arm.described for arm in plan.experiment.arms},
            "arms_at_most": plan.experiment.most_arms,
            "baseline": plan.experiment.baseline,
            "seeds": list(plan.experiment.seeds),
            "runs": len(plan.keys),
            "done": len(plan.keys) - len(self.todo),
            "todo": len(self.todo),
            "estimated_seconds": round(self.seconds, 1),
            "trainers": {arm.name: plan.trainers[arm.name].name for arm in plan.experiment.arms},
        }


@dataclass(frozen=True)
class Shown:
    """The results of an experiment, and where to see more of them."""

    evidence: Evidence
    link: str  # to the MLflow UI
    ui_command: str | None  # that starts the UI, unless it is running already
    other_plans: list[OtherPlan]

    @property
    def frame(self) -> pd.DataFrame:
        """The results, as `load_results` returns them."""
        return self.evidence.results.frame

    @property
    def arms(self) -> list[str]:
        """The names of the arms."""
        return [arm.name for arm in self.evidence.plan.experiment.arms]

    def __getitem__(self, arm: str) -> pd.DataFrame:
        """Return the results of an arm; raises ConfigError with the valid names."""
        self.evidence.plan.experiment.arm(arm)
        return self.frame[self.frame.arm == arm]

    def _ipython_key_completions_(self) -> list[str]:
        return self.arms

    def _repr_html_(self) -> str:
        """Return what a notebook shows: answer, arms and comparisons."""
        from lecun_ablate.reporting.html import summary

        return summary(self.evidence, self.link)

    @property
    def notices(self) -> list[str]:
        """Notices about runs that are not among the results."""
        left_out = self.evidence.results.left_out
        if not left_out:
            return []
        again = "`run` the experiment again: that trains them again"
        return ["\n".join([f"Left out of these results; {again}:", *left_out])]


@dataclass(frozen=True)
class ShownStudy:
    """A study's report as it was written when the study was last run, and where to see more."""

    text: str  # Markdown
    values: dict[str, Any]
    link: str  # to the MLflow UI
    ui_command: str | None


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
    only: Sequence[str] = (),
    without_seeds: Sequence[int] = (),
    all_pairs: bool = False,
    storage: str = STUDY_STORAGE,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train the missing runs of an experiment and return all of its results.

    `experiment` is a YAML file, which the keyword arguments override as the options of the command
    line do, or an Experiment. `storage` is where Optuna keeps the study that tunes it, if one does;
    `tune` finishes that study first. `only` names the arms to train now, if not all;
    `without_seeds` leaves seeds out of training and of the results; `all_pairs` compares every arm
    with every other. Returns a tidy frame with a row per run and epoch: arm, seed, epoch,
    train_loss, train_error, train_misses, test_loss, test_error, test_misses (errors as fractions),
    epoch_seconds, status and run_id. They include seeds that the same plan was run with before.
    Raises ConfigError, DataError or LecunAblateError.
    """
    from lecun_ablate.config.source import Overrides

    overrides = Overrides(
        seeds, epochs, dtype, data, components, assignments, without_seeds, all_pairs
    )
    options = Options(_path(data_dir), trainer, device, storage, tracking_uri)
    watch = Watch(progress=progress)
    shown = evaluate(experiment, overrides, options, watch, tune=tune, only=only)
    return shown.evidence.results.frame


def evaluate(
    experiment: str | Path | Experiment,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    tune: bool = False,
    only: Sequence[str] = (),
) -> Shown:
    """Do the same as `run`, and return the results with their evidence.

    The report is written under reports/ and to the experiment's run in MLflow.
    """
    experiment = _experiment(experiment, overrides, options, watch, writes=True)
    from lecun_ablate.running.experiment import run_experiment
    from lecun_ablate.tracking.plan_run import PlanRun
    from lecun_ablate.tracking.writer import Writer

    if tune:
        _tune(experiment, options, watch)
    for arm in only:
        experiment.arm(arm)  # a wrong name raises
    prepared = replace(prepare(experiment, options), only=tuple(only))
    for notice in prepared.notices:
        watch.notice(notice)
    # statistics and figures are needed only at the end, so they are imported during training
    with Writer.opened(options.tracking_uri) as writer, _importing("lecun_ablate.reporting.page"):
        with PlanRun.opened(writer, prepared.plan, watch.notice) as plan_run:
            results = run_experiment(prepared, plan_run, watch.progress)
            from lecun_ablate.reporting.conclusion import conclude

            evidence = conclude(results, writer.files, plan_run)
        _write_report(evidence, prepared.digits, writer)
        return _shown(evidence, writer.store)


def dry_run(
    experiment: str | Path | Experiment,
    overrides: Overrides,
    options: Options,
    watch: Watch = UNWATCHED,
    *,
    tune: bool = False,
    only: Sequence[str] = (),
) -> DryRun:
    """Return what `run` would do; arms whose study has not been run have their own values."""
    experiment = _experiment(experiment, overrides, options, watch)
    from lecun_ablate.running.estimate import estimate
    from lecun_ablate.tracking.store import still_to_do, with_earlier_arms

    if tune:
        _refuse_untunable(experiment)
    for arm in only:
        experiment.arm(arm)
    prepared = prepare(experiment, options, untuned_too=True)
    for notice in prepared.notices:
        watch.notice(notice)
    plan = with_earlier_arms(prepared.plan, options.tracking_uri)
    todo = still_to_do(plan, options.tracking_uri)
    todo = [run for run in todo if not only or run[0] in only]
    return DryRun(plan, todo, estimate(prepared, todo))


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
        if shared := tuned_arms.shared_seeds(experiment):
            notices.append(shared)
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
        yaml = _read(experiment, overrides, options, watch, "run")
        if writes:
            new_store.begin(options.tracking_uri)
        from lecun_ablate.config.experiment import parse_experiment

        return parse_experiment(yaml, overrides)
    return experiment


def _read(
    file: str | Path, overrides: Overrides, options: Options, watch: Watch, command: str
) -> YamlFile:
    """Read a file. If data are absent, raise DataError or remark that the fallback will be used.

    `command` is the one that takes such files: another command's file raises ConfigError.
    """
    from lecun_ablate.config.source import command_of, data_asked, read
    from lecun_ablate.data.places import seek

    yaml = read(file, overrides)
    other = command_of(yaml)
    if other and other != command:
        kind = {"run": "an experiment", "study": "a study"}[other]
        raise ConfigError(f"{file}: this is {kind}: python -m lecun_ablate {other} {file}")
    asked = data_asked(yaml)
    reason = seek(asked.name, asked.fallback, options.data_dir) if asked else None
    if reason and asked:
        watch.remark(f"{reason.splitlines()[0]}\nusing {asked.fallback} instead")
    return yaml


def _refuse_untunable(experiment: Experiment) -> None:
    if experiment.tuned is None:
        raise ConfigError(f"--tune: {experiment.file} names no study under `tuned`")


def _tune(experiment: Experiment, options: Options, watch: Watch) -> None:
    """Train the missing runs of the study that tunes an experiment."""
    from lecun_ablate.studies import runner
    from lecun_ablate.studies.tuned_arms import NotStudied

    _refuse_untunable(experiment)
    try:
        prepare(experiment, options)
    except NotStudied:  # found values are valid, whichever trainer found them
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

    def work() -> None:
        with suppress(Exception):  # the code that needs the module will raise it again
            import_module(module)

    thread = threading.Thread(target=work)
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


def show_study(name_or_id: str, tracking_uri: str | None = None) -> ShownStudy | None:
    """Return the report of a study, by NAME, NAME/DATA or id; None if it names no study."""
    import json

    from lecun_ablate.tracking.store import Store

    store = Store(tracking_uri)
    run_id = store.study(name_or_id)
    if run_id is None:
        return None
    text, values = (store.files.text(run_id, name) for name in ("study.md", "study.json"))
    command = store.connection.ui_command()
    return ShownStudy(text, json.loads(values), store.study_link(run_id), command)


def show(name_or_id: str, tracking_uri: str | None = None) -> Shown:
    """Return the results of an experiment with their evidence; `name_or_id` as in load_results."""
    store, record, evidence = _weighed(name_or_id, tracking_uri)
    return replace(_shown(evidence, store), other_plans=store.other_plans(record))


def power(
    name_or_id: str, effect: float, tracking_uri: str | None = None
) -> list[tuple[PairResult, PowerAnalysis]]:
    """Return the number of seeds needed to see a true `effect`, a fraction, in each comparison.

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
    link = store.link(evidence.results)
    return Shown(evidence, link, store.connection.ui_command(), [])


def report(
    name_or_id: str,
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    pictures: bool = True,
    tracking_uri: str | None = None,
) -> Path:
    """Write the report of a finished experiment again; return its page.

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


def latex(name_or_id: str, *, tracking_uri: str | None = None) -> Path:
    """Write report.tex, for a paper, beside the page of a finished experiment; return it.

    `name_or_id` as in load_results.
    """
    from lecun_ablate.reporting.latex import latex as written
    from lecun_ablate.tracking.writer import Writer

    store, record, evidence = _weighed(name_or_id, tracking_uri)
    content = written(evidence).encode()
    Writer(store).put(record.run_id, {"report.tex": content})
    file = page_of(evidence.plan).with_name("report.tex")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _write_report(evidence: Evidence, digits: Digits | None, writer: Writer) -> Path:
    """Write the report under reports/ and to the plan's run in MLflow; return the page."""
    from lecun_ablate.reporting.page import build

    files = build(evidence, digits, writer.files)
    writer.put(evidence.results.run_id, files)
    page = page_of(evidence.plan)
    for name, content in files.items():
        disk.write(page.parent / name, content)
    return page


def page_of(plan: Plan) -> Path:
    """Return where the page of a plan's report is written."""
    variant = re.sub(r"[^\w.=+-]+", ",", plan.experiment.variant.replace("--set ", ""))
    variant = re.sub(r"--(\w+),", r"\1=", variant).replace("--", "")
    return REPORTS / plan.tracking_name / variant / "report.html"


def compare(a: str, b: str, tracking_uri: str | None = None) -> RunComparison | ArmComparison:
    """Compare two single runs digit by digit, or two arms over the seeds that they share.

    A run is given by its id, the first digits of it, or as EXPERIMENT:ARM:SEED; an arm as
    EXPERIMENT:ARM. Differences are the first minus the second.
    """
    from lecun_ablate.running.two_arms import compare_arms, is_arm
    from lecun_ablate.running.two_runs import compare_runs
    from lecun_ablate.tracking.store import Store

    store = Store(tracking_uri)
    if is_arm(a) and is_arm(b):
        return compare_arms(store, a, b)
    if is_arm(a) or is_arm(b):
        raise LecunAblateError(f"expected two arms or two runs, got {a!r} and {b!r}")
    return compare_runs(store, a, b)


def contents(tracking_uri: str | None = None) -> list[Entry]:
    """Return an entry for each experiment and study of the store, the last run first."""
    from lecun_ablate.tracking.contents import entries
    from lecun_ablate.tracking.store import Store

    return entries(Store(tracking_uri))


def export(name_or_id: str, kind: str, tracking_uri: str | None = None) -> bytes:
    """Return the results of an experiment as a file: `kind` is csv, parquet or latex.

    The first two have the frame of load_results, the last has the tables of `latex`.
    """
    from lecun_ablate.reporting import export
    from lecun_ablate.reporting.latex import latex as written
    from lecun_ablate.tracking.store import Store

    if kind == "latex":
        return written(_weighed(name_or_id, tracking_uri)[2]).encode()
    store = Store(tracking_uri)
    frame = store.results(store.find(name_or_id)).frame
    return {"csv": export.csv, "parquet": export.parquet}[kind](frame)


def comparisons(name_or_id: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the comparisons of an experiment, a row per pair; errors and differences as fractions.

    `name_or_id` as in load_results; the columns are those of `comparisons` in `show --json`.
    """
    import pandas as pd

    from lecun_ablate.evidence.records import comparison_record

    evidence = _weighed(name_or_id, tracking_uri)[2]
    return pd.DataFrame([comparison_record(evidence, p) for p in evidence.comparisons.pairs])


def doomed(name: str, tracking_uri: str | None = None) -> Doomed:
    """Return what `delete` would delete."""
    from lecun_ablate.tracking.contents import doomed
    from lecun_ablate.tracking.store import Store

    return doomed(Store(tracking_uri), name)


def delete(what: Doomed, tracking_uri: str | None = None) -> None:
    """Delete an experiment or a study from MLflow, which hides it until `mlflow gc`."""
    from lecun_ablate.tracking.contents import delete
    from lecun_ablate.tracking.writer import Writer

    with Writer.opened(tracking_uri) as writer:
        delete(writer, what)


def link(name_or_id: str, tracking_uri: str | None = None) -> tuple[str, str | None]:
    """Return the address of an experiment in the MLflow UI, and the command that starts the UI."""
    from lecun_ablate.tracking.store import Store

    store = Store(tracking_uri)
    study = store.study(name_or_id)
    found = store.study_link(study) if study else store.link(store.find(name_or_id))
    return found, store.connection.ui_command()


def init(folder: str | Path) -> list[Path]:
    """Create a starter project: an experiment, a study and a component file, with comments.

    Existing files are never replaced; they raise ConfigError. Returns the files.
    """
    from importlib.resources import as_file, files

    with as_file(files("lecun_ablate") / "starter") as source:
        names = sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file())
        names = [name for name in names if "__pycache__" not in name.parts]
        target = Path(folder)
        there = [target / name for name in names if (target / name).exists()]
        if there:
            raise ConfigError(f"{there[0]}: already exists, and is not replaced")
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())
    return [target / name for name in names]


def reproduce(
    run_id: str,
    *,
    data_dir: str | Path | None = None,
    components: Sequence[str | Path] = (),
    trainer: str | None = None,
    trust_components: bool = False,
    tracking_uri: str | None = None,
) -> Reproduction:
    """Train a single run again from what MLflow has, and compare every metric.

    `trainer` is another trainer than the run's own. Components that only the store holds are code:
    `trust_components` lets it run. See running.reproduce.reproduce.
    """
    from lecun_ablate.running import reproduce
    from lecun_ablate.running.two_arms import run_id as named_run
    from lecun_ablate.tracking.store import Store

    _load(components)
    store = Store(tracking_uri)
    return reproduce.reproduce(
        store, named_run(store, run_id), _path(data_dir), trainer, trust_components
    )


@dataclass(frozen=True)
class Examination:
    """What `doctor` found."""

    where: str  # the store
    findings: list[Finding]
    repaired: int


def doctor(*, repair: bool = False, tracking_uri: str | None = None) -> Examination:
    """Look for everything that is wrong with the store; `repair` makes the repairs that are safe.

    Raises LecunAblateError if the store cannot be opened; the message says what can be saved.
    """
    from lecun_ablate.tracking import doctor
    from lecun_ablate.tracking.address import address

    findings = doctor.examine(tracking_uri)
    repaired = doctor.repair(findings, tracking_uri) if repair else 0
    return Examination(without_passwords(address(tracking_uri)), findings, repaired)


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
    """Train the missing runs of a study and return a row per trial.

    `file` is a study's YAML; `storage` is where Optuna keeps it: sqlite:///FILE, any other address
    that SQLAlchemy knows, or the path of a journal file. `fresh` starts a new version of a study,
    beside the old one. Columns: those of studies.outcome.SearchResult.frame for a search, of
    studies.seeds.SeedResult.frame for a study of seeds. Raises ConfigError, DataError or
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
    """Do the same as `study`, and return the report as well."""
    yaml = _read(file, overrides, options, watch, "study")
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
    yaml = _read(file, overrides, options, watch, "study")
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
    """Return where each data set was looked for and what was found."""
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
