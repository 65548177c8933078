"""The commands around an experiment: list, export, compare by name, delete, init, open."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate.errors import LecunAblateError, nearest
from lecun_ablate.terminal import console, ui

pytestmark = pytest.mark.usefixtures("tiny", "workplace", "plain_reports")
YAML = """
name: {name}
question: Which activation learns the stripes?
data: tiny
recipe: {{epochs: 2}}
vary: {{activation: [tanh, relu]}}
seeds: 2
"""
RUN = ("--device", "cpu", "--trainer", "torch")


@pytest.fixture
def small(workplace, command):
    file = workplace / "small.yaml"
    file.write_text(YAML.format(name="small"))
    assert command("run", file, *RUN)[0] == 0
    return file


def test_list_has_a_line_for_each(small, command):
    small.with_name("other.yaml").write_text(YAML.format(name="other"))
    command("run", "other.yaml", *RUN, "--seeds", "1")
    command("run", "small.yaml", *RUN, "--epochs", "1", "--seeds", "1")
    status, out, _ = command("list")
    assert status == 0
    heads = [line for line in out.splitlines() if line[0] != " " and " on tiny" in line]
    assert [head.split(":")[0] for head in heads] == [
        "small on tiny --epochs 1",
        "other on tiny",
        "small on tiny",
    ]
    assert "2 arms, 2 seeds" in heads[2] and heads[2].endswith("finished")
    assert "Nothing can be concluded yet" in out
    listed = json.loads(command("list", "--json")[1])
    assert [(one["arms"], one["seeds"], one["kind"]) for one in listed] == [
        (2, 1, "experiment"),
        (2, 1, "experiment"),
        (2, 2, "experiment"),
    ]


def test_export_holds_the_results(small, command):
    frame = lecun_ablate.load_results("small")
    assert command("export", "small", "--csv")[1] == "small.csv\n"
    pd.testing.assert_frame_equal(pd.read_csv("small.csv"), frame)
    command("export", "small/tiny", "--parquet", "-o", "x.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("x.parquet"), frame)
    command("export", "small", "--latex")
    latex = Path("small.tex").read_text()
    mean = 100 * frame[(frame.arm == "relu") & (frame.epoch == 2)].test_error.mean()
    assert f"\\newcommand{{\\reluMean}}{{{mean:.2f}}}" in latex and "\\toprule" in latex
    assert latex == lecun_ablate.api.latex("small").read_text()
    assert command("export", "small")[0] == command("export", "small", "--csv", "--latex")[0] == 2


def test_arms_are_compared_pair_by_pair(small, command):
    final = lecun_ablate.load_results("small").query("epoch == 2").set_index(["arm", "seed"])
    status, out, _ = command("compare", "small:relu", "small:tanh", "--json")
    found = json.loads(out)
    difference = (final.test_error["relu"] - final.test_error["tanh"]).mean()
    assert status == 0 and found["difference"] == pytest.approx(difference)
    assert found["seeds"] == [0, 1]
    swapped = json.loads(command("compare", "small:tanh", "small:relu", "--json")[1])
    assert swapped["difference"] == pytest.approx(-difference)
    (pair,) = lecun_ablate.comparisons("small").to_dict("records")
    assert pair["difference"] == pytest.approx(difference)
    for wrong, said in {
        "small:rleu": "did you mean 'relu'",
        "smal:relu": "did you mean 'small/tiny'",
    }.items():
        status, _, err = command("compare", wrong, "small:tanh")
        assert status == 1 and said in err
    status, _, err = command("compare", "small:relu:7", "small:tanh:0")
    assert status == 1 and "no such seed" in err


def test_arms_on_other_digits_are_not_compared(small, command):
    command("run", "small.yaml", *RUN, "--data", "digits", "--seeds", "1")
    status, _, err = command("compare", "small/tiny:relu", "small/digits:relu")
    assert status == 1 and "different digits" in err


def test_one_arm_alone_is_trained(workplace, command):
    (workplace / "small.yaml").write_text(YAML.format(name="small"))
    status, _, err = command("run", "small.yaml", *RUN, "--only", "relu")
    assert status == 0 and "2 to train" in err
    assert set(lecun_ablate.load_results("small").arm) == {"relu"}
    assert "2 done before, 2 to train" in command("run", "small.yaml", *RUN)[2]
    status, _, err = command("run", "small.yaml", *RUN, "--only", "ReLU")
    assert status == 2 and "did you mean 'relu'" in err


def test_a_seed_is_left_out_until_the_option_is(small, command):
    status, out, _ = command("run", "small.yaml", *RUN, "--without-seed", "1")
    assert status == 0 and "without seed 1" in out
    assert set(lecun_ablate.load_results("small").seed) == {0}
    out = command("run", "small.yaml", *RUN)[1]
    assert "without seed" not in out and set(lecun_ablate.load_results("small").seed) == {0, 1}
    status, _, err = command("run", "small.yaml", *RUN, "--without-seed", "9")
    assert status == 2 and "--without-seed 9" in err


def test_delete_asks_and_the_next_run_starts_afresh(small, command, monkeypatch):
    before = set(lecun_ablate.load_results("small").run_id)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    status, out, _ = command("delete", "small")
    assert status == 1 and "7 runs" in out and "nothing was deleted" in out
    assert set(lecun_ablate.load_results("small").run_id) == before
    place = View().experiment("small/tiny").experiment_id
    status, out, _ = command("delete", "small", "--yes")
    assert status == 0 and f"mlflow experiments restore -x {place}" in out
    with pytest.raises(LecunAblateError, match="the store holds none yet"):
        lecun_ablate.load_results("small")
    assert "4 to train" in command("run", "small.yaml", *RUN)[2]
    View().client.restore_experiment(place)  # as `mlflow experiments restore` does
    (name,) = [n for n in View().experiment_names() if n.startswith("small-deleted-")]
    assert set(lecun_ablate.load_results(name).run_id) == before
    assert not before & set(lecun_ablate.load_results("small").run_id)
    status, _, err = command("delete", "smal")
    assert status == 1 and "did you mean 'small/tiny'" in err


def test_init_replaces_nothing(workplace, command):
    status, out, _ = command("init", "start")
    assert status == 0 and "start/experiments/first.yaml" in out.splitlines()
    (workplace / "start/README.md").write_text("mine")
    (workplace / "start/components/mine.py").unlink()
    status, _, err = command("init", "start")
    assert status == 2 and "already exists" in err
    assert (workplace / "start/README.md").read_text() == "mine"
    assert not (workplace / "start/components/mine.py").exists()


def test_open_asks_for_the_arms(small, command, monkeypatch):
    asked = []
    monkeypatch.setattr(ui, "show", lambda *arguments: asked.append(arguments))
    assert command("open", "small", "--no-browser")[0] == 0
    ((link, start, browser),) = asked
    assert "viewStateShareKey=arms-" in link and start == "mlflow ui" and not browser


def test_a_file_for_the_other_command_says_so(small, command):
    study = "name: s\nsearch: {lr: {low: 0.01, high: 1}}\ntrials: 1\narms: [{name: a}]\n"
    Path("s.yaml").write_text(study)
    status, _, err = command("run", "s.yaml")
    assert status == 2 and "this is a study: python -m lecun_ablate study s.yaml" in err
    status, _, err = command("study", "small.yaml")
    assert status == 2 and "this is an experiment: python -m lecun_ablate run small.yaml" in err


def test_quiet_says_nothing_of_progress(small, command):
    status, out, err = command("--quiet", "run", "small.yaml", *RUN, "--seeds", "3")
    assert status == 0 and err == "NOTICE: 2 more seeds have been run before: all 3 are shown\n" * (
        "NOTICE: 2 more" in err
    )
    assert "tanh (baseline)" in out


def test_the_version_is_printed(command):
    status, out, _ = command("--version")
    assert status == 0 and out == f"lecun_ablate {lecun_ablate.__version__}\n"


def test_what_is_meant_is_found_whatever_its_case(small, command):
    assert nearest("ReLU", ["tanh", "relu"]).startswith("did you mean 'relu'?")
    status, _, err = command("run", "small.yaml", *RUN, "--set", "lr=0.1")
    assert status == 2 and "did you mean 'recipe.lr'?" in err


def test_the_comparison_fits_80_columns(small, command, monkeypatch):
    monkeypatch.setattr(console, "WIDE", 80)
    out = command("show", "small")[1]
    assert max(map(len, (x for x in out.splitlines() if "http" not in x))) <= 80
    (row,) = [line for line in out.splitlines() if re.match(r" *relu .*\[", line)]
    assert re.search(r"[+-]\d+\.\d\d +\[\S+, \S+\] +1\.000|\d\.\d+ +undecided", row)
    assert out.count("\n") < 30


def test_no_message_speaks_python(small, command):
    wrong = [
        ("run", "small.yaml", "--set", "seeds=null"),
        ("run", "small.yaml", "--set", "recipe.lr=null"),
        ("run", "small.yaml", "--set", "vary.activation=null"),
        ("run", "small.yaml", "--set", "margin=true"),
        ("run", "small.yaml", "--set", "baseline=[null]"),
        ("run", "small.yaml", "--set", "baseline.activation=nope"),
        ("run", "small.yaml", "--seeds", "0"),
        ("run", "small.yaml", "--epochs", "0"),
        ("run", "small.yaml", "--trainer", "nope"),
        ("run", "small.yaml", "--device", "nope"),
    ]
    for arguments in wrong:
        status, _, err = command(*arguments)
        lines = [line for line in err.splitlines() if line.startswith(("error: ", "Error: "))]
        assert status == 2 and len(lines) == 1, err
        assert not re.search(r"None|True|Value error|greater than|(\b[\w.]+): \1:", err), err


def test_a_file_that_is_not_there_is_looked_for_where_files_are(workplace, command):
    status, _, err = command("run", "activation.yaml")
    assert status == 2
    assert "no such file (did you mean 'experiments/activation.yaml'?" in err


def test_two_arms_or_two_runs_but_not_one_of_each(small, command):
    status, _, err = command("compare", "small:relu", "small:tanh:0")
    assert status == 1 and "expected two arms or two runs" in err


def test_report_prints_the_page_and_the_link(small, command):
    link = lecun_ablate.show("small").link
    lines = command("report", "small", "--no-pictures")[1].splitlines()
    assert lines == [
        "reports/small/tiny/report.html",
        f"compare in the browser: mlflow ui, then {link}",
    ]


def test_a_notebook_shows_the_comparison_and_completes_arms(small):
    shown = lecun_ablate.show("small")
    html = shown._repr_html_()
    mean = 100 * shown.frame.query("arm == 'relu' and epoch == 2").test_error.mean()
    assert f"<td>{mean:.2f} +- " in html and "<td>undecided</td>" in html
    assert shown.link.replace("&", "&amp;") in html
    assert shown._ipython_key_completions_() == ["tanh", "relu"]
    assert set(shown["relu"].arm) == {"relu"} and len(shown["relu"]) == 4
    with pytest.raises(LecunAblateError, match="did you mean 'relu'"):
        shown["ReLU"]
    assert {"run", "show", "study", "comparisons", "load_results"} <= set(dir(lecun_ablate))


def test_no_colour_where_none_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.notice("mind this")
    assert "\x1b[1;33m" in capsys.readouterr().err  # bold yellow
    monkeypatch.setenv("NO_COLOR", "1")
    console.notice("mind this")
    said = capsys.readouterr().err
    assert "mind this" in said and not re.search(r"\x1b\[[\d;]*3\d", said)


def test_a_shell_completes_commands():
    """As bash asks for it."""
    script = Path(sys.executable).with_name("lecun-ablate")
    if not script.exists():
        pytest.skip("the package is not installed")
    asked = {"COMP_WORDS": "lecun-ablate exp", "COMP_CWORD": "1"}
    done = subprocess.run(
        [script],
        env=os.environ | asked | {"_LECUN_ABLATE_COMPLETE": "complete_bash"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["export"], done.stderr
