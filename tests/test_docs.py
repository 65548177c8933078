"""The documented examples do what the documentation says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


@pytest.mark.usefixtures("tiny")
def test_components_of_a_users_own_run_through_the_whole_job(workplace, command):
    (workplace / "mine.py").write_text(blocks("docs/components.md", "python")[0])
    (workplace / "own.yaml").write_text(blocks("docs/components.md", "yaml")[0])
    small = ("run", "own.yaml", "--seeds", "2", "--epochs", "2", "--data", "tiny")
    status, out, err = command(*small, "--json")
    assert status == 0, err
    table = {row["arm"]: row for row in json.loads(out)["arms"]}
    assert len(table) == 8 and {row["trainer"] for row in table.values()} == {"torch"}
    assert "compared on the same one" in err and "squareplus" in err
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


def test_readme_commands_exist():
    """Every command line of the README names a command and files that are there."""
    from typer.main import get_command

    from lecun_ablate.cli import app

    commands = set(get_command(app).commands)
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    lines = re.findall(r"python -m lecun_ablate (\w+)([^\n`]*)", text)
    assert {name for name, _ in lines} <= commands
    for _, arguments in lines:
        for file in re.findall(r"(?:experiments|studies)/\w+\.yaml", arguments):
            assert (ROOT / file).is_file(), file
