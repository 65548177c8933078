"""The documented examples do what the documentation says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


def can_compile() -> bool:
    from lecun_ablate.compiled.build import Compiler
    from lecun_ablate.trainers import native

    return Compiler.find() is not None and native.availability() is None


def test_the_compiled_trainers_run_all_components_of_the_page(tmp_path):
    from lecun_ablate.registry import KINDS, registry
    from lecun_ablate.trainers.speeds import refusals

    if not can_compile():
        pytest.skip("no C++ compiler, or none built the native trainer")
    for i, text in enumerate(blocks("docs/components.md", "python")):
        (tmp_path / f"mine{i}.py").write_text(text)
        registry.load(tmp_path / f"mine{i}.py")
    every = [registry.get(kind, name) for kind in KINDS for name in registry.names(kind)]
    mine = [component for component in every if not component.builtin]
    assert {c.kind for c in mine} > {"activation", "loss", "optimizer"}
    for component in mine:
        assert refusals(component) == {"native": None, "cuda": None}, component.name


@pytest.mark.usefixtures("tiny", "plain_reports")
def test_components_of_a_users_own_run_through_the_whole_job(workplace, command):
    (workplace / "mine.py").write_text(blocks("docs/components.md", "python")[0])
    (workplace / "own.yaml").write_text(blocks("docs/components.md", "yaml")[0])
    small = ("run", "own.yaml", "--seeds", "2", "--epochs", "2", "--data", "tiny")
    status, out, err = command(*small, "--json")
    assert status == 0, err
    table = {row["arm"]: row for row in json.loads(out)["arms"]}
    assert len(table) == 8
    if can_compile():
        assert {row["trainer"] for row in table.values()} == {"native"}
        assert "torch trainer" not in err
    assert all(row["runs"] == 2 and row["diverged"] == 0 for row in table.values())
    errors = {arm: row["test_error_mean"] for arm, row in table.items()}
    assert len(set(errors.values())) > 3, "the components change nothing"

    from mlflow_view import View

    store = View()
    experiment_id = store.experiment("own/tiny").experiment_id
    for run in store.search(experiment_id, lecun_ablate__level="run"):
        own = run.data.tags["lecun_ablate.arm"] != "notebook"
        kept = store.client.list_artifacts(run.info.run_id, "components")
        assert [file.path for file in kept] == (["components/mine.py"] if own else [])

    assert "0 to train" in command(*small)[2]
    (workplace / "mine.py").write_text((workplace / "mine.py").read_text() + "# changed\n")
    assert "16 runs, 2 done before, 14 to train" in command(*small)[2]  # the file is in their key


def test_every_kind_of_component_is_documented():
    from lecun_ablate.registry import KINDS

    text = (ROOT / "docs/components.md").read_text()
    for kind in KINDS.values():
        row = re.search(rf"^\| {kind.name} \| (.*?) \|", text, re.MULTILINE).group(1)
        for argument in kind.arguments:
            assert f"`{argument}`" in row, (kind.name, argument)


def test_commands_name_files_that_are_there(tmp_path):
    """Every command line of the README and of docs/ names a command and files that are there.

    The guide speaks of a folder that `init` has written, and of files that the guide itself gives
    above the command; all other pages speak of this repository.
    """
    from typer.main import get_command

    from lecun_ablate import api
    from lecun_ablate.cli import app

    commands = set(get_command(app).commands)
    api.init(tmp_path)
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    guides = 0
    for page in pages:
        text = page.read_text()
        guide = page.name == "guide.md"
        given = [(m.start(), m[1]) for m in re.finditer(r"^```\w+\n# (\S+)$", text, re.MULTILINE)]
        for line in re.finditer(r"python -m lecun_ablate (\w+)([^\n`]*)", text):
            assert line[1] in commands, (page.name, line[0])
            for file in re.findall(r"(?:experiments|studies|components)/\w+\.\w+", line[2]):
                above = {name for place, name in given if place < line.start()}
                there = (tmp_path if guide else ROOT) / file
                assert there.is_file() or (guide and file in above), (page.name, line[0])
                guides += guide
    assert guides > 5, "the guide's commands are looked at"


def test_every_page_is_linked_from_the_readme_and_links_lead_somewhere():
    linked = {}
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        linked[page.name] = {(page.parent / link).resolve() for link in links}
        missing = [str(link) for link in linked[page.name] if not link.exists()]
        assert not missing, (page.name, missing)
    assert set(ROOT.glob("docs/*.md")) <= linked["README.md"]
