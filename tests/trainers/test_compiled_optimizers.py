"""A user's own optimizers: what is compiled, what is refused, and the check."""

import math

import numpy as np
import pytest
import torch
from users_components import MORE_OPTIMIZERS, OPTIMIZERS, only_first_fast

from lecun_ablate.compiled import build
from lecun_ablate.compiled.compare import check_optimizer
from lecun_ablate.compiled.library import CompiledOptimizer
from lecun_ablate.compiled.optimizer import Slot
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


def compiled(function, instruction_set=INSTRUCTION_SETS[0], momentum=0.0, name="own"):
    registry.register("optimizer", name)(function)
    return native.compiled_for(registry.get("optimizer", name), instruction_set, momentum)


@each("instruction_set", only_first_fast(INSTRUCTION_SETS))
@each("dtype", ["float32", "float64"])
@each("name", OPTIMIZERS | MORE_OPTIMIZERS)
def test_steps_are_those_of_pytorch(name, dtype, instruction_set):
    function = (OPTIMIZERS | MORE_OPTIMIZERS)[name]
    made = compiled(function, instruction_set, 0.9)
    own = registry.get("optimizer", "own")
    generator = np.random.default_rng(7)
    w = torch.from_numpy(generator.normal(0, 1, (1, 100)).astype(dtype))
    found, state, slots = w[0].numpy().copy(), {}, made.slots[dtype]
    states = [np.zeros(100, dtype) for slot in slots if slot.kind == "weights"]
    numbers = np.zeros(sum(slot.kind != "weights" for slot in slots))
    lr = torch.full((1, 1), 0.01, dtype=w.dtype)
    for step in range(20):
        g = generator.normal(0, 0.1, 100).astype(dtype)
        own(w, torch.from_numpy(g)[None].clone(), state, lr, 0.9, None)
        found, states, numbers = made.step(step == 0, found, g, states, numbers, 0.01)
    bound = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(found, w[0].numpy(), rtol=bound, atol=bound)
    wide, single = iter(states), iter(numbers)
    for slot in slots:
        expected = np.asarray(torch.as_tensor(state[slot.name])).reshape(-1)
        one = next(wide) if slot.kind == "weights" else next(single)
        np.testing.assert_allclose(one, expected, rtol=bound, atol=bound)


def test_what_is_kept_is_told():
    made = compiled(MORE_OPTIMIZERS["adam_of_columns"])
    assert set(made.slots["float32"]) == {
        Slot("m", "weights", "float32"),
        Slot("v", "weights", "float32"),
        Slot("p", "column", "float64"),
        Slot("q", "column", "float32"),
    }
    kept = compiled(MORE_OPTIMIZERS["counting_adam"], name="other").slots["float64"]
    assert Slot("step", "number", "int64") in kept


def every_second(w, g, state, lr):
    state["n"] = state.get("n", 0) + 1
    if state["n"] % 2:
        w.sub_(lr * g)


def by_math(w, g, state, lr):
    state["n"] = state.get("n", 0) + 1
    w.sub_(lr * g / math.sqrt(state["n"]))


def keeps_its_argument(w, g, state, lr):
    state["last"] = g
    w.sub_(lr * g)


def keeps_more_and_more(w, g, state, lr):
    state[f"step{len(state)}"] = g.clone()
    w.sub_(lr * g)


def keeps_another_shape(w, g, state, lr):
    state["few"] = g[:, :2].clone()
    w.sub_(lr * g)


def slashed(w, g, state, lr):
    state["a/b"] = g.clone()
    w.sub_(lr * g)


def prints(w, g, state, lr):
    print("here")
    w.sub_(lr * g)


class Counting:
    """Keeps its count in itself, of which no trace can know."""

    def __init__(self):
        self.n = 0

    def __call__(self, w, g, state, lr):
        self.n += 1
        w.sub_(lr * g / self.n)


BAD = {
    "clips": (
        lambda w, g, state, lr: w.sub_(lr * g / g.norm(dim=-1, keepdim=True)),
        "it mixes weights: aten.linalg_vector_norm reduces over them",
    ),
    "centres": (
        lambda w, g, state, lr: w.sub_(lr * (g - g.mean(-1, keepdim=True))),
        "it mixes weights: aten.mean reduces over them",
    ),
    "mixes replicas": (
        lambda w, g, state, lr: w.sub_(lr * g.sum(0)),
        "it mixes weights: aten.sum reduces over them",
    ),
    "noise": (
        lambda w, g, state, lr: w.sub_(lr * (g + torch.randn_like(g))),
        "it draws random numbers: aten.randn_like",
    ),
    "branch": (every_second, "it branches on the values of its arguments"),
    "math": (by_math, "it branches on the values of its arguments"),
    "keeps its argument": (keeps_its_argument, "it keeps an argument itself in its state"),
    "keeps more": (keeps_more_and_more, "what it keeps in its state changes from step to step"),
    "another shape": (keeps_another_shape, "its state 'few' is no tensor like the weights"),
    "slash": (slashed, "its state has the name 'a/b'"),
    "prints": (prints, "it prints, which compiled code would not"),
    "changes the rate": (
        lambda w, g, state, lr: w.sub_(lr.mul_(0.99) * g),
        "it changes the learning rate in place",
    ),
    "curvature": (
        lambda w, g, state, lr, momentum, curvature: w.sub_(lr * g / (curvature + 1)),
        "it takes the curvature",
    ),
    "float64": (
        lambda w, g, state, lr: w.sub_((lr.double() * g).to(w.dtype)),
        "it computes in float64",
    ),
    "fails": (lambda w, g, state, lr: w.sub_(lr * g[:, :2]), "it fails: RuntimeError: "),
    "counts in itself": (Counting(), "the check fails in float32: after step "),
}


@each("name", BAD)
def test_what_is_no_step_of_one_weight_is_refused_and_falls_back(name, capsys):
    function, reason = BAD[name]
    with pytest.raises(Refused) as refused:
        compiled(function)
    assert str(refused.value).startswith(reason)
    chosen, (notice,) = choose({"own": Recipe(optimizer="own")}, "auto", "cpu")
    assert chosen["own"].name == "torch"
    assert "own: the native trainer cannot compile optimizer 'own': it" in notice.replace(
        "the check", "it"
    ).replace("what it", "it")
    assert capsys.readouterr() == ("", "")


WRONG = {
    "weights": lambda w, states, numbers: (w * (1 + 1e-4), states, numbers),
    "one weight": lambda w, states, numbers: (w + (np.arange(len(w)) == 99), states, numbers),
    "a state": lambda w, states, numbers: (w, [states[0] * 1.0001, *states[1:]], numbers),
    "a number": lambda w, states, numbers: (w, states, numbers + 1),
    "NaN": lambda w, states, numbers: (np.where(np.isnan(w), 0, w), states, numbers),
}


@each("dtype", ["float32", "float64"])
@each("name", WRONG)
def test_the_check_finds_what_is_wrong(name, dtype):
    made = compiled(MORE_OPTIMIZERS["counting_adam"])

    class Wrong(CompiledOptimizer):
        def step(self, *arguments):
            w, states, numbers = super().step(*arguments)
            w, states, numbers = WRONG[name](w, states, numbers)
            return w.astype(dtype), [s.astype(dtype) for s in states], numbers

    function = registry.get("optimizer", "own")
    check_optimizer(function, 0.0, made, dtype)
    wrong = Wrong(made.library, made.vector_bytes, made.structs, made.slots)
    with pytest.raises(Refused, match=f"the check fails in {dtype}: after step 1, a "):
        check_optimizer(function, 0.0, wrong, dtype)


def test_the_momentum_is_part_of_what_is_compiled():
    registry.register("optimizer", "own")(OPTIMIZERS["heavy_ball"])
    w, g = np.ones(64), np.ones(64)
    for momentum in (0.5, 0.9):
        own = registry.get("optimizer", "own")
        made = native.compiled_for(own, INSTRUCTION_SETS[0], momentum)
        _, states, _ = made.step(False, w, g, [np.ones(64)], np.zeros(0), 0.1)
        assert (states[0] == 1 + momentum).all()
