"""A user's own activations on the native trainer: traced, translated, compiled, checked."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import by_hand, split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from users_components import ACTIVATIONS, only_first_fast

from lecun_ablate.compiled import build, cache, source
from lecun_ablate.compiled import component as own
from lecun_ablate.compiled.activation import activation
from lecun_ablate.compiled.check import by_autograd, check_activation, grid
from lecun_ablate.compiled.library import CompiledActivation
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.choice import choose
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.speeds import refusals
from lecun_ablate.trainers.torch_trainer import TorchTrainer

if native.availability():
    pytest.skip(native.availability(), allow_module_level=True)
if build.Compiler.find() is None:
    pytest.skip(build.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("own_cache")
each = pytest.mark.parametrize
INSTRUCTION_SETS = native.kernel.INSTRUCTION_SETS
LIKEWISE = {  # written in other ways, or in place of a copy
    "masked": lambda x: x.masked_fill(x < 0, 0.0),
    "times a mask": lambda x: x * (x > 0),
    "set item": lambda x: _set_item(x.clone()),
    "constant tensor": lambda x: x * torch.tensor(0.5),
    "power": lambda x: (x.abs() + 1).pow(1.7),
    "mutated copy": lambda x: (x * 1).mul_(x),
    "exact gelu": F.gelu,
    "logarithm": lambda x: torch.log(x * x + 1) + torch.log1p(x.abs()),
    "hyperbolic": lambda x: torch.sinh(x.clamp(-3, 3)) + torch.cosh(x.clamp(-3, 3)),
    "scaled difference": lambda x: torch.sub(x, x.tanh(), alpha=0.5),
    "noted": lambda x: (x.detach() * 0 + x).relu().square(),
}


def _set_item(y):
    y[y < -1] = -1.0
    return y


def draws(x):
    return F.dropout(x, 0.5, training=True)


def branches(x):
    return x if x.sum() > 0 else -x


def prints(x):
    print("here")
    return x.tanh()


BAD = {
    "softmax": (lambda x: x.softmax(-1), "it mixes elements: aten._softmax reduces over them"),
    "mean": (lambda x: x - x.mean(), "it mixes elements: aten.mean reduces over them"),
    "transposed": (lambda x: x + x.flip(0), "aten.flip has no translation"),
    "dropout": (draws, "it draws random numbers: aten.bernoulli"),
    "noise": (lambda x: x + torch.randn_like(x), "it draws random numbers: aten.randn_like"),
    "branch": (branches, "it branches on the values of its arguments"),
    "item": (lambda x: x * x.max().item(), "it reads a value out of a tensor, as `item()` does"),
    "in place": (lambda x: x.mul_(0.5).tanh_(), "it changes its argument in place"),
    "complex": (lambda x: x + 1j, "it returns complex64 for float32"),
    "complex inside": (lambda x: (x + 1j).real, "it computes with complex numbers"),
    "integer": (lambda x: x.int(), "it returns int32 for float32"),
    "integer inside": (lambda x: x.int() * x, "it computes in int32"),
    "float64": (lambda x: x.double(), "it returns float64 for float32"),
    "float64 inside": (lambda x: x.double().tanh().to(x.dtype), "it computes in float64"),
    "NaN at 0": (lambda x: torch.sqrt(x.abs()), "its slope at 0 is nan"),
    "infinite at 0": (lambda x: torch.log(x.abs()) + x, "its value at 0 is -inf"),
    "prints": (prints, "it prints, which compiled code would not"),
    "fails": (lambda x: x + torch.zeros(7), "it fails: RuntimeError: "),
    "no tensor": (lambda x: 1.0, "it returns float: expected a tensor"),
    "counts elements": (lambda x: x * x.numel(), "the check fails in float32: at x = "),
}


@pytest.fixture
def enter():
    """Return what registers a function as an activation."""

    def register(name, function):
        registry.register("activation", name)(function)
        return registry.get("activation", name)

    return register


def compiled(component, instruction_set=INSTRUCTION_SETS[0]):
    return native.compiled_for(component, instruction_set)


# ---- the functions ------------------------------------------------------------------------------


@each("instruction_set", only_first_fast(INSTRUCTION_SETS))
@each("name", [*ACTIVATIONS, *LIKEWISE])
def test_compiled_activations_are_those_of_pytorch(name, instruction_set, enter):
    function = (ACTIVATIONS | LIKEWISE)[name]
    made = compiled(enter("own", function), instruction_set)
    x = np.concatenate([np.linspace(-9, 9, 2001), [1e-300, -1e-5, 30.5, -41.7]])
    for found, expected in zip(made(x), by_autograd(function, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    x = x.astype("float32")
    for found, expected in zip(made(x), by_autograd(function, x.astype(float)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=3e-5, atol=1e-5)


@each("instruction_set", only_first_fast(INSTRUCTION_SETS))
@each("name", ["sin", "cos", "log", "log1p", "expm1"])
def test_elementary_functions_at_large_and_small_numbers(name, instruction_set, enter):
    """To an epsilon or two of the result, or of 1 for sin and cos: those of NumPy in float64."""
    function = {"log": lambda x: torch.log(x * x + 1e-3), "log1p": lambda x: torch.log1p(x.abs())}
    made = compiled(enter("own", function.get(name, getattr(torch, name))), instruction_set)
    sizes = np.geomspace(1e-9, 1e6 if name in ("sin", "cos") else 300, 5000)
    x = np.concatenate([sizes, -sizes])
    if name == "expm1":
        x = x[np.abs(x) < 80]
    exact = {"log": lambda x: np.log(x * x + 1e-3), "log1p": lambda x: np.log1p(np.abs(x))}
    for dtype in ("float32", "float64"):
        near = x.astype(dtype)
        expected = exact.get(name, getattr(np, name))(near.astype(float))
        size = np.abs(expected) if name in ("log1p", "expm1") else np.maximum(np.abs(expected), 1)
        assert (np.abs(made(near)[0] - expected) / size).max() <= 2 * np.finfo(dtype).eps


@each("name", BAD)
def test_what_is_no_elementwise_function_is_refused_with_the_reason(name, enter):
    function, reason = BAD[name]
    with pytest.raises(Refused) as refused:
        compiled(enter("own", function))
    assert str(refused.value).startswith(reason)


# Wrong results that a compiler or a translation might give
WRONG = {
    "value": lambda x, y, dy: (y * (1 + 1e-4), dy),
    "slope": lambda x, y, dy: (y, dy + 1e-3),
    "slope above a seam": lambda x, y, dy: (y, np.where((x > 1.5) & (x < 1.52), 1, dy)),
    "slope at a point": lambda x, y, dy: (y, np.where(x == 3, 1, dy)),
    "infinity": lambda x, y, dy: (np.where(x == np.inf, 0, y), dy),
    "NaN": lambda x, y, dy: (np.where(np.isnan(x), 0, y), dy),
    "subnormal": lambda x, y, dy: (np.where((x != 0) & (abs(x) < 1e-37), 0.1, y), dy),
    "large": lambda x, y, dy: (np.where(abs(x) > 1e30, np.nan, y), dy),
}


@each("dtype", ["float32", "float64"])
@each("name", WRONG)
def test_the_check_finds_what_is_wrong(name, dtype):
    function = ACTIVATIONS["clamp"] if "seam" in name else torch.tanh
    program = activation(function, dtype)
    graph, constants = program.graphs[0], program.constants

    def right(x):
        return by_autograd(function, x)

    def wrong(x):
        return tuple(np.asarray(a, dtype) for a in WRONG[name](x, *right(x)))

    check_activation(function, right, graph, constants, dtype)
    with pytest.raises(Refused, match=f"the check fails in {dtype}: at x = "):
        check_activation(function, wrong, graph, constants, dtype)


def test_the_check_looks_at_both_sides_of_every_seam():
    def function(x):
        return torch.where(x * x > 7, x, torch.where(3 * x + 1 > 0, x * 0.5, x * 0.25))

    x, near = grid(activation(function, "float64").graphs[0], (), "float64")
    for seam in (-np.sqrt(7), np.sqrt(7), -1 / 3):
        distance = np.abs(x[near] - seam) / np.spacing(abs(seam))
        assert distance.min() <= 1, seam
        assert (distance <= 8).sum() >= 9, seam


def leaves():
    numbers = st.floats(-4, 4).map(lambda v: round(v, 3))
    return st.just("x") | numbers.map(lambda v: f"torch.full_like(x, {v})")


UNARY = ["tanh", "sigmoid", "abs", "sin", "cos", "atan", "asinh", "erf", "relu", "neg", "square"]
UNARY += ["sign", "floor"]


def extend(inner):
    return st.one_of(
        st.tuples(st.sampled_from(UNARY), inner).map(lambda t: f"torch.{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(["exp", "expm1"]), inner).map(
            lambda t: f"torch.{t[0]}(torch.tanh({t[1]}))"
        ),
        st.tuples(st.sampled_from(["log", "log1p", "sqrt"]), inner).map(
            lambda t: f"torch.{t[0]}(torch.square({t[1]}) + 0.5)"
        ),
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["maximum", "minimum"]), inner, inner).map(
            lambda t: f"torch.{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(inner, inner, inner).map(lambda t: f"torch.where({t[0]} > {t[1]}, {t[2]}, x)"),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(text=st.recursive(leaves(), extend, max_leaves=5))
def test_random_expressions_are_those_of_pytorch(text):
    """In float64, away from what a rounding can move to another branch."""
    function = eval(f"lambda x: x * 0.1 + {text}", {"torch": torch})
    target = INSTRUCTION_SETS[0]
    programs = {"float64": [activation(function, "float64")]}
    text = source.source("activation", programs, native.kernel.VECTOR_BYTES[target])
    options = native.kernel.OPTIONS[target].split()
    built = build.build(build.Compiler.find(), text, options)
    made = CompiledActivation(built, native.kernel.VECTOR_BYTES[target], {})
    x = np.random.default_rng(1).uniform(-3, 3, 400)
    for found, expected in zip(made(x), by_autograd(function, x), strict=True):
        good = np.isclose(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        assert good.mean() > 0.99


# ---- training -----------------------------------------------------------------------------------


@each("name", ACTIVATIONS)
def test_training_is_that_of_autograd(name, enter):
    """In float64, to 1e-9, in the hidden layers and at the outputs."""
    enter("own", ACTIVATIONS[name])
    fit = split(40, "float64")
    for fields in ({"activation": "own"}, {"output_activation": "own"}):
        recipe = Recipe(dtype="float64", epochs=1, lr=0.01, **fields)
        trainer = NativeTrainer(own_components=True)
        (report,) = trainer.train([Run(recipe, 3)], fit, {"train": fit})
        expected, loss = by_hand(recipe, 3, fit)
        for tensor, found in report.state.parameters.items():
            np.testing.assert_allclose(found, expected[tensor], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(report.scores["train"].loss, loss, rtol=1e-9)


@each("fields", [{"optimizer": "adam"}, {"optimizer": "sdlm"}, {"dropout": 0.2, "batch_size": 4}])
@each("instruction_set", only_first_fast(INSTRUCTION_SETS))
def test_other_methods_train_with_it_as_the_torch_trainer_does(fields, instruction_set, enter):
    enter("own", ACTIVATIONS["squareplus"])
    fit = split(24, "float64")
    runs = [Run(Recipe(dtype="float64", epochs=2, lr=0.001, activation="own", **fields), 1)]
    trainers = [NativeTrainer(1, instruction_set, own_components=True), TorchTrainer()]
    one, other = (list(t.train(runs, fit, {"train": fit}))[-1].state for t in trainers)
    for name, found in one.parameters.items():
        np.testing.assert_allclose(found, other.parameters[name], rtol=1e-9, atol=1e-9)


def test_a_builtin_and_a_copy_of_it_train_alike(enter):
    enter("own", torch.tanh)
    fit = split(30, "float32")
    runs = [Run(Recipe(epochs=2, activation=name), 1) for name in ("tanh", "own")]
    trainer = NativeTrainer(own_components=True)
    last = {r.index: r.state.parameters for r in trainer.train(runs, fit, {}) if r.last}
    for name, found in last[1].items():
        np.testing.assert_allclose(found, last[0][name], atol=1e-5)


def test_one_object_serves_both_dtypes_and_threads(enter):
    enter("own", ACTIVATIONS["snake"])
    fit = split(10, "float64")
    runs = [
        Run(Recipe(epochs=1, activation="own", dtype=dtype), seed)
        for dtype in ("float32", "float64")
        for seed in range(4)
    ]
    many = NativeTrainer(4, own_components=True)
    alone = NativeTrainer(1, own_components=True)
    found = {r.index: r.state.parameters for r in many.train(runs, fit, {})}
    for i, run in enumerate(runs):
        (report,) = alone.train([run], fit, {})
        for name, value in report.state.parameters.items():
            np.testing.assert_array_equal(value, found[i][name])


# ---- the choice of a trainer, and keys ----------------------------------------------------------


def test_only_arms_that_use_what_is_compiled_have_the_compiler_in_their_identity(enter):
    enter("own", ACTIVATIONS["squareplus"])
    recipes = {"plain": Recipe(), "own": Recipe(activation="own")}
    chosen, notices = choose(recipes, "auto", "cpu")
    assert not notices
    plain, compiled_one = (chosen[arm].identity() for arm in recipes)
    assert plain == NativeTrainer().identity()
    assert "compiler" not in plain.stored | plain.params
    assert compiled_one == replace(plain, compiler=build.Compiler.find().version)
    assert compiled_one.stored["compiler"] == compiled_one.params["compiler"] != ""


@each("name", BAD)
def test_the_torch_trainer_takes_over_with_the_reason(name, enter, capsys):
    function, reason = BAD[name]
    enter("own", function)
    recipes = {"plain": Recipe(), "own": Recipe(activation="own")}
    chosen, (notice,) = choose(recipes, "auto", "cpu")
    assert {t.name for t in chosen.values()} == {"torch"}
    assert f"own: the native trainer cannot compile activation 'own': {reason}" in notice
    chosen, _ = choose(recipes, "mixed", "cpu")
    assert [chosen[arm].name for arm in recipes] == ["native", "torch"]
    assert capsys.readouterr() == ("", "")


def test_for_each_component_it_is_told_which_trainers_are_fast(enter):
    assert refusals(enter("own", ACTIVATIONS["mish"]))["native"] is None
    assert refusals(enter("own2", ACTIVATIONS["mish"]))["cuda"] is None
    assert "aten.mean" in refusals(enter("own3", BAD["mean"][0]))["native"]
    registry.register("loss", "own4")(lambda y, t: (y - t).abs().mean(-1))
    assert refusals(registry.get("loss", "own4"))["native"] is None
    registry.register("loss", "own6")(lambda y, t: (y - t).cumsum(-1).mean(-1))
    assert "aten.cumsum" in refusals(registry.get("loss", "own6"))["native"]
    registry.register("order", "own5")(torch.arange)
    assert refusals(registry.get("order", "own5")) == {"native": None, "cuda": None}
    assert refusals(registry.get("activation", "tanh")) == {"native": None, "cuda": None}


@pytest.mark.usefixtures("tiny", "plain_reports")
def test_an_experiment_is_resumed_and_reproduced(workplace, command):
    """The compiler is in the keys that resuming and reproducing compute again."""
    (workplace / "mine.py").write_text(
        "import torch\nfrom lecun_ablate import register\n\n\n@register('activation')\n"
        "def kept_mine(x):\n    return (x + torch.sqrt(x * x + 4)) / 2\n"
    )
    (workplace / "own.yaml").write_text(
        "name: own\ncomponents: mine.py\ndata: tiny\nseeds: 2\nrecipe: {epochs: 1, lr: 0.01}\n"
        "vary: {activation: [tanh, kept_mine]}\n"
    )

    status, _, err = command("run", "own.yaml")
    assert status == 0, err
    plan = json.loads(command("run", "own.yaml", "--dry-run", "--json")[1])
    assert plan["todo"] == 0
    import mlflow

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True)
    runs = runs[runs["params.activation"].notna() & runs["params.seed"].notna()]
    assert set(runs["params.trainer"]) == {"native"}
    compilers = runs.set_index("run_id")["params.compiler"]
    assert compilers.notna().sum() == 2
    assert set(compilers.dropna()) == {build.Compiler.find().version}
    (own_run, *_), (other, *_) = (compilers[compilers.notna() == c].index for c in (True, False))
    for run in (own_run, other):
        status, out, err = command("reproduce", run)
        assert status == 0 and "reproduced" in out + err


def test_without_a_compiler_the_notice_says_what_to_install(enter, monkeypatch):
    enter("own", ACTIVATIONS["squareplus"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    chosen, (notice,) = choose({"own": Recipe(activation="own")}, "auto", "cpu")
    assert chosen["own"].name == "torch"
    assert "install g++ or clang++" in notice
    assert choose({"a": Recipe()}, "auto", "cpu")[1] == []


def test_a_compiler_that_fails_is_told(enter, monkeypatch, tmp_path):
    enter("own", lambda x: x * 0.123)  # of which nothing is kept
    fake = tmp_path / "fake"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1 && exit\n'
        'echo "error: no room" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    _, (notice,) = choose({"own": Recipe(activation="own")}, "auto", "cpu")
    assert "fails: error: no room" in notice


# ---- the cache ----------------------------------------------------------------------------------


def kept() -> list:
    return sorted(cache.folder().glob("*.so"))


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    """The texts that were compiled, with an empty cache at the beginning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = []

    def counted(compiler, text, options, work, original=build._compile):
        texts.append(text)
        return original(compiler, text, options, work)

    monkeypatch.setattr(build, "_compile", counted)
    return texts


def test_an_object_is_compiled_once_and_a_damaged_one_again(enter, compilations):
    component = enter("own", ACTIVATIONS["squareplus"])
    for _ in range(2):
        compiled(component)
        own._outcome.cache_clear()
    assert len(compilations) == 1
    (file,) = kept()
    for damage in (b"", file.read_bytes()[:-5], b"\x7fELF" + b"x" * 5000):
        file.unlink()  # the process has the old one mapped
        file.write_bytes(damage)
        compiled(component)
        own._outcome.cache_clear()
        assert [f.name for f in kept()] == [file.name]
        assert file.read_bytes() != damage
    assert len(compilations) == 4


def test_text_options_and_compiler_have_objects_of_their_own(enter, compilations):
    for name in ("squareplus", "mish"):
        component = enter(name, ACTIVATIONS[name])
        for instruction_set in INSTRUCTION_SETS:
            compiled(component, instruction_set)
    assert len(compilations) == len(kept()) == 2 * len(INSTRUCTION_SETS)
    text, compiler = compilations[0], build.Compiler.find()
    build.build(replace(compiler, version="other"), text, ["-O1"])
    build.build(compiler, text, ["-O1"])
    assert len(kept()) == 2 * len(INSTRUCTION_SETS) + 2


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(enter, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.folder() is None
    assert compiled(enter("own", ACTIVATIONS["mish"])) is not None


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path):
    program = (
        "import torch\n"
        "from lecun_ablate.registry import registry\n"
        "from lecun_ablate.trainers import native\n"
        "registry.register('activation', 'own')(lambda x: torch.sin(x) * 0.77)\n"
        "component = registry.get('activation', 'own')\n"
        "c = native.compiled_for(component, native.kernel.INSTRUCTION_SETS[0])\n"
        "import numpy; print(c(numpy.array([1.0]))[0][0])\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    many = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in many]
    assert {float(answer) for answer in answers} == {float(np.sin(1.0) * 0.77)}
    assert len(list((tmp_path / "lecun_ablate" / "compiled").glob("*.so"))) == 1


def test_a_traced_function_leaves_generators_and_output_alone(enter, capsys):
    before = torch.get_rng_state()
    for function in (draws, prints):
        with pytest.raises(Refused):
            compiled(enter(function.__name__, function))
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")
    assert threading.active_count() < 50
