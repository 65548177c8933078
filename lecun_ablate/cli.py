"""The command line; nothing else knows about a terminal. Heavy imports wait for their command."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.tracking import new_store
from lecun_ablate.trainers.names import DeviceChoice, TrainerChoice

INTERRUPTED = 130
PROGRAM = "python -m lecun_ablate"

app = typer.Typer(
    help="Fair, paired, reproducible ablations of LeCun's 1989 zip-code network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds data/train-00000-of-00001.parquet and its test twin."),
]
Components = Annotated[
    list[Path] | None, typer.Option(help="Python file that registers components; repeatable.")
]
StudyStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where Optuna keeps studies, if not in sqlite:///studies/optuna.db: the "
        "address of a database, or the path of a journal file.",
    ),
]
Experiment = Annotated[
    str, typer.Argument(help="Name of an experiment, its YAML file, or the id of a run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="The YAML file of an experiment.")],
    seeds: Annotated[str | None, typer.Option(help="Number of seeds, or a list: 0,3,7.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every arm.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="recipe.lr=0.05; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set; no fallback then.")] = None,
    data_dir: DataDir = None,
    components: Components = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64, for every arm.")] = None,
    trainer: Annotated[TrainerChoice, typer.Option(help="Who trains.")] = TrainerChoice.auto,
    device: Annotated[DeviceChoice, typer.Option(help="Where.")] = DeviceChoice.auto,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, train nothing.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Run what is missing of the study that tunes it first.")
    ] = False,
    storage: StudyStorage = None,
    as_json: AsJson = False,
) -> None:
    """Train what is missing of an experiment, and compare its arms."""
    _seek_data(experiment, data, components or (), set_ or (), data_dir)
    if not dry_run:
        new_store.begin()
    from lecun_ablate.config.experiment import load_experiment

    asked = load_experiment(
        experiment,
        seeds=_seeds(seeds),
        epochs=epochs,
        dtype=dtype,
        data=data,
        components=components or (),
        assignments=set_ or (),
    )
    from lecun_ablate import api  # slow, so not before the file is known to be right
    from lecun_ablate.terminal import display

    storage = storage or api.STUDY_STORAGE
    if tune and asked.tuned is None:
        raise ConfigError(f"--tune: {asked.file} names no study under `tuned`")
    where = (asked, data_dir, trainer.value, device.value, storage)
    if tune and not dry_run:
        prepared = _tune(where, as_json)
    else:
        prepared = api.prepare(*where, untuned_too=dry_run)
    for notice in prepared.notices:
        display.notice(notice)
    if dry_run:
        _dry_run(prepared, as_json)
        return
    evidence = api.run_prepared(prepared, progress=display.progress(), notice=display.notice)
    _print_results(evidence, as_json)
    if not as_json:
        print(f"report: {api.page_of(evidence.plan)}")


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="The YAML file of a study.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="trials=64; repeatable.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set; no fallback then.")] = None,
    data_dir: DataDir = None,
    components: Components = None,
    trainer: Annotated[TrainerChoice, typer.Option(help="Who trains.")] = TrainerChoice.auto,
    device: Annotated[DeviceChoice, typer.Option(help="Where.")] = DeviceChoice.auto,
    storage: StudyStorage = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new version.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train what is missing of a study: search values for every arm, or repeat one over seeds."""
    _seek_data(file, data, components or (), set_ or (), data_dir)
    if not dry_run:
        new_store.begin()
    from lecun_ablate import api
    from lecun_ablate.config.study import load_study
    from lecun_ablate.studies import study_runner
    from lecun_ablate.terminal import display, study_display

    storage = storage or api.STUDY_STORAGE
    asked = load_study(file, data=data, components=components or (), assignments=set_ or ())
    prepared = study_runner.prepare(asked, data_dir, trainer.value, device.value)
    for notice in prepared.notices + study_runner.fresh_notices(prepared, storage, fresh):
        display.notice(notice)
    if dry_run:
        planned = study_runner.plan(prepared, storage, fresh)
        if as_json:
            print(json.dumps(planned.values, indent=2))
        else:
            study_display.plan(planned)
        return
    report, _ = study_runner.run(
        prepared, storage, fresh, progress=study_display.progress_of(prepared)
    )
    if as_json:
        print(json.dumps(report.values, indent=2))
    else:
        study_display.report(report, study_runner.FOLDER / prepared.title, storage)


@app.command()
def show(
    experiment: Experiment,
    as_json: AsJson = False,
) -> None:
    """Print the results of an experiment again."""
    from lecun_ablate.evidence.weighing import weigh
    from lecun_ablate.running import training as runner
    from lecun_ablate.terminal import display
    from lecun_ablate.tracking.store import Store

    store = Store()
    found = store.find(experiment)
    _print_results(weigh(runner.load(store, found.info.run_id), store), as_json)
    if not as_json:
        display.other_plans(store.other_plans(found))


@app.command()
def report(
    experiment: Experiment,
    data_dir: DataDir = None,
    components: Components = None,
    pictures: Annotated[
        bool, typer.Option(help="Show the hard digits; that takes the data set.")
    ] = True,
) -> None:
    """Write the report of an experiment that has been run again, from MLflow."""
    from lecun_ablate import api

    print(api.report(experiment, data_dir=data_dir, components=components or (), pictures=pictures))


@app.command()
def power(
    experiment: Experiment,
    effect: Annotated[float, typer.Option(help="The difference of interest, in points of error.")],
    as_json: AsJson = False,
) -> None:
    """Say how many seeds it takes to see an effect, from an experiment that has been run."""
    from lecun_ablate.evidence.weighing import weigh
    from lecun_ablate.running import training as runner
    from lecun_ablate.terminal import evidence_display
    from lecun_ablate.tracking.store import Store

    if not 0 < effect < 100:
        raise ConfigError(f"--effect {effect:g}: expected points of error, more than 0, below 100")
    store = Store()
    evidence = weigh(runner.load(store, store.find(experiment).info.run_id), store)
    rows = evidence.power(effect / 100)
    if as_json:
        print(
            json.dumps(
                [{"arm": p.arm, "baseline": p.baseline, **asdict(a)} for p, a in rows], indent=2
            )
        )
    else:
        evidence_display.power(effect / 100, rows)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="The id of a seed's run.")],
    run_b: Annotated[str, typer.Argument(help="The id of another.")],
    as_json: AsJson = False,
) -> None:
    """Compare two single runs, digit by digit."""
    from lecun_ablate.running.two_runs import compare_runs
    from lecun_ablate.terminal import evidence_display
    from lecun_ablate.tracking.store import Store

    found = compare_runs(Store(), run_a, run_b)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        evidence_display.two_runs(found)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="The id of a seed's run.")],
    data_dir: DataDir = None,
    components: Components = None,
    trainer: Annotated[
        TrainerChoice | None, typer.Option(help="Another trainer than the run's own.")
    ] = None,
) -> None:
    """Train a run again from what MLflow holds, and compare every metric."""
    from lecun_ablate.running.reproduce import reproduce
    from lecun_ablate.terminal import evidence_display
    from lecun_ablate.tracking.store import Store

    found = reproduce(
        Store(),
        run_id,
        data_dir=data_dir,
        components=components or (),
        trainer=trainer.value if trainer else None,
    )
    evidence_display.reproduction(found)
    if not found.reproduced:
        raise typer.Exit(1)


@app.command()
def data(
    data_dir: DataDir = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet, PNG.")] = None,
    name: Annotated[str, typer.Option(help="The data set of the contact sheet.")] = "usps",
    fallback: Annotated[str | None, typer.Option(help="What stands in for it.")] = "digits",
    components: Components = None,
) -> None:
    """Show which digits are found where, with class counts and digest."""
    from lecun_ablate import data as datasets
    from lecun_ablate.data.places import survey
    from lecun_ablate.registry import registry
    from lecun_ablate.terminal import display

    for file in components or ():
        registry.load(file)
    if sheet is None:
        display.places(survey(data_dir))
        return
    from lecun_ablate.data.sheet import contact_sheet

    digits = datasets.load(name, fallback if fallback != name else None, data_dir)
    if digits.notice:
        display.notice(digits.notice)
    try:
        contact_sheet(digits, sheet)
    except OSError as error:
        raise LecunAblateError(f"{sheet}: cannot be written: {error.strerror}") from None
    print(f"{sheet}: {digits.name}, {digits.source}")


@app.command()
def components(
    kind: Annotated[str | None, typer.Argument(help="activation, init, ...; else all.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--components", help="Python file to load as well.")
    ] = None,
) -> None:
    """List the components that a recipe can name."""
    from lecun_ablate.registry import KINDS, registry
    from lecun_ablate.terminal import display

    for path in file or ():
        registry.load(path)
    for name in [kind] if kind else KINDS:
        display.components(name, [registry.get(name, n) for n in registry.names(name)])


def _seek_data(
    file: Path,
    data: str | None,
    components: Sequence[Path],
    set_: Sequence[str],
    data_dir: Path | None,
) -> None:
    """End, or say that a fallback will be taken, before the slow imports."""
    from lecun_ablate.config.experiment import data_asked
    from lecun_ablate.data.places import seek

    asked = data_asked(file, data, components, set_)
    reason = seek(asked.name, asked.fallback, data_dir) if asked else None
    if reason:
        print(f"{reason.splitlines()[0]}\ngoing on with {asked.fallback}", file=sys.stderr)


def _seeds(text: str | None) -> int | list[int] | None:
    """Read --seeds: a number of seeds, or seeds with commas between them."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.rstrip(",").split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds {text}: expected a number of seeds, such as 20, or seeds: 0,3,7"
        ) from None
    return numbers[0] if "," not in text else numbers


def _tune(where: Any, silent: bool) -> Any:
    """Prepare an experiment; where its study lacks something, run that first and print it."""
    from lecun_ablate import api
    from lecun_ablate.studies import study_runner
    from lecun_ablate.studies.tuned_arms import NotStudied
    from lecun_ablate.terminal import display, study_display

    try:
        return api.prepare(*where)
    except NotStudied:  # values that are there are good, whoever would find them today
        pass
    asked, data_dir, trainer, device, storage = where
    prepared = study_runner.prepare_tuning(asked, data_dir, trainer, device)
    for notice in prepared.notices:
        display.notice(notice)
    report, _ = study_runner.run(prepared, storage, progress=study_display.progress_of(prepared))
    if not silent:
        study_display.report(report, study_runner.FOLDER / prepared.title, storage)
    return api.prepare(*where)


def _dry_run(prepared: Any, as_json: bool) -> None:
    from lecun_ablate.running import training as runner
    from lecun_ablate.terminal import display

    todo = runner.still_to_do(prepared.plan)
    seconds = runner.estimate(prepared, todo)
    if as_json:
        print(json.dumps(display.plan_as_json(prepared.plan, todo, seconds), indent=2))
    else:
        display.plan(prepared.plan, todo, seconds)


def _print_results(evidence: Any, as_json: bool) -> None:
    from lecun_ablate.evidence import arms as summary
    from lecun_ablate.terminal import display
    from lecun_ablate.tracking.store import Store

    table = summary.arm_table(evidence.plan, evidence.results.final)
    store = Store()
    link = store.link(evidence.results.experiment_id)
    if as_json:
        print(json.dumps(summary.as_json(evidence, table, link), indent=2))
    else:
        display.results(evidence, table, link, store.ui_command())


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    gc.set_threshold(100_000)  # of what imports make, hardly anything is garbage
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as Ctrl-C does
    if Path(sys.argv[0]).name == "__main__.py":  # who holds a lock is told by the command typed
        sys.argv[0] = PROGRAM
    status = _main(sys.argv[1:])
    gc.freeze()  # else Python looks once more through all that the libraries hold: over a second
    sys.exit(status)


def _main(arguments: list[str]) -> int:
    try:
        # typer returns the status of a command that exits, and 130 for a KeyboardInterrupt
        status = app(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
        if status == INTERRUPTED:
            kept = ""
            if arguments[0] in ("run", "study"):
                again = " without --fresh" if "--fresh" in arguments else ""
                kept = f": what had finished is kept; run the same command{again} to go on"
            print(f"interrupted{kept}", file=sys.stderr)
        return status
    except typer.TyperException as error:  # a wrong option, say; it prints itself
        error.show()
        return error.exit_code
    except LecunAblateError as error:
        for line in str(error).split("\n"):
            print(f"error: {line}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, a folder without permission
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Keep the traceback of a bug in a file, and tell the user what it is in one line."""
    import tempfile
    import traceback

    log, trace = Path("lecun_ablate-error.log"), "".join(traceback.format_exception(error))
    try:
        log.write_text(trace)
    except OSError:
        log = Path(tempfile.gettempdir()) / log
        log.write_text(trace)
    print(
        f"error: {type(error).__name__}: {error}\nerror: this is a bug; its trace is in {log}",
        file=sys.stderr,
    )
    return 1
