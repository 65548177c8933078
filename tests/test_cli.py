"""The command line: what it prints, and the status it exits with."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import cells, without_privileges, write_folder, write_parquet
from pyarrow import parquet

from lecun_ablate.compiled.build import Compiler
from lecun_ablate.data.usps import FILES
from lecun_ablate.errors import ConfigError
from lecun_ablate.trainers import native

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("tiny", "workplace", "plain_reports")

RUN = ("run", "experiments/activation.yaml", "--data", "tiny", "--trainer", "torch")
SMALL = (*RUN, "--seeds", "2", "--epochs", "2")


def test_run_show_and_json(command, workplace):
    status, out, err = command(*SMALL)
    assert status == 0
    assert "activation on tiny: Which hidden activation learns the zip codes best?" in out
    assert "tanh (baseline)" in out and "every arm at lr 0.03, untuned" in out
    assert "mlflow ui" in out and "10 runs, 0 done before, 10 to train" in err
    page = workplace / "reports/activation/tiny/epochs=2/report.html"
    assert page.read_text().startswith("<!doctype html>")

    status, again, err = command(*SMALL, "--json")
    assert status == 0 and "0 to train" in err
    shown = command("show", "activation", "--json")
    assert shown[0] == 0 and json.loads(shown[1]) == json.loads(again)
    table = json.loads(again)["arms"]
    assert [row["arm"] for row in table] == ["tanh", "scaled_tanh", "lisht", "sigmoid", "relu"]
    for row in table:
        assert row["runs"] == 2 and row["trainer"] == "torch"
        printed = f"{100 * row['test_error_mean']:.2f} +- {100 * row['test_error_sd']:.2f}"
        assert printed in out

    import lecun_ablate

    frame = lecun_ablate.load_results("activation/tiny")
    final = frame[frame.epoch == 2].groupby("arm").test_error
    for row in table:
        assert row["test_error_mean"] == pytest.approx(final.mean()[row["arm"]], abs=1e-15)
        assert row["best_error"] == final.min()[row["arm"]]


def test_what_a_user_writes_is_printed_as_it_is(command, workplace):
    (workplace / "odd.yaml").write_text(
        "name: odd\nquestion: 'does [/b] :smile: matter?'\ndata: tiny\nrecipe: {epochs: 1}\n"
        "arms:\n- {name: '[/b]'}\n- {name: '[lisht]', activation: lisht}\nseeds: 2\n"
    )
    run = ("run", "odd.yaml", "--trainer", "torch")
    for arguments in ((*run, "--dry-run"), run, ("show", "odd"), ("power", "odd", "--effect", "1")):
        status, out, err = command(*arguments)
        assert status == 0, err
        assert "[lisht]" in out and "[/b]" in out
        assert "does [/b] :smile: matter?" in out or arguments[0] == "power"


def test_seeds_are_whole_numbers_or_none(command, workplace):
    (workplace / "gone.yaml").write_text(
        "name: gone\ndata: tiny\nrecipe: {epochs: 1}\n"
        "arms: [{name: good}, {name: gone, lr: 1.0e+30, activation: relu}]\nseeds: [4, 7]\n"
    )
    run = ("run", "gone.yaml", "--trainer", "torch")
    status, out, err = command(*run, "--json")
    assert status == 0, err
    good, gone = json.loads(out)["arms"]
    assert gone["diverged"] == 2 and gone["best_seed"] is None and gone["worst_seed"] is None
    assert {str(good["best_seed"]), str(good["worst_seed"])} <= {"4", "7"}
    assert "gone 2 diverged" in err
    status, out, err = command("show", "gone")
    assert status == 0 and re.search(r"\(4\)|\(7\)", out) and "gone" in out, err


def test_show_lists_the_other_plans(command):
    command(*RUN, "--seeds", "1", "--epochs", "1")
    command(*RUN, "--seeds", "1", "--epochs", "2")
    status, out, _ = command("show", "activation")
    assert status == 0 and "after epoch 2" in out
    assert "other plans" in out
    other = re.search(r"^  ([0-9a-f]{32})", out, re.MULTILINE).group(1)
    assert "after epoch 1" in command("show", other)[1]


def test_dry_run_trains_nothing(command, workplace):
    before = sorted(workplace.rglob("*[!lm]"))  # without sqlite's -wal and -shm
    status, out, _ = command(*SMALL, "--dry-run")
    assert status == 0 and "10 runs: 0 done, 10 to do, about" in out
    assert sorted(workplace.rglob("*[!lm]")) == before
    plan = json.loads(command(*SMALL, "--dry-run", "--json")[1])
    assert plan["todo"] == 10 and plan["arms"]["relu"]["activation"] == "relu"
    command(*SMALL)
    assert "10 done, 0 to do" in command(*SMALL, "--dry-run")[1]


def test_components_are_listed(command, workplace):
    status, out, _ = command("components")
    assert status == 0
    for name in ("lisht", "sqrt_gain_fan_in", "lenet5_style", "half_sum_squares", "bipolar", "sgd"):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE), name
    (workplace / "mine.py").write_text(
        "from lecun_ablate import register\n@register('activation')\ndef mine(x):\n"
        "    '''Mine alone.'''\n    return x"
    )
    status, out, _ = command("components", "activation", "--components", "mine.py")
    assert "Mine alone." in out and "mine.py" in out and "blocks" not in out
    compiles = Compiler.find() and not native.availability()
    assert ("runs at full speed on native and cuda" if compiles else "not on native: ") in out
    assert command("components", "activaton")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("run", "experiments/none.yaml"), 2, "no such file"),
        (("run", "experiments"), 2, "experiments: not a readable text file: Is a directory"),
        ((*SMALL, "--seeds", "0"), 2, "--seeds: expected 1 to 100000 seeds, got 0"),
        ((*SMALL, "--epochs", "99999999999"), 2, "--epochs: expected at most 10000"),
        (
            (*SMALL, "--set", "recipe.lr=nan"),
            2,
            "--set recipe.lr=nan: expected a number, got 'nan'",
        ),
        ((*SMALL, "--set", "recipe.lr=.nan"), 2, "expected a finite number, got nan"),
        ((*SMALL, "--set", "nonsense"), 2, "--set nonsense: expected KEY=VALUE, such as"),
        (
            (*SMALL, "--components", "exits.py"),
            2,
            "exits.py:1: expected a file that runs to its end",
        ),
        ((*SMALL, "--epochs", "0"), 2, "--epochs: expected at least 1, got 0"),
        ((*SMALL, "--seeds", "x"), 2, "--seeds x: expected a number of seeds"),
        ((*SMALL, "--set", "recipe.lr=-1"), 2, "--set recipe.lr=-1: expected more than 0, got -1"),
        ((*SMALL, "--components", "none.py"), 2, "none.py: no such component file"),
        ((*SMALL, "--data", "none"), 2, "unknown data 'none'"),
        ((*SMALL, "--device", "cuda"), 2, "--device cuda: this PyTorch finds no CUDA device"),
        (("run", "experiments/activation.yaml", "--data-dir", "none"), 3, "none"),
        (("show", "activation"), 1, "error: "),
        (("run",), 2, "Missing argument"),
        (("rum",), 2, "No such command"),
        ((*SMALL, "--device", "tpu"), 2, "tpu"),
    ],
    ids=str,
)
def test_mistakes_have_a_message_and_a_status(command, workplace, arguments, status, message):
    import torch

    (workplace / "exits.py").write_text("raise SystemExit(0)")
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    came = command(*arguments)
    assert came[0] == status
    assert message in came[2] and came[1] == ""


BAD_DATA = {
    "missing file": "{train}: cannot be read: does not exist",
    "truncated": "{train}: truncated: the parquet file ends after ",
    "missing column": "{train}: column 'label' is missing: expected the columns 'image' and ",
    "undecodable PNG": "{train}: row 1234: image cannot be decoded as PNG: cannot identify image ",
    "not 16x16": "{train}: row 1234: image: expected 16x16 pixels of 8-bit grayscale",
    "label": "{train}: row 1234: label: expected an integer from 0 to 9, got 10",
    "rows": "{train}: expected 7291 rows, got 7290",
}


@pytest.mark.parametrize("fault", BAD_DATA)
def test_bad_data_ends_with_file_and_row_before_anything_is_trained(
    command, workplace, usps_folder, fault
):
    train = workplace / FILES["train"]
    shutil.copytree(usps_folder / "data", train.parent)
    spoil(train, fault)
    (workplace / "mlflow.db").unlink()
    status, out, err = command(
        "run", "experiments/notebook.yaml", "--data-dir", ".", "--trainer", "torch"
    )
    expected = BAD_DATA[fault].format(train=FILES["train"])
    assert (status, out) == (3, "") and err.startswith(f"error: {expected}"), err
    assert len(err.splitlines()) == 1 and "0x" not in err
    assert not (workplace / "mlflow.db").exists() and not list(workplace.glob("mlruns/*/*"))


@pytest.fixture(scope="module")
def usps_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("usps"))


def spoil(file, fault):
    """Damage a good training file of USPS in the way that `fault` names."""
    if fault == "missing file":
        file.unlink()
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        table = parquet.read_table(file)
        images, labels = table["image"].to_pylist(), table["label"].to_pylist()
        if fault == "undecodable PNG":
            images[1234] = {"bytes": b"no image", "path": None}
        elif fault == "not 16x16":
            images[1234] = cells(np.zeros((1, 8, 8), np.uint8))[0]
        elif fault == "label":
            labels[1234] = 10
        elif fault == "rows":
            images, labels = images[1:], labels[1:]
        write_parquet(file, images, labels)
        if fault == "missing column":
            parquet.write_table(table.drop_columns("label"), file)


def test_data_lists_data_sets_of_the_users_own(command, workplace, usps_folder):
    (workplace / "mine.py").write_text(
        "import numpy as np\nfrom lecun_ablate import register\n"
        "from lecun_ablate.data import Digits, Split\n"
        "@register('data')\ndef noise():\n"
        "    split = Split(np.zeros((10, 16, 16)), np.arange(10))\n"
        "    return Digits('noise', split, split, 'made up')\n"
    )
    own = ("data", "--data-dir", usps_folder, "--components", "mine.py")
    status, out, err = command(*own)
    assert status == 0, err
    assert "-> noise: embedded" in out and "mine.py" in out
    assert command("data", "--components", "none.py")[0] == 2
    sheet = ("data", "--components", "mine.py", "--name", "noise", "--sheet", "noise.png")
    status, out, err = command(*sheet)
    assert status == 0 and out.startswith("noise.png: noise, made up"), err


def test_a_named_but_unusable_place_is_no_reason_to_fall_back(command, monkeypatch):
    monkeypatch.setenv("LECUN_ABLATE_DATA", "no/such/folder")
    status, _, err = command("run", "experiments/activation.yaml", "--dry-run")
    assert status == 3 and "no/such/folder" in err and "NOTICE" not in err


def test_a_fallback_cannot_be_missed(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    arguments = ("run", "experiments/notebook.yaml", "--epochs", "1", "--trainer", "torch")
    status, out, err = command(*arguments, "--seeds", "1")
    assert status == 0
    assert "NOTICE" in err and "NOT 'usps'" in err
    assert "notebook on digits" in out and "NOT 'usps'" in out
    assert json.loads(command("show", "notebook/digits", "--json")[1])["data"] == "digits"


def test_names_that_cannot_be_found_again_are_refused(command, workplace):
    (workplace / "x.yaml").write_text("name: studies\ndata: digits\n")
    status, _, err = command("run", "x.yaml")
    assert status == 2 and "x.yaml:1: name" in err and "another name" in err
    (workplace / "x.yaml").write_text("data: digits\n")
    status, _, err = command("show", "x.yaml")
    assert status == 2 and "x.yaml: name is missing" in err


def test_an_old_file_store_is_refused_with_the_way_out(command, workplace):
    (workplace / "mlruns/0").mkdir(parents=True)
    (workplace / "mlruns/0/meta.yaml").write_text("name: old")
    status, _, err = command(*SMALL)
    assert status == 1 and "mlruns/0/meta.yaml" in err and "move" in err


def test_a_store_that_cannot_be_opened_is_said_before_training(command, workplace):
    (workplace / "mlflow.db").write_bytes(b"this is no database" * 100)
    status, _, err = command(*SMALL)
    assert status == 1 and "mlflow.db" in err and "to train" not in err
    (workplace / "mlflow.db").unlink()
    assert "MLFLOW_TRACKING_URI" in command_with_uri(command, "mlruns")[2]


def command_with_uri(command, uri):
    import os

    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        return command(*SMALL)
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]


def test_a_second_process_is_told_who_holds_the_store(command):

    from lecun_ablate.tracking.writer import Writer

    with Writer.opened():
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(1) as pool:
            message = pool.apply(_open_store)
    assert "is in use by process" in message and "wait until it has ended" in message
    assert _open_store() == "opened"


def _open_store() -> str:
    from lecun_ablate.errors import LecunAblateError
    from lecun_ablate.tracking.writer import Writer

    try:
        with Writer.opened():
            return "opened"
    except LecunAblateError as error:
        return str(error)


def test_the_package_offers_what_it_says():
    import lecun_ablate
    from lecun_ablate import api

    for name in ("run", "study", "report", "load_results"):
        assert name in lecun_ablate.__all__ and getattr(lecun_ablate, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="has no attribute 'runs'"):
        _ = lecun_ablate.runs


def test_help_imports_none_of_the_slow_libraries():
    """What keeps --help within half a second; benchmarks/start.py measures it."""
    code = (
        "import sys\nfrom lecun_ablate.cli import _main\n_main(['--help'])\n"
        "slow = {'torch', 'mlflow', 'optuna', 'matplotlib', 'pandas', 'numpy', 'pydantic', 'scipy',"
        " 'sklearn', 'pyarrow', 'huggingface_hub', 'ruamel', 'sqlalchemy', 'PIL', 'jinja2'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trainer": "nativ"},
            "--trainer nativ: did you mean 'native'? valid: auto, native",
        ),
        ({"device": "gpu"}, "--device gpu: did you mean 'cpu'? valid: auto, cpu, cuda"),
    ],
)
def test_trainers_and_devices_are_checked_from_python_too(workplace, options, message):
    import lecun_ablate

    with pytest.raises(ConfigError, match=re.escape(message)):
        lecun_ablate.run("experiments/activation.yaml", data="tiny", **options)


def test_a_lock_tells_the_command_that_was_typed(monkeypatch, workplace):
    from lecun_ablate import cli
    from lecun_ablate.system import lock

    monkeypatch.setattr(sys, "argv", ["/site-packages/lecun_ablate/__main__.py", "run", "x.yaml"])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli.gc, "freeze", lambda: None)

    def hold(arguments):
        with lock.exclusive(workplace / "a.lock", "the store"):
            assert "(python -m lecun_ablate run x.yaml)" in (workplace / "a.lock").read_text()
        return 7

    monkeypatch.setattr(cli, "_main", hold)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 7


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are those of POSIX")
def test_a_folder_that_cannot_be_written_is_said(command, monkeypatch):
    command(*SMALL, "--dry-run")  # what is imported now need not be readable for others
    folder = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    monkeypatch.chdir(folder)
    try:
        shutil.copytree(ROOT / "experiments", "experiments")
        folder.chmod(0o555)
        with without_privileges():
            status, out, err = command(*SMALL)
            assert (status, out) == (1, "")
            assert re.fullmatch(rf"error: {folder}/\S+: cannot be written: .*\n", err), err
            assert "to train" not in err

            from lecun_ablate import api

            monkeypatch.setattr(api, "prepare", lambda *_, **__: 1 / 0)
            status, out, err = command(*SMALL)
            assert status == 1 and "this is a bug; its trace is in /" in err
            Path(err.split()[-1]).unlink()
    finally:
        folder.chmod(0o755)
        monkeypatch.undo()
        shutil.rmtree(folder)
