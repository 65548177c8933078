"""An experiment for a paper: what LaTeX is given, checked without LaTeX."""

import re

import pytest
from made_up import results

from lecun_ablate.evidence.weighing import weigh
from lecun_ablate.reporting.latex import Macros, latex, text

BASE = [20, 22, 19, 21, 23, 20, 18, 22, 21, 20, 19, 21]


@pytest.fixture(scope="module")
def written():
    misses = {"tanh": BASE, "relu_2": [count - 6 for count in BASE], "relu_3": BASE}
    return latex(weigh(*results(misses, status={("relu_3", 4): "diverged"})))


def defined(written):
    return dict(re.findall(r"\\newcommand\{\\([A-Za-z]+)\}\{(.*)\}\n", written))


def test_every_number_of_the_tables_is_a_macro_that_is_defined(written):
    macros = defined(written)
    tables = re.findall(r"\\midrule\n(.*?)\\bottomrule", written, re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        used = re.findall(r"\\([A-Za-z]+)\{\}", table)
        assert used and set(used) <= set(macros)
        without = re.sub(r"\\[A-Za-z]+\{\}|relu\\_\d", "", table)
        assert not re.search(r"\d", without), "a number that no macro holds"
    assert macros["tanhMean"] == "10.25"
    assert macros["reluTwoAgainstTanhDifference"] == "$-3.00$"
    assert macros["reluTwoAgainstTanhVerdict"] == "better"
    assert macros["tanhFailures"] == r"0 of 12: at most 23 \%"
    assert macros["reluThreeFailures"] == r"1 of 12: 8 \% [0, 39]"


def test_braces_and_environments_are_closed(written):
    assert written.count("{") == written.count("}")
    assert written.count(r"\begin{tabular}") == written.count(r"\end{tabular}") == 2
    rows = [line.count(" & ") for line in written.splitlines() if line.endswith(r"\\")]
    assert set(rows) == {3, 6}  # columns of the two tables, less one


def test_the_paragraph_answers_a_checklist(written):
    paragraph = written[written.index(r"\paragraph") :]
    for words in ("seeds, the same for all arms", "test images after the last epoch",
                  "initial weights", "paired by seed", "first look: level 0.032", "untuned",
                  "that diverged or collapsed", "Versions: python 3.11.0",
                  "commit c0ffee"):  # fmt: skip
        assert words in paragraph, words
    macros = defined(written)
    assert (macros["totalRuns"], macros["seeds"], macros["totalFailed"]) == ("36", "12", "1")
    seconds = 36 * 3 * 0.5  # runs, epochs, seconds of an epoch
    assert float(macros["totalHours"]) == pytest.approx(seconds / 3600, rel=0.05)


def test_names_are_letters_and_never_meet():
    macros = Macros()
    names = [macros("relu", "1", value="a"), macros("relu-1", value="b"), macros("2x", value="c")]
    assert names == [r"\reluOne{}", r"\reluOnex{}", r"\twoX{}"]
    assert macros.definitions().splitlines()[1] == r"\newcommand{\reluOnex}{b}"


def test_special_characters_are_escaped():
    assert text(r"a_b & 50 % {x} \ ^~$#") == (
        r"a\_b \& 50 \% \{x\} \textbackslash{} \textasciicircum{}\textasciitilde{}\$\#"
    )


def test_an_experiment_of_one_arm_has_one_table():
    one = latex(weigh(*results({"tanh": BASE})))
    assert one.count(r"\begin{tabular}") == 1 and "paired by seed" not in one
