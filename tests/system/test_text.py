"""Texts of users in every place where they are shown."""

import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow_view import View

from lecun_ablate.system.text import count, csv_cell, markdown, markdown_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich 手書き 😀", "Zürich 手書き 😀"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\rb\x07\x9b", "a\\x0db\\x07\\x9b"),
        ("two\nlines", "two\nlines"),
        ("\ud800", "\\ud800"),
        ("a\u200db", "a\u200db"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_changes_a_terminal_is_written_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqrt_fan_in x 2, -0.5", "sqrt_fan_in x 2, -0.5"),
        ("a\n# b", "a # b"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("![x](http://h/p.png)", "![x]\\(http://h/p.png)"),
    ],
)
def test_markdown_keeps_a_text_a_text(text, shown):
    assert markdown(text) == shown


@pytest.mark.parametrize("text", ["# a", "#a", "> a", "- a", "* a", "+ a", "```", "~~~", "---"])
def test_markdown_at_the_beginning_of_a_line(text):
    assert markdown_line(text) == "\\" + text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+cmd|x", "'+cmd|x"),
        ("-2+cmd(x)", "'-2+cmd(x)"),
        ("\t=1", "'\t=1"),
        ("+ momentum", "+ momentum"),
        ("-0.5", "-0.5"),
        ("tanh", "tanh"),
        (-0.5, -0.5),
        ("a\x1b[2J", "a\\x1b[2J"),
    ],
)
def test_no_cell_is_a_formula(value, shown):
    assert csv_cell(value) == shown


# ---- a whole experiment with such names

ARMS = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "a | b",
    "[x](javascript:alert(1))",
    "../../x",
    "%s %d {0} {x} $HOME `id`",
    "[bold red]x[/] :smile:",
    "Zürich 手書き",
]
QUESTION = "# Is <img src=x onerror=alert(1)> good?"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_hostile_names_are_shown_as_they_are_and_nothing_else(workplace, tiny, command):
    from ruamel.yaml import YAML

    lrs = [0.01 + 0.001 * i for i in range(len(ARMS))]
    arms = [{"name": name, "lr": lr} for name, lr in zip(ARMS, lrs, strict=True)]
    content = {
        "name": "hostile",
        "question": QUESTION,
        "data": "tiny",
        "recipe": {"epochs": 1},
        "arms": arms,
        "seeds": 2,
    }
    with open("hostile.yaml", "w", encoding="utf-8") as file:
        YAML().dump(content, file)
    status, out, err = command("run", "hostile.yaml", "--trainer", "torch", "--device", "cpu")
    assert status == 0, err
    for name in ARMS:
        assert name in out
    folder = Path("reports/hostile/tiny")
    names = {path.name for path in Path("reports").rglob("*") if path.is_file()}
    assert {path.name for path in folder.iterdir()} == names, "nothing outside its folder"

    for file in folder.glob("*.csv"):
        for row in csv.reader(io.StringIO(file.read_text())):
            assert not any(cell.startswith(("=", "@")) for cell in row), file
    tags = Tags()
    page = (folder / "report.html").read_text()
    tags.feed(page)
    scripts = [attributes for tag, attributes in tags.found if tag == "script"]
    assert "alert(1)</script>" not in page and "<img src=x" not in page
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert not any(
        "javascript:" in str(value) for _, attributes in tags.found for value in attributes.values()
    )
    text = (folder / "report.md").read_text()
    assert text.startswith("# # Is &lt;img src=x")
    assert "<script" not in text and "](javascript" not in text
    for picture in folder.glob("*.svg"):
        import xml.etree.ElementTree as ElementTree

        kinds = {element.tag.rpartition("}")[2] for element in ElementTree.parse(picture).iter()}
        assert "script" not in kinds, scripts
    view = View()
    for run in view.search(view.experiment("hostile/tiny").experiment_id):
        note = run.data.tags.get("mlflow.note.content", "")
        assert "<script" not in note and "](javascript" not in note


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('question: "a\\e[2Jb"', "hostile.yaml:2: question: the character U+001B is not allowed"),
        ('arms: [{name: "a\\nb", lr: 0.1}]', "expected a name on one line"),
        ('arms: [{name: "a\\u202eb", lr: 0.1}]', "the character U+202E is not allowed"),
        ('"na\\eme": x', "unknown key 'na\\x1bme'"),
    ],
)
def test_control_characters_are_refused_where_they_come_in(workplace, command, text, said):
    Path("hostile.yaml").write_text(f"name: hostile\n{text}\n")
    status, out, err = command("run", "hostile.yaml", "--dry-run")
    assert status == 2 and said in err
    assert "\x1b" not in out + err and "\u202e" not in err


def test_nouns_are_counted():
    assert count(1, "seed") == "1 seed" and count(2000, "seed") == "2,000 seeds"
    assert count(2, "search") == "2 searches"
