"""A user's own losses: what is compiled, what is refused, and the check that tells them apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from users_components import LOSSES, MORE_LOSSES, only_first_fast

from lecun_ablate.compiled import build, source
from lecun_ablate.compiled.compare import check_loss, loss_by_autograd, patterns
from lecun_ablate.compiled.library import CompiledLoss
from lecun_ablate.compiled.loss import loss
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native
from lecun_ablate.trainers.choice import choose

if native.availability():
    pytest.skip(native.availability(), allow_module_level=True)
if build.Compiler.find() is None:
    pytest.skip(build.MISSING, allow_module_level=True)

pytestmark = pytest.mark.usefixtures("own_cache")
each = pytest.mark.parametrize
INSTRUCTION_SETS = native.kernel.INSTRUCTION_SETS


def compiled(function, instruction_set=INSTRUCTION_SETS[0]):
    registry.register("loss", "own")(function)
    return native.compiled_for(registry.get("loss", "own"), instruction_set)


@each("instruction_set", only_first_fast(INSTRUCTION_SETS))
@each("name", LOSSES | MORE_LOSSES)
def test_compiled_losses_are_those_of_pytorch(name, instruction_set):
    function = (LOSSES | MORE_LOSSES)[name]
    made = compiled(function, instruction_set)
    generator = np.random.default_rng(3)
    outputs = generator.normal(0, 2, (200, 10))
    targets = generator.dirichlet(np.ones(10), 200)
    for found, expected in zip(
        made(outputs, targets), loss_by_autograd(function, outputs, targets), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    single = made(outputs.astype("float32"), targets.astype("float32"))
    for found, expected in zip(single, loss_by_autograd(function, outputs, targets), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def prints(y, t):
    print("here")
    return (y - t).square().mean(-1)


def branches(y, t):
    return (y - t).square().mean(-1) if y.sum() > 0 else (y - t).abs().mean(-1)


BAD = {
    "other axis": (
        lambda y, t: (y.softmax(0) - t).square().mean(-1),
        "it mixes patterns: aten.amax over another axis than the last",
    ),
    "centred over patterns": (
        lambda y, t: (y - y.mean(0) - t).square().mean(-1),
        "it mixes patterns: aten.mean over another axis than the last",
    ),
    "mean of all": (F.mse_loss, "it returns shape () for shape (3, 10): it mix"),
    "not reduced": (lambda y, t: (y - t) ** 2, "it returns shape (3, 10) for shape (3, 10)"),
    "sorted": (lambda y, t: (y.sort(-1).values - t).abs().mean(-1), "aten.sort has no translation"),
    "pairs": (
        lambda y, t: (y[..., None] - y[..., None, :]).abs().mean((-1, -2)),
        "it mixes patterns: aten.unsqueeze",
    ),
    "dropout": (
        lambda y, t: F.dropout((y - t) ** 2).mean(-1),
        "it draws random numbers: aten.bernoulli",
    ),
    "branch": (branches, "it branches on the values of its arguments"),
    "item": (lambda y, t: (y - t).abs().mean(-1) * y.max().item(), "it reads a value out of a"),
    "in place": (lambda y, t: y.sub_(t).abs().mean(-1), "it changes its argument in place"),
    "complex": (lambda y, t: (y - t).mean(-1) + 1j, "it returns complex64 for float32"),
    "integer": (lambda y, t: (y > t).sum(-1), "it returns int64 for float32"),
    "float64": (lambda y, t: (y - t).square().mean(-1).double(), "it returns float64 for float32"),
    "float64 inside": (
        lambda y, t: (y.double() - t).square().mean(-1).to(y.dtype),
        "it computes in float64",
    ),
    "prints": (prints, "it prints, which compiled code would not"),
    "fails": (lambda y, t: (y - t[:, :7]).mean(-1), "it fails: RuntimeError: "),
    "counts patterns": (
        lambda y, t: (y - t).square().mean(-1) / len(y),
        "the check fails in float32: its ",
    ),
}


@each("name", BAD)
def test_what_is_no_loss_of_one_pattern_is_refused_and_falls_back(name, capsys):
    function, reason = BAD[name]
    with pytest.raises(Refused) as refused:
        compiled(function)
    assert str(refused.value).startswith(reason)
    chosen, (notice,) = choose({"own": Recipe(loss="own")}, "auto", "cpu")
    assert chosen["own"].name == "torch"
    assert f"own: the native trainer cannot compile loss 'own': {reason}" in notice
    assert capsys.readouterr() == ("", "")


def test_a_nan_is_a_nan_as_in_pytorch():
    """The root of a mean of squares has no derivative at 0: a run that gets there diverges."""
    function = lambda y, t: (y - t).square().mean(-1).sqrt()  # noqa: E731
    made = compiled(function)
    at = np.linspace(0, 1, 10)[None]
    assert made(at, at)[0] == 0
    assert np.isnan(made(at, at)[1]).all()
    assert np.isnan(loss_by_autograd(function, at, at)[1]).all()


WRONG = {
    "value": lambda y, t, v, d: (v * (1 + 1e-4), d),
    "derivative": lambda y, t, v, d: (v, d * (1 + 1e-4)),
    "one output": lambda y, t, v, d: (v, d + 1e-3 * (np.arange(10) == 7)),
    "ties": lambda y, t, v, d: (v, np.where((y == 0).all(1, keepdims=True), 1, d)),
    "large": lambda y, t, v, d: (np.where(np.abs(y).max(1) > 1e3, 0, v), d),
    "NaN": lambda y, t, v, d: (np.where(np.isnan(y).any(1), 0, v), d),
    "infinity": lambda y, t, v, d: (np.where(np.isinf(y).any(1), 0, v), d),
}


@each("dtype", ["float32", "float64"])
@each("name", WRONG)
def test_the_check_finds_what_is_wrong(name, dtype):
    function = LOSSES["softmax_by_hand"]

    def right(y, t):
        return loss_by_autograd(function, y, t)

    def wrong(y, t):
        return tuple(np.asarray(a, dtype) for a in WRONG[name](y, t, *right(y, t)))

    check_loss(function, right, dtype)
    with pytest.raises(Refused, match=f"the check fails in {dtype}: its "):
        check_loss(function, wrong, dtype)


# ---- random expressions -------------------------------------------------------------------------

ROWS = st.sampled_from(["y", "t", "(y - t)", "(y * t)"])
UNARY = ["tanh", "sigmoid", "abs", "sin", "atan", "relu", "square", "neg"]
OVER_LAST = ["sum", "mean", "amax", "amin", "logsumexp"]


def extend(inner):
    reduced = st.tuples(inner, st.sampled_from(OVER_LAST)).map(
        lambda a: f"torch.{a[1]}({a[0]}, -1, keepdim=True)"
    )
    return st.one_of(
        st.tuples(st.sampled_from(UNARY), inner).map(lambda a: f"torch.{a[0]}({a[1]})"),
        st.tuples(inner, st.sampled_from("+-*"), inner | reduced).map(
            lambda a: f"({a[0]} {a[1]} {a[2]})"
        ),
        st.tuples(inner, st.sampled_from(["softmax", "log_softmax"])).map(
            lambda a: f"({a[0]}).{a[1]}(-1)"
        ),
        st.tuples(inner, inner, inner).map(lambda a: f"torch.where({a[0]} > {a[1]}, {a[2]}, y)"),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(row=st.recursive(ROWS, extend, max_leaves=5), last=st.sampled_from(OVER_LAST))
def test_random_expressions_are_those_of_pytorch(row, last):
    """In float64, but where a rounding decides between branches."""
    function = eval(f"lambda y, t: torch.{last}(0.1 * y * y + {row}, -1)", {"torch": torch})
    target = INSTRUCTION_SETS[0]
    programs = {"float64": [loss(function, "float64")]}
    text = source.source("loss", programs, native.kernel.VECTOR_BYTES[target])
    built = build.build(build.Compiler.find(), text, native.kernel.OPTIONS[target].split())
    made = CompiledLoss(built, native.kernel.VECTOR_BYTES[target], {})
    outputs, targets = (x[:50] for x in patterns("float64"))
    outputs = np.clip(outputs, -20, 20) + np.random.default_rng(4).normal(0, 0.01, outputs.shape)
    expected = loss_by_autograd(function, outputs, targets)
    for found, wanted in zip(made(outputs, targets), expected, strict=True):
        good = np.isclose(found, wanted, rtol=1e-9, atol=1e-9, equal_nan=True)
        assert good.mean() > 0.99
