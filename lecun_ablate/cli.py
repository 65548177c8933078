"""The command line: parse, call a function of `api`, pass its result to `terminal`.

Heavy imports wait for their command.
"""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import sys
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.system.text import count, visible
from lecun_ablate.trainers.names import DeviceChoice, TrainerChoice

if TYPE_CHECKING:
    from lecun_ablate.api import Options, Shown, Watch
    from lecun_ablate.studies.runner import FinishedStudy

INTERRUPTED = 130
PROGRAM = "python -m lecun_ablate"
SCRIPT = "lecun-ablate"  # a single word, for shell completion

app = typer.Typer(
    help="Fair, paired, reproducible ablations of LeCun's 1989 zip-code network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from lecun_ablate import __version__

        print(f"lecun_ablate {__version__}")
        raise typer.Exit


@app.callback()
def common(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not show the progress of training.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the messages of libraries.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    _state["quiet"] = quiet
    if verbose:
        import logging
        import os

        os.environ["MLFLOW_LOGGING_LEVEL"] = "INFO"
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


_state = {"quiet": False}  # of this call


# ---- options that several commands have

Data = Annotated[
    str | None,
    typer.Option(help="Use this data set instead of the file's, and no fallback."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds data/train-00000-of-00001.parquet and data/test-... of USPS. "
        "Default: LECUN_ABLATE_DATA, otherwise the Hugging Face Hub."
    ),
]
Components = Annotated[
    list[Path] | None,
    typer.Option(help="Python file that registers your own components; may be repeated."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Replace a value of the file, such as recipe.lr=0.05; may be repeated."
    ),
]
Trainer = Annotated[
    TrainerChoice,
    typer.Option(
        help="What trains the networks. auto: the fastest trainer that supports every arm; "
        "mixed: the fastest for each arm."
    ),
]
Device = Annotated[
    DeviceChoice,
    typer.Option(help="Where to train. auto: on a CUDA GPU if there is one, otherwise on the CPU."),
]
StudyStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where Optuna keeps studies: the address of a database, or the path of a journal "
        "file. Default: sqlite:///studies/optuna.db.",
    ),
]


def _limit(threads: int | None) -> int | None:
    if threads:
        from lecun_ablate.system import cores

        cores.limit(threads)  # now, because NumPy and PyTorch read it when they are imported
    return threads


Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_limit,
        help="Use at most this many cores. Default: OMP_NUM_THREADS, otherwise all available.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        envvar="LECUN_ABLATE_ON",
        help="Train on a Ray cluster: HOST:PORT of its head, or auto for the one of RAY_ADDRESS or "
        "of this machine. The results are the same, bit for bit.",
    ),
]


def _pin(instruction_set: str | None) -> str | None:
    if instruction_set:
        from lecun_ablate.trainers import instructions

        instructions.pin(instruction_set)  # now: PyTorch reads it while it is imported
    return instruction_set


InstructionSet = Annotated[
    str | None,
    typer.Option(
        callback=_pin,
        help="Train with this instruction set of the CPU, such as avx2: rounding depends on it, so "
        "it is part of every run's key. Default: the fastest that this CPU has.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be trained, and train nothing.")
]
Experiment = Annotated[
    str, typer.Argument(help="The name of an experiment, its YAML file, or the id of a run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="The YAML file of an experiment.")],
    seeds: Annotated[
        str | None,
        typer.Option(help="A number of seeds, such as 20, or a list of seeds, such as 0,3,7."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Train every arm for this many epochs.")
    ] = None,
    set_: Assignments = None,
    data: Data = None,
    data_dir: DataDir = None,
    components: Components = None,
    dtype: Annotated[
        str | None, typer.Option(help="Train every arm in float32 or in float64.")
    ] = None,
    trainer: Trainer = TrainerChoice.auto,
    device: Device = DeviceChoice.auto,
    threads: Threads = None,
    instruction_set: InstructionSet = None,
    on: On = None,
    dry_run: DryRun = False,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="First finish the study that tunes the arms."),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Train only this arm for now; may be repeated.")
    ] = None,
    without_seed: Annotated[
        list[int] | None,
        typer.Option(help="Leave this seed out of training and results; may be repeated."),
    ] = None,
    all_pairs: Annotated[
        bool,
        typer.Option("--all-pairs", help="Compare every arm with every other, and rank them."),
    ] = False,
    storage: StudyStorage = None,
    as_json: AsJson = False,
) -> None:
    """Train the missing runs of an experiment, and compare its arms."""
    from lecun_ablate import api
    from lecun_ablate.config.source import Overrides

    overrides = Overrides(
        _seeds(seeds),
        epochs,
        dtype,
        data,
        components or (),
        set_ or (),
        without_seed or (),
        all_pairs,
    )
    options, only = _options(data_dir, trainer, device, storage, on), only or []
    if dry_run:
        planned = api.dry_run(experiment, overrides, options, _watch(), tune=tune, only=only)
        _print_plan(planned, as_json)
        return

    def studied(study: FinishedStudy) -> None:
        if not as_json:
            _print_study(study, options, False)

    shown = api.evaluate(experiment, overrides, options, _watch(studied), tune=tune, only=only)
    _print_results(shown, as_json)
    if not as_json:
        print(f"report: {api.page_of(shown.evidence.plan)}")


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="The YAML file of a study.")],
    set_: Assignments = None,
    data: Data = None,
    data_dir: DataDir = None,
    components: Components = None,
    trainer: Trainer = TrainerChoice.auto,
    device: Device = DeviceChoice.auto,
    threads: Threads = None,
    instruction_set: InstructionSet = None,
    on: On = None,
    storage: StudyStorage = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start a new version of the study, beside the old one."),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the missing runs of a study: search values for every arm, or repeat one over seeds."""
    from lecun_ablate import api
    from lecun_ablate.config.source import Overrides

    overrides = Overrides(data=data, components=components or (), assignments=set_ or ())
    options = _options(data_dir, trainer, device, storage, on)
    if dry_run:
        planned = api.plan_study(file, overrides, options, _watch(), fresh=fresh)
        if as_json:
            _print_json(planned.values)
        else:
            from lecun_ablate.terminal import studies

            studies.plan(planned)
        return
    finished = api.run_study(file, overrides, options, _watch(), fresh=fresh)
    _print_study(finished, options, as_json)


@app.command()
def show(experiment: Experiment, as_json: AsJson = False) -> None:
    """Print the results of an experiment or of a study again."""
    from lecun_ablate import api

    if study := api.show_study(experiment):
        if as_json:
            _print_json(study.values)
        else:
            from lecun_ablate.terminal import studies

            studies.shown(study.text, study.link, study.ui_command)
        return
    shown = api.show(experiment)
    _print_results(shown, as_json)
    if not as_json:
        from lecun_ablate.terminal import experiments

        experiments.other_plans(shown.other_plans)


@app.command()
def report(
    experiment: Experiment,
    data_dir: DataDir = None,
    components: Components = None,
    pictures: Annotated[
        bool, typer.Option(help="Show pictures of hard digits; this needs the data set.")
    ] = True,
    latex: Annotated[
        bool, typer.Option("--latex", help="Write report.tex instead: tables and macros.")
    ] = False,
) -> None:
    """Write the report of an experiment again, from what MLflow has."""
    from lecun_ablate import api

    if latex:
        print(api.latex(experiment))
        return
    page = api.report(experiment, data_dir=data_dir, components=components or (), pictures=pictures)
    print(page)
    link, ui = api.link(experiment)
    print(f"compare in the browser: {f'{ui}, then ' if ui else ''}{link}")


@app.command()
def power(
    experiment: Experiment,
    effect: Annotated[float, typer.Option(help="The difference of interest, in points of error.")],
    as_json: AsJson = False,
) -> None:
    """Show how many seeds are needed to see an effect, based on an experiment's results."""
    from lecun_ablate import api

    rows = api.power(experiment, effect / 100)
    if as_json:
        _print_json([{"arm": p.arm, "baseline": p.baseline, **asdict(one)} for p, one in rows])
    else:
        from lecun_ablate.terminal import experiments

        experiments.power(effect / 100, rows)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            help="A run: its id, the first digits of it, or EXPERIMENT:ARM:SEED, such as "
            "activation:relu:0. Or an arm: EXPERIMENT:ARM."
        ),
    ],
    second: Annotated[str, typer.Argument(help="Another run, or another arm.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs digit by digit, or two arms over the seeds that they share."""
    from lecun_ablate import api
    from lecun_ablate.running.two_arms import ArmComparison

    found = api.compare(first, second)
    if as_json:
        _print_json(found.as_json())
        return
    from lecun_ablate.terminal import runs

    if isinstance(found, ArmComparison):
        runs.two_arms(found)
    else:
        runs.two_runs(found)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the experiments and studies that have been run."""
    from lecun_ablate import api

    found = api.contents()
    if as_json:
        _print_json([asdict(entry) for entry in found])
    else:
        from lecun_ablate.terminal import listings

        listings.contents(found)


@app.command()
def export(
    experiment: Experiment,
    csv: Annotated[bool, typer.Option("--csv", help="A row per run and epoch.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="The same, as Parquet.")] = False,
    latex: Annotated[
        bool, typer.Option("--latex", help="The arms and their comparisons, for booktabs.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; - for standard output."),
    ] = None,
) -> None:
    """Write the results of an experiment to a file for other programs."""
    from lecun_ablate import api

    asked = [k for k, on in {"csv": csv, "parquet": parquet, "latex": latex}.items() if on]
    if len(asked) != 1:
        raise ConfigError("export: expected one of --csv, --parquet and --latex")
    content = api.export(experiment, asked[0])
    if output == Path("-"):
        sys.stdout.buffer.write(content)
        return
    suffix = ".tex" if asked[0] == "latex" else f".{asked[0]}"
    target = output or Path(experiment.replace("/", "-") + suffix)
    target.write_bytes(content)
    print(target)


@app.command()
def delete(
    name: Annotated[
        str, typer.Argument(help="The name of an experiment; of a study: studies/NAME.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an experiment or a study from MLflow; it can be restored until `mlflow gc`."""
    from lecun_ablate import api

    what = api.doomed(name)
    print(f"{what.title}: {count(what.runs, 'run')} in MLflow's experiment {what.experiment_id}")
    if not yes and not typer.confirm("Delete it?"):
        print("nothing was deleted")
        raise typer.Exit(1)
    api.delete(what)
    print(
        f"deleted; `mlflow experiments restore -x {what.experiment_id}` brings it back under "
        "another name, `mlflow gc` removes it for good; files under reports/ are kept"
    )


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to write; it may exist.")],
) -> None:
    """Create a starter project: an experiment, a study and a component, with comments."""
    from lecun_ablate import api

    for file in api.init(folder):
        print(file)
    print(f"continue with: cd {folder} && {PROGRAM} run experiments/first.yaml")


@app.command("open")
def open_(
    name: Annotated[str, typer.Argument(help="The name of an experiment or a study.")],
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open an experiment's comparison in the MLflow UI, starting the UI if none is running."""
    from lecun_ablate import api
    from lecun_ablate.terminal import ui

    ui.show(*api.link(name), browser)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="The id of the run of one arm with one seed.")],
    data_dir: DataDir = None,
    components: Components = None,
    trainer: Annotated[
        TrainerChoice | None,
        typer.Option(help="Train with this trainer. Default: the run's own."),
    ] = None,
    threads: Threads = None,
    instruction_set: InstructionSet = None,
    on: On = None,
    trust_components: Annotated[
        bool,
        typer.Option(
            "--trust-components",
            help="Run the run's own components from the store, even if you do not have them.",
        ),
    ] = False,
) -> None:
    """Train a run again from what MLflow has, and compare every metric."""
    from lecun_ablate import api
    from lecun_ablate.terminal import runs

    found = api.reproduce(
        run_id,
        data_dir=data_dir,
        components=components or (),
        trainer=trainer.value if trainer else None,
        trust_components=trust_components,
        on=on,
        watch=_watch(),
    )
    runs.reproduction(found)
    if not found.reproduced:
        raise typer.Exit(1)


@app.command()
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Make the repairs that lose nothing.")
    ] = False,
) -> None:
    """Check the store for runs and files that are damaged, duplicated, orphaned or left running."""
    from lecun_ablate import api
    from lecun_ablate.terminal import listings

    found = api.doctor(repair=repair)
    listings.findings(found)
    if len(found.findings) > found.repaired:
        raise typer.Exit(1)


@app.command()
def data(
    data_dir: DataDir = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a picture (PNG) of many digits to this file.")
    ] = None,
    name: Annotated[str, typer.Option(help="The data set to draw with --sheet.")] = "usps",
    fallback: Annotated[
        str | None, typer.Option(help="The data set to draw if that one is not available.")
    ] = "digits",
    components: Components = None,
) -> None:
    """Show which data sets are found, and where, with class counts and digests."""
    from lecun_ablate import api

    files = components or ()
    if sheet is None:
        from lecun_ablate.terminal import listings

        listings.places(api.data_places(data_dir, files))
        return
    digits = api.contact_sheet(sheet, name, fallback, data_dir=data_dir, components=files)
    if digits.notice:
        from lecun_ablate.terminal.console import notice

        notice(digits.notice)
    print(f"{sheet}: {digits.name}, {digits.source}")


@app.command()
def components(
    kind: Annotated[
        str | None,
        typer.Argument(help="A kind of component, such as activation or init. Default: all."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--components", help="Python file that registers your own components as well."
        ),
    ] = None,
) -> None:
    """List the components that a recipe can name."""
    from lecun_ablate import api
    from lecun_ablate.terminal import listings

    found = api.components(kind, file or ())
    refusals = {}
    if file:  # otherwise all components are built in, and importing the trainers is slow
        from lecun_ablate.trainers.speeds import refusals as refusals_of

        refusals = {
            one: refusals_of(one)
            for members in found.values()
            for one in members
            if not one.builtin and one.kind != "data"
        }
    listings.components(found, refusals)


# ---- from the command line to api


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


def _options(
    data_dir: Path | None,
    trainer: TrainerChoice,
    device: DeviceChoice,
    storage: str | None,
    on: str | None,
) -> Options:
    from lecun_ablate import api

    storage = storage or api.STUDY_STORAGE
    return api.Options(data_dir, trainer.value, device.value, storage, on=on)


def _watch(studied: Any = None) -> Watch:
    from lecun_ablate import api
    from lecun_ablate.terminal import console
    from lecun_ablate.terminal.progress import display

    told = {"studied": studied} if studied else {}
    if _state["quiet"]:
        return api.Watch(console.notice, **told)
    return api.Watch(console.notice, console.remark, display(), **told)


# ---- from api to the terminal


_json_output: ContextVar[TextIO | None] = ContextVar("_json_output", default=None)


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2), file=_json_output.get())


def _print_plan(planned: Any, as_json: bool) -> None:
    if as_json:
        _print_json(planned.values)
    else:
        from lecun_ablate.terminal import experiments

        experiments.plan(planned.plan, planned.todo, planned.seconds)


def _print_study(finished: FinishedStudy, options: Options, as_json: bool) -> None:
    if as_json:
        _print_json(finished.report.values)
    else:
        from lecun_ablate.terminal import studies

        studies.report(finished, options.storage)


def _print_results(shown: Shown, as_json: bool) -> None:
    from lecun_ablate.terminal.console import notice

    for text in shown.notices:
        notice(text)
    if as_json:
        from lecun_ablate.evidence.records import evidence_record

        _print_json(evidence_record(shown.evidence, shown.link))
    else:
        from lecun_ablate.terminal import experiments

        experiments.results(shown.evidence, shown.link, shown.ui_command)


# ---- the process


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    gc.set_threshold(100_000)  # imports create many objects, almost none of them garbage
    for which in (signal.SIGTERM, signal.SIGHUP):  # end as Ctrl-C does
        if signal.getsignal(which) != signal.SIG_IGN:  # `nohup` ignores it
            signal.signal(which, signal.default_int_handler)
    if Path(sys.argv[0]).name == "__main__.py":  # shown as the holder of a lock
        sys.argv[0] = PROGRAM
    status = _main(sys.argv[1:])
    gc.freeze()  # otherwise Python scans all objects again at exit: over a second
    sys.exit(status)


def _main(arguments: list[str]) -> int:
    """Run a command and return its status. With --json, nothing else goes to standard output."""
    if "--json" not in arguments:
        return _command(arguments)
    token = _json_output.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # components may print
            return _command(arguments)
    finally:
        _json_output.reset(token)


def _program(arguments: list[str]) -> str:
    """Return the name by which the program was called; a shell completes only SCRIPT."""
    completion = {"--show-completion", "--install-completion"} & set(arguments)
    return SCRIPT if completion or Path(sys.argv[0]).name == SCRIPT else PROGRAM


def _command(arguments: list[str]) -> int:
    try:
        # typer returns the status of a command that exits, and 130 for a KeyboardInterrupt
        status = int(app(arguments, prog_name=_program(arguments), standalone_mode=False) or 0)
        if status == INTERRUPTED:
            kept = ""
            if arguments[0] in ("run", "study"):
                again = " without --fresh" if "--fresh" in arguments else ""
                kept = f": what had finished is kept; run the same command{again} to continue"
            print(f"interrupted{kept}", file=sys.stderr)
        return status
    except typer.TyperException as error:  # a wrong option, for example; it prints itself
        if "Value error, " in str(getattr(error, "message", "")):
            error.message = error.message.replace("Value error, ", "")
        error.show()  # type: ignore[attr-defined]  # typer's own types lack it
        return int(error.exit_code)
    except LecunAblateError as error:
        for line in str(error).split("\n"):
            print(f"error: {visible(line)}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, a folder without permission
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Keep the traceback of a bug in a file, and tell the user about it in one line."""
    import tempfile
    import traceback

    log = Path("lecun_ablate-error.log")
    trace = without_passwords("".join(traceback.format_exception(error)))
    try:
        log.write_text(trace)
    except OSError:
        descriptor, name = tempfile.mkstemp(prefix=f"{log.stem}-", suffix=log.suffix)
        log = Path(name)  # a name at which nobody can have placed a link
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(trace)
    message = without_passwords(f"{type(error).__name__}: {error}")
    print(
        f"error: {visible(message)}\nerror: this is a bug; its trace is in {log}", file=sys.stderr
    )
    return 1
