"""Every command and file of the guide, in its order, on a small budget."""

import re
import shlex
from pathlib import Path

import pytest

from lecun_ablate.terminal import ui

GUIDE = Path(__file__).resolve().parent.parent / "docs/guide.md"
SMALL = {
    "{epochs: 10}": "{epochs: 2}",
    "seeds: 10": "seeds: 4",
    "{epochs: 5}": "{epochs: 2}",
    "trials: 8": "trials: 2",
}


def small(text: str) -> str:
    """Return a text with other data and a small budget: usps is far too large for a test."""
    for old, new in {"usps": "tiny", **SMALL}.items():
        text = text.replace(old, new)
    return text


def steps() -> list[tuple[str, str]]:
    """Return (kind, text) of the guide's commands, its files and its Python, in order."""
    pattern = r"^    (?P<command>\S[^\n]*)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    found = re.finditer(pattern, GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [
        ("command", m["command"]) if m["command"] else (m["language"], m["code"]) for m in found
    ]


@pytest.mark.usefixtures("tiny", "plain_reports")
def test_the_guide_holds_what_it_says(workplace, command, monkeypatch):
    opened = []
    monkeypatch.setattr(ui, "show", lambda link, start, browser: opened.append((link, start)))
    ran = []
    for kind, text in steps():
        if kind == "command":
            words = shlex.split(small(text), comments=True)
            if words[0] == "optuna-dashboard":
                continue
            assert words[:3] == ["python", "-m", "lecun_ablate"], text
            arguments = words[3:]
            if "&&" in arguments:
                cut = arguments.index("&&")
                assert arguments[cut + 1 :] == ["cd", "work"]
                arguments = arguments[:cut]
            if arguments[0] in ("run", "study"):
                arguments += ["--device", "cpu"]
            status, out, err = command(*arguments)
            assert status == 0, f"{text}\n{out}\n{err}"
            ran.append((arguments, out, err))
            if arguments[0] == "init":
                monkeypatch.chdir(workplace / "work")
                Path("mlflow.db").write_bytes((workplace / "mlflow.db").read_bytes())
                for file in Path().rglob("*.yaml"):
                    file.write_text(small(file.read_text()))
        elif text.startswith("# "):
            path = Path(text.split("\n")[0].removeprefix("# "))
            path.write_text(small(text) if kind == "yaml" else text)
        else:
            exec(compile(small(text), str(GUIDE), "exec"), {})
    texts = [" ".join(arguments) for arguments, _, _ in ran]

    def said(beginning: str) -> str:
        (index,) = [i for i, t in enumerate(texts) if t.startswith(beginning)]
        return ran[index][1] + ran[index][2]

    assert len(opened) == 1 and "viewStateShareKey=arms-" in opened[0][0]
    assert opened[0][1] == "mlflow ui"
    assert "60 runs, 12 done before, 48 to train" in said("run experiments/first.yaml --seeds 20")
    assert "30 to do" not in said("run experiments/first.yaml --only relu")
    assert "10 to train" in said("run experiments/first.yaml --only relu")
    assert "without seed 3" in said("run experiments/first.yaml --without-seed 3")
    assert Path("reports/first/tiny/epochs=1/report.html").is_file()
    assert "best lr" in said("show rates")
    assert "first/tiny:relu minus first/tiny:tanh" in said("compare first/tiny:relu first")
    assert "over 3 shared seeds" in said("compare first/tiny:tanh optimizer:adagrad")
    listed = said("components optimizer")
    assert "adagrad" in listed and "Duchi" in listed and "sdlm" in listed
    assert Path("first-tiny.csv").read_text().startswith("arm,seed,epoch,")
    assert "\\toprule" in Path("first.tex").read_text()
    assert "is reproduced, bit for bit" in said("reproduce")
    assert command("show", "first/tiny")[0] == 1, "it has been deleted"
