"""Modules of the user's own that a component file imports: part of its key, and kept with runs."""

import os
import py_compile
import sys
from pathlib import Path

import pytest

import lecun_ablate
from lecun_ablate import imports
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import registry

MINE = """
import torch
from lecun_ablate import register
{imports}

@register("activation")
def bent(x):
    return {body}
"""
YAML = """
name: own
data: tiny
components: components/mine.py
recipe: {epochs: 1}
arms: [{name: tanh}, {name: bent, activation: bent}]
seeds: 2
"""
RUN = ("run", "own.yaml", "--device", "cpu", "--trainer", "torch")


@pytest.fixture(autouse=True)
def modules(monkeypatch, tmp_path):
    """Forget the modules that a test has imported; the working directory is where they are."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or "pytest-of" in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.resolve()


def names(source: str) -> list[str]:
    return list(imports.imported(source.encode(), [Path.cwd()]))


def test_modules_are_found_wherever_they_are_imported():
    write("one.py", "import two\n")
    write("two.py", "def f():\n    from pack.inner import thing\n")
    write("pack/__init__.py", "")
    write("pack/inner.py", "from . import sibling\nfrom ..outside import x\nimport torch\n")
    write("pack/sibling.py", "import one\n")  # in a circle
    write("unused.py", "")
    write("plain/leaf.py", "")  # a folder without __init__.py
    write("random.py", "")  # Python's own comes first
    write("torch.py", "")  # the installed one has been imported
    write("broken.py", "def (")
    found = ["one", "pack", "pack.inner", "pack.sibling", "two"]
    assert names("import one") == found
    assert names("if True:\n    import one as o") == found
    assert names("from plain import leaf") == names("import plain.leaf") == ["plain.leaf"]
    assert names("import random, torch, numpy, lecun_ablate") == []
    assert names("import broken") == ["broken"]
    assert names("import (") == []


def test_a_file_without_modules_has_its_own_digest():
    import hashlib

    assert imports.digest(b"x", {}) == hashlib.sha256(b"x").hexdigest()
    one, other = (imports.digest(b"x", {"a": content}) for content in (b"1", b"2"))
    assert len({one, other, imports.digest(b"x", {}), imports.digest(b"x", {"b": b"1"})}) == 4


def test_a_changed_module_is_loaded_again_and_changes_the_digest():
    file = write("components/mine.py", MINE.format(imports="import helper", body="helper.f(x)"))
    write("helper.py", "from deeper import G\ndef f(x):\n    return G * x\n")
    write("deeper.py", "G = 2\n")
    registry.load(file)
    first = registry.get("activation", "bent")
    assert first(3) == 6 and sorted(first.modules) == ["deeper.py", "helper.py"]
    registry.load(file)
    assert registry.get("activation", "bent") is first, "nothing has changed"
    write("deeper.py", "G = 5\n")
    registry.load(file)
    second = registry.get("activation", "bent")
    assert second(3) == 15 and second.digest != first.digest
    assert first(3) == 6, "what has been loaded stays as it was"
    write("deeper.py", "G = 2\n")
    registry.load(file)
    assert registry.get("activation", "bent").digest == first.digest


def test_a_module_runs_as_it_was_read_and_not_from_an_old_cache():
    """Python's cache goes by size and second: it takes an edit of one digit for the old file."""
    file = write(
        "components/mine.py", MINE.format(imports="import pack.scale as s", body="s.K * x")
    )
    write("pack/__init__.py", "")
    for factor in (2, 5):
        module = write("pack/scale.py", f"K = {factor}\n")
        os.utime(module, (1e9, 1e9))
        if factor == 2:  # another program has imported it
            py_compile.compile(str(module))
        registry.load(file)
        assert registry.get("activation", "bent")(1) == factor


def test_a_module_is_not_read_a_second_time(monkeypatch):
    """Between its digest and its import it may be edited."""
    file = write("components/mine.py", MINE.format(imports="import helper", body="helper.K * x"))
    write("helper.py", "K = 2\n")
    digest = imports.digest

    def edited(*contents):
        write("helper.py", "K = 55\n")
        return digest(*contents)

    monkeypatch.setattr(imports, "digest", edited)
    registry.load(file)
    assert registry.get("activation", "bent")(1) == 2


def test_a_module_beside_the_file_can_be_imported():
    file = write("components/mine.py", MINE.format(imports="import beside", body="beside.f(x)"))
    write("components/beside.py", "def f(x):\n    return -x\n")
    path = list(sys.path)
    registry.load(file)
    assert registry.get("activation", "bent")(3) == -3
    assert sys.path == path
    write("components/beside.py", "raise ValueError('no')\n")
    with pytest.raises(ConfigError, match=r"mine\.py:4: ValueError: no"):
        registry.load(file)
    assert sys.path == path


@pytest.mark.usefixtures("tiny")
def test_a_changed_module_trains_again_and_reproduce_takes_the_kept_one(workplace, command):
    source = MINE.format(imports="from pack import helper", body="helper.f(x)")
    write("components/mine.py", source)
    write("pack/__init__.py", "")
    write("pack/helper.py", "import torch\ndef f(x):\n    return torch.sin(x)\n")
    write("own.yaml", YAML)
    assert "4 to train" in command(*RUN)[2]
    assert "0 to train" in command(*RUN)[2]
    run_id = lecun_ablate.load_results("own").query("arm == 'bent' and seed == 1").run_id.iloc[0]
    (kept,) = Path("mlruns").glob(f"*/{run_id}/artifacts/modules/pack/helper.py")
    assert kept.read_text() == Path("pack/helper.py").read_text()

    write("pack/helper.py", "import torch\ndef f(x):\n    return torch.cos(x)\n")
    assert "2 done before, 2 to train" in command(*RUN)[2]

    def forget():
        registry._components["activation"].pop("bent", None)

    forget()
    status, _, err = command("reproduce", run_id)
    assert status == 1 and "not in the working directory: helper.py" in err
    forget()
    status, out, err = command("reproduce", run_id, "--trust-components")
    assert status == 0 and "is reproduced, bit for bit" in out, out + err
    forget()
    write("elsewhere.py", "import torch\ndef f(x):\n    return torch.sin(x)\n")  # a copy of it
    assert command("reproduce", run_id)[0] == 0
    forget()
    kept.write_text("import torch\ndef f(x):\n    return torch.cos(x)\n")
    status, _, err = command("reproduce", run_id, "--trust-components")
    assert status == 1 and "nothing was run" in err
