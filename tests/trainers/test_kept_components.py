"""What is kept of compiled components between processes, and when it no longer holds."""

import functools
import math
import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from users_components import ACTIVATIONS, LOSSES, MORE_OPTIMIZERS, OPTIMIZERS

from lecun_ablate.compiled import build, cache, component, record
from lecun_ablate.compiled.fingerprint import fingerprint
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native

each = pytest.mark.parametrize


# ---- fingerprints -------------------------------------------------------------------------------

SCALE = 2.0


def make(text, **names):
    """Return the function f of a source text, with global names."""
    space = {"torch": torch, "math": math, **names}
    exec(text, space)
    return space["f"]


def helper_of(body):
    module = ModuleType("users_helpers")
    exec(body, module.__dict__)
    return module


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return self.scale * x


def closing_over(value):
    return lambda x: x * value


SAME = {
    "text": lambda: make("def f(x): return torch.tanh(x)"),
    "comment": lambda: make("def f(x): return torch.tanh(x)\n# comment"),
    "closure": lambda: closing_over(0.5),
    "tensor": lambda: closing_over(torch.tensor([0.5, 1])),
    "array": lambda: closing_over(np.arange(3)),
    "instance": lambda: Scaled(2),
    "module": lambda: torch.nn.Softplus(beta=2),
    "partial": lambda: functools.partial(torch.clamp, min=0),
    "torch": lambda: torch.nn.functional.mish,
    "helper": lambda: make("def f(x): return h.g(x)", h=helper_of("def g(x): return x + 1")),
}
OTHER = {  # pairs that compute different things
    "constant": [make("def f(x): return x * 2.0"), make("def f(x): return x * 3.0")],
    "operation": [make("def f(x): return x + 2.0"), make("def f(x): return x - 2.0")],
    "name": [make("def f(x): return torch.sin(x)"), make("def f(x): return torch.cos(x)")],
    "global": [make("def f(x): return x * a", a=1.0), make("def f(x): return x * a", a=1)],
    "closure": [closing_over(0.5), closing_over(0.25)],
    "tensor": [closing_over(torch.tensor([0.5])), closing_over(torch.tensor([0.5]).double())],
    "default": [make("def f(x, a=1): return x * a"), make("def f(x, a=2): return x * a")],
    "keyword": [make("def f(x, *, a=1): return x * a"), make("def f(x, *, a=2): return x * a")],
    "nested": [
        make("def f(x):\n def g(y): return y + 1\n return g(x)"),
        make("def f(x):\n def g(y): return y + 2\n return g(x)"),
    ],
    "called": [
        make("def f(x): return g(x)", g=make("def f(x): return x + 1")),
        make("def f(x): return g(x)", g=make("def f(x): return x + 2")),
    ],
    "instance": [Scaled(2), Scaled(3)],
    "module": [torch.nn.Softplus(beta=2), torch.nn.Softplus(beta=3)],
    "partial": [functools.partial(torch.clamp, min=0), functools.partial(torch.clamp, max=0)],
    "helper": [
        make("def f(x): return h.g(x)", h=helper_of("def g(x): return x + 1")),
        make("def f(x): return h.g(x)", h=helper_of("def g(x): return x + 2")),
    ],
    "helper's constant": [
        make("def f(x): return h.g(x)", h=helper_of("A = 1\ndef g(x): return x + A")),
        make("def f(x): return h.g(x)", h=helper_of("A = 2\ndef g(x): return x + A")),
    ],
    "torch": [torch.nn.functional.mish, torch.nn.functional.silu],
}
UNKNOWN = {
    "environment": make("def f(x): return x * float(os.environ['A'])", os=os),
    "file": make("def f(x): return x * float(open('a').read())"),
    "import inside": make("def f(x):\n import os\n return x"),
    "eval": make("def f(x): return eval('x + 1')"),
    "object": closing_over(open(os.devnull)),  # noqa: SIM115
    "generator": closing_over(torch.Generator()),
}


@each("name", SAME)
def test_what_is_the_same_has_one_fingerprint(name):
    first, second = fingerprint(SAME[name]()), fingerprint(SAME[name]())
    assert first == second
    assert first is not None


@each("name", OTHER)
def test_what_is_different_has_another(name):
    first, second = map(fingerprint, OTHER[name])
    assert None not in (first, second)
    assert first != second


@each("name", UNKNOWN)
def test_what_may_change_unseen_has_none(name):
    assert fingerprint(UNKNOWN[name]) is None


def test_the_default_dtype_and_a_version_are_in_it(monkeypatch):
    before = fingerprint(torch.tanh)
    monkeypatch.setattr(torch, "__version__", "other")
    assert fingerprint(torch.tanh) != before
    monkeypatch.undo()
    torch.set_default_dtype(torch.float64)
    try:
        assert fingerprint(torch.tanh) != before
    finally:
        torch.set_default_dtype(torch.float32)
    assert fingerprint(torch.tanh) == before


# ---- records ------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(
    bool(native.availability()) or build.Compiler.find() is None, reason="no compiler"
)
KINDS = {
    "activation": ACTIVATIONS["squareplus"],
    "loss": LOSSES["focal"],
    "optimizer": MORE_OPTIMIZERS["adam_of_columns"],
}


@pytest.fixture
def made_anew(monkeypatch, tmp_path):
    """The components that were traced and checked, with an empty cache at the beginning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(component, "_made", _counted([], component._made))
    component._outcome.cache_clear()
    return component._made.names


def _counted(names, original):
    def made(one, *rest):
        names.append(one.name)
        return original(one, *rest)

    made.names = names
    return made


def again(one, momentum=0.0):
    component._outcome.cache_clear()  # as in another process
    return native.compiled_for(one, native.kernel.INSTRUCTION_SETS[0], momentum)


def entered(kind, name, function):
    registry.register(kind, name)(function)
    return registry.get(kind, name)


@needs_compiler
@each("kind", KINDS)
def test_a_component_is_made_once_for_all_processes(kind, made_anew):
    own = entered(kind, "own", KINDS[kind])
    first, second = again(own), again(own)
    assert made_anew == ["own"]
    assert type(first) is type(second)
    assert first.structs == second.structs
    if kind == "optimizer":
        assert first.slots == second.slots
        x = [np.linspace(-1, 1, 64), np.linspace(-1, 2, 64), [np.zeros(64)] * 2, np.ones(2), 0.1]
        for a, b in zip(first.step(True, *x), second.step(True, *x), strict=True):
            np.testing.assert_array_equal(a, b)


@needs_compiler
def test_whatever_may_change_the_numbers_makes_it_anew(made_anew, monkeypatch):
    own = entered("optimizer", "own", OPTIMIZERS["own_rmsprop"])
    again(own)
    again(own.given({"alpha": 0.5}))
    again(own, momentum=0.5)
    again(replace(own, digest="another file"))
    monkeypatch.setattr(torch, "__version__", "other")
    again(own)
    monkeypatch.undo()
    assert len(made_anew) == 5


@needs_compiler
def test_other_compilers_options_and_code_have_records_of_their_own(monkeypatch):
    own = entered("loss", "own", LOSSES["huber"])
    target = component.Target("avx2", 32, ("-O3",))
    compiler = build.Compiler.find()
    keys = [
        record.key_of(own, target, compiler, 0.0),
        record.key_of(own, replace(target, instruction_set="x"), compiler, 0.0),
        record.key_of(own, replace(target, options=("-O1",)), compiler, 0.0),
        record.key_of(own, target, replace(compiler, version="x"), 0.0),
    ]
    monkeypatch.setattr(record, "_package", lambda: "other code")
    keys.append(record.key_of(own, target, compiler, 0.0))
    assert len(set(keys)) == len(keys)


@needs_compiler
@each("suffix", [".json", ".so"])
def test_a_damaged_record_or_object_counts_as_missing(suffix, made_anew):
    own = entered("loss", "own", LOSSES["huber"])
    again(own)
    for damage in (b"", b"{}", b"\x7fELF" + b"x" * 5000):
        (file,) = cache.folder().glob(f"*{suffix}")
        file.unlink()
        file.write_bytes(damage)
        outputs = np.eye(10)
        assert again(own)(outputs, outputs)[0].sum() == 0
    assert len(made_anew) == 4


@needs_compiler
def test_what_has_no_fingerprint_is_checked_in_every_process(made_anew):
    own = entered("activation", "own", make("def f(x): return x * len(os.sep)", os=os))
    again(own)
    again(own)
    assert made_anew == ["own", "own"]
    assert not list(cache.folder().glob("*.json"))


@needs_compiler
def test_a_changed_file_is_compiled_anew_and_an_unchanged_one_is_not_even_traced(tmp_path):
    program = (
        "from lecun_ablate.compiled import component\n"
        "from lecun_ablate.registry import registry\n"
        "from lecun_ablate.trainers import native\n"
        "made, original = [], component._made\n"
        "component._made = lambda *a: made.append(a) or original(*a)\n"
        "registry.load('mine.py')\n"
        "own = registry.get('loss', 'mine')\n"
        "f = native.compiled_for(own, native.kernel.INSTRUCTION_SETS[0])\n"
        "import numpy as np\n"
        "print(f(np.ones((1, 10)), np.zeros((1, 10)))[0].item(), len(made))\n"
    )
    (tmp_path / "helpers.py").write_text("SCALE = 2.0\n")
    (tmp_path / "mine.py").write_text(
        "import helpers\nfrom lecun_ablate import register\n\n\n@register('loss')\n"
        "def mine(y, t):\n    return helpers.SCALE * (y - t).square().sum(-1)\n"
    )

    def run():
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    assert run() == ["20.0", "1"]
    assert run() == ["20.0", "0"]
    (tmp_path / "helpers.py").write_text("SCALE = 3.0\n")
    assert run() == ["30.0", "1"]
