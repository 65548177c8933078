"""The torch trainer: what holds for it alone. The suite for every trainer stands elsewhere."""

import gc
import hashlib
import weakref
from collections import Counter
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.reference import predictions
from lecun_ablate.registry import registry
from lecun_ablate.system.provenance import machine
from lecun_ablate.trainers import torch_network, torch_trainer
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.download import download
from lecun_ablate.trainers.torch_network import Workspace
from lecun_ablate.trainers.torch_trainer import (
    GROUP,
    TorchTrainer,
    _digits,
    _Group,
    _groups,
    _Presentation,
    _Splits,
)


def split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split(rng.uniform(-1, 1, (n, 16, 16)), rng.integers(0, 10, n))


FIT, TEST = split(24, 0), split(17, 1)


def train(runs, threads=2):
    """Return, per run, the scores of every epoch and the final weights, as bytes."""
    reports = {}
    for report in TorchTrainer(threads=threads).train(runs, FIT, {"train": FIT, "test": TEST}):
        scores = [(s.loss, s.misses, s.predictions.tobytes()) for s in report.scores.values()]
        weights = b"".join(w.tobytes() for w in report.state.parameters.values())
        weights += b"".join(w.tobytes() for w in report.state.optimizer.values())
        reports.setdefault(report.index, []).append((scores, weights))
    return [reports[i] for i in range(len(runs))]


RECIPES = {
    "notebook": {},
    "sigmoid, shuffled": {"activation": "sigmoid", "output_activation": "sigmoid",
                          "order": "shuffled"},
    "gelu, cross-entropy, momentum": {"activation": "gelu", "output_activation": "identity",
                                      "loss": "cross_entropy", "lr": 0.01, "momentum": 0.9},
    "silu and softsign, random_8": {"activation": "silu", "output_activation": "softsign",
                                    "connectivity": "random_8", "loss": "half_sum_squares"},
    "a user's own": {"activation": "own", "output_activation": "own", "loss": "own"},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_does_not_depend_on_its_neighbours(name, dtype):
    """Alone, in groups of several sizes, in any slot, on one thread or two: the same bits."""
    registry.register("activation", "own")(lambda x: torch.exp(-x * x) * torch.sin(3 * x))
    registry.register("loss", "own")(lambda y, t: torch.logsumexp((y - t).exp(), -1))
    recipe = Recipe(**RECIPES[name], dtype=dtype, epochs=1)
    seeds = list(range(GROUP[dtype] + 3))
    runs = [Run(recipe.model_copy(update={"lr": 0.01 * (1 + s % 3)}), s) for s in seeds]
    together = train(runs)
    rng = np.random.default_rng(2)
    for size in (1, 2, 7):
        for index in rng.choice(len(runs), size, replace=False)[:2]:
            others = rng.choice(len(runs), size - 1, replace=False)
            members = [*others, index]
            slot = int(rng.integers(size))
            members[slot], members[-1] = members[-1], members[slot]
            alone = train([runs[i] for i in members], threads=1)
            assert alone[slot] == together[index], f"group of {size}, slot {slot}"
    order = rng.permutation(len(runs))
    shuffled = train([runs[i] for i in order])
    assert [shuffled[k] == together[i] for k, i in enumerate(order)] == [True] * len(runs)


def test_groups_hold_only_runs_of_like_operations():
    runs = [Run(Recipe(activation=a, lr=lr), 0) for a in ("tanh", "relu") for lr in (0.1, 0.2)]
    runs.append(Run(Recipe(epochs=5), 0))
    groups = _groups(runs, threads=1)
    assert sorted(map(sorted, groups)) == [[0, 1], [2, 3], [4]]
    many = _groups([Run(Recipe(), s) for s in range(100)], threads=2)
    assert max(map(len, many)) <= GROUP["float32"]
    assert sorted(i for members in many for i in members) == list(range(100))


def test_an_error_in_one_group_leaves_the_others_to_finish():
    calls = []

    def fails_later(x):
        calls.append(1)
        if len(calls) > 50:
            raise RuntimeError("this component gives up")
        return x.tanh()

    registry.register("activation", "fails_later")(fails_later)
    runs = [Run(Recipe(activation=a, epochs=2), 0) for a in ("fails_later", "tanh")]
    seen = []
    with pytest.raises(RuntimeError, match="gives up"):
        for report in TorchTrainer(threads=1).train(runs, FIT, {"train": FIT}):
            seen.append((report.index, report.epoch, report.last))
    assert (1, 2, True) in seen


# ---- components of a user's own that are no ordinary functions --------------------------------


def test_an_activation_may_work_in_place():
    """It sees tensors by whose derivatives the weights are updated."""
    registry.register("activation", "in_place")(lambda x: x.mul_(0.5).tanh_())
    registry.register("activation", "ordinary")(lambda x: (x * 0.5).tanh())
    runs = [
        Run(Recipe(activation=a, output_activation=a, epochs=2), 1)
        for a in ("in_place", "ordinary")
    ]
    in_place, ordinary = train(runs)
    assert in_place == ordinary


def test_an_activation_may_have_no_derivative_at_0():
    """The dense layers have lanes without a unit: what happens there must not reach the others."""
    registry.register("activation", "root")(lambda x: x.sign() * x.abs().sqrt())
    recipe = Recipe(activation="root", output_activation="root", dtype="float64", lr=1e-4, epochs=2)
    for report in TorchTrainer().train([Run(recipe, 1)], FIT, {"test": TEST}):
        assert not report.diverged


# ---- what a GPU needs, as far as a CPU can show it ---------------------------------------------

CAPTURED = [name for name in RECIPES if name != "a user's own"]


def on_device(group: _Group, epochs: int = 1) -> Tensor:
    """Train a group as on a GPU, its place in the order kept in a tensor; return its weights."""
    group.presentation = None
    for epoch in range(1, epochs + 1):
        orders, rows = map(torch.from_numpy, group.orders.take(epoch, range(len(group.runs))))
        group.presentation = group.presentation or _Presentation(group)
        group.presentation.epoch(group, orders, rows)
    return group.weights


def groups(recipe: Recipe, count: int, **options) -> list[_Group]:
    runs = [Run(recipe, seed) for seed in range(3)]
    splits = _Splits(FIT, {"test": TEST}, torch.device("cpu"))
    return [_Group(runs, splits, **options) for _ in range(count)]


@pytest.mark.parametrize("name", CAPTURED)
def test_an_order_kept_on_the_device_is_the_same_order(name):
    ordinary, other = groups(Recipe(**RECIPES[name]), 2, graph_steps=0)
    for epoch in (1, 2):
        ordinary.epoch(epoch)
    assert torch.equal(ordinary.weights, on_device(other, epochs=2))


def test_a_dropped_group_is_freed_at_once():
    """Its memory on a GPU, and that of its graph, is wanted by the next one."""
    gc.disable()
    try:
        (group,) = groups(Recipe(), 1, graph_steps=0)
        on_device(group)
        dropped = [weakref.ref(x) for x in (group, group.presentation, group.weights, group.space)]
        group = group.keep([0, 2])
        assert [found() for found in dropped] == [None] * 4
        on_device(group)
        dropped = [weakref.ref(x) for x in (group, group.presentation, group.weights, group.space)]
        del group
        assert [found() for found in dropped] == [None] * 4
    finally:
        gc.enable()


class FakeGraph:
    """A CUDA graph on the CPU: what is recorded is undone, and a replay does it."""

    made: ClassVar[list] = []

    def __init__(self):
        self.replays = 0
        FakeGraph.made.append(self)

    def replay(self):
        self.replays += 1
        for _ in range(self.group.graph_steps):
            self.group.presentation.step(self.group)


@pytest.fixture
def fake_graphs(monkeypatch):
    """CUDA graphs for the groups given to it. An error while one records passes through.

    It leaves the stream that a capture is on, as PyTorch does where ending a capture fails.
    """
    stream = ["the worker's"]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", stream.append)

    def use(group: _Group):
        @contextmanager
        def record(graph):
            graph.group = group
            tensors = [group.weights, group.presentation.at, *group.state.values()]
            before = [t.clone() for t in tensors]
            outside = torch.cuda.current_stream()
            torch.cuda.set_stream("the capture's")
            try:
                yield
                torch.cuda.set_stream(outside)
            finally:
                for tensor, old in zip(tensors, before, strict=True):
                    tensor.copy_(old)

        monkeypatch.setattr(torch.cuda, "graph", record)

    monkeypatch.setattr(FakeGraph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    return use


@pytest.mark.parametrize("name", CAPTURED)
def test_replayed_steps_are_steps(name, fake_graphs):
    recipe = Recipe(**RECIPES[name])
    plain, replayed = groups(recipe, 1, graph_steps=0) + groups(recipe, 1, graph_steps=5)
    fake_graphs(replayed)
    assert torch.equal(on_device(plain, epochs=2), on_device(replayed, epochs=2))
    (graph,) = FakeGraph.made
    assert graph.replays == 4 + 4  # of 24 steps: 3 before, 4 x 5, 1 after; then 4 x 5, 4 after


def test_only_an_optimizer_of_a_users_own_is_not_captured(fake_graphs):
    registry.register("activation", "own")(torch.tanh)
    registry.register("optimizer", "own")(lambda p, g, state, lr: p.sub_(lr * g))
    for fields, captured in (({"activation": "own"}, 1), ({"optimizer": "own"}, 0)):
        (group,) = groups(Recipe(**fields), 1, graph_steps=5)
        fake_graphs(group)
        on_device(group)
        assert len(FakeGraph.made) == captured
        FakeGraph.made.clear()


def test_a_capture_that_fails_leaves_ordinary_steps(fake_graphs):
    """As with a component that asks the device for a number while a graph is recorded.

    The steps are on the worker's stream again, and the group's successors do not try it once more.
    """
    recording = []

    def asks(x):
        if recording and len(FakeGraph.made) and FakeGraph.made[0].replays == 0:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.tanh(x)

    registry.register("activation", "asks")(asks)
    plain, failing = (groups(Recipe(activation="asks"), 1, graph_steps=n)[0] for n in (0, 5))
    expected = on_device(plain).clone()
    fake_graphs(failing)
    inner = torch.cuda.graph

    @contextmanager
    def record(graph):
        with inner(graph):
            recording.append(graph)
            try:
                yield
            finally:
                recording.clear()

    torch.cuda.graph = record  # undone by the fixture
    assert torch.equal(on_device(failing), expected)
    assert failing.presentation.graph is None
    assert torch.cuda.current_stream() == "the worker's"
    assert torch.equal(on_device(failing.keep([0, 2])), on_device(plain.keep([0, 2])))
    assert len(FakeGraph.made) == 1


class Operations(TorchDispatchMode):
    """Notes which operations are called."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


# What a GPU answers only after all that was started before; and what it does image by image, or
# with TF32's ten bits.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "item", "unique", "is_nonzero"}
NOT_ON_A_GPU = {"im2col", "col2im", "convolution", "convolution_backward", "unfold_backward"}


@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_within_an_epoch_waits_for_the_device(name):
    (group,) = groups(Recipe(**RECIPES[name]), 1, graph_steps=0)
    with Operations() as seen:
        on_device(group)
    assert "bmm" in seen.names
    assert not seen.names.keys() & (WAITS | NOT_ON_A_GPU)
    with Operations() as seen:
        group._answers("test")
    assert not seen.names.keys() & (WAITS | NOT_ON_A_GPU)


@pytest.mark.parametrize("replicas", [1, 16, 50])
def test_a_step_is_some_sixty_operations(replicas):
    """Each is a kernel on a GPU, whose time for one hardly grows with the replicas."""
    runs = [Run(Recipe(), seed) for seed in range(replicas)]
    group = _Group(runs, _Splits(FIT, {}, torch.device("cpu")), graph_steps=0)
    on_device(group)
    group.presentation.at.zero_()
    with Operations() as seen:
        group.presentation.step(group)
    no_kernel = {"empty", "empty_strided", "new_empty", "detach", "_unsafe_view"}
    assert sum(count for name, count in seen.names.items() if name not in no_kernel) <= 70


def test_an_epoch_is_fetched_at_once(monkeypatch):
    calls = []

    def counted(tensors):
        calls.append(len(tensors))
        return download(tensors)

    monkeypatch.setattr(torch_trainer, "download", counted)
    train([Run(Recipe(momentum=0.9, epochs=2), seed) for seed in range(5)], threads=1)
    assert calls == [1 + 2 * 2 + 1] * 2  # weights, digits and losses of two splits, velocities


def test_equal_orders_are_drawn_once():
    calls = []

    @registry.register("order")
    def noted(n, generator):
        calls.append(generator.initial_seed())
        return torch.randperm(n, generator=generator)

    recipes = [Recipe(order="noted", epochs=2, lr=lr) for lr in (0.01, 0.02, 0.03)]
    train([Run(recipe, seed) for seed in (0, 1) for recipe in recipes], threads=1)
    assert len(calls) == len(set(calls)) == 2 * 2  # seeds, epochs


def test_digits_are_those_of_the_reference():
    outputs = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).round()  # with ties
    outputs[3, 2], outputs[4, 9], outputs[5] = torch.nan, torch.inf, -torch.inf
    assert (_digits(outputs).numpy() == predictions(outputs.numpy())).all()


def test_h1_gathers_the_deltas_that_are_spread():
    """The two ways, of which a GPU takes the one and a CPU the other."""
    draw = torch.Generator().manual_seed(0)
    deltas = torch.randn(3, 12, 16, generator=draw, dtype=torch.float64)
    weights = torch.randn(3, 12, 300, generator=draw, dtype=torch.float64)
    space, shape = Workspace(deltas), torch.Size((3, 1, 64, 12))
    gathered = torch_network._gather(deltas, weights, space).view(shape)
    spread = torch_network._spread(deltas, weights, shape, space)
    torch.testing.assert_close(gathered, spread, rtol=1e-12, atol=1e-13)
    assert spread.abs().min() > 0


@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_no_optimizer_moves_a_weight_without_a_gradient(optimizer):
    """On a GPU, weights between planes that are not connected are not masked again."""
    recipe = Recipe(optimizer=optimizer, momentum=0.5 if optimizer in ("sgd", "nesterov") else 0)
    draw = torch.Generator().manual_seed(0)
    weights, state = torch.randn(2, 8, generator=draw), {}
    weights[:, ::2] = 0
    for _ in range(3):
        gradients, curvature = torch.randn(2, 2, 8, generator=draw)
        gradients[:, ::2] = curvature[:, ::2] = 0
        arguments = [weights, gradients, state, torch.full((2, 1), 0.1), recipe.momentum]
        recipe.component("optimizer")(*arguments, curvature.abs())
    assert (weights[:, ::2] == 0).all() and (weights[:, 1::2] != 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_computes_what_its_steps_do(name, dtype):
    recipe = Recipe(**RECIPES[name], dtype=dtype, epochs=3)
    runs = [Run(recipe, seed) for seed in range(5)]
    fit = split(100, 0)

    def weights(steps):
        reports = TorchTrainer("cuda", graph_steps=steps).train(runs, fit, {"test": TEST})
        return [r.state.parameters["h2_weight"].tobytes() for r in reports]

    assert weights(20) == weights(0)


@pytest.mark.gpu
def test_a_component_that_asks_the_gpu_for_a_number_is_not_captured():
    """The real failure of a capture: what it leaves behind must not show in the numbers."""
    registry.register("activation", "asks")(lambda x: x.tanh() if x.sum().item() < 1e9 else x)
    runs = [Run(Recipe(activation="asks"), seed) for seed in range(3)]
    splits = _Splits(split(100, 0), {"test": TEST}, torch.device("cuda"))
    plain, failing = (_Group(runs, splits, graph_steps=steps) for steps in (0, 20))
    stream = torch.cuda.current_stream()
    for epoch in (1, 2, 3):
        for group in (plain, failing):
            group.epoch(epoch)
        assert torch.cuda.current_stream() == stream
        assert failing.graph_steps == 0
        assert torch.equal(failing.weights, plain.weights)
        if epoch == 2:
            plain, failing = plain.keep([0, 2]), failing.keep([0, 2])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_on_a_gpu_waits_within_an_epoch(name):
    runs = [Run(Recipe(**RECIPES[name]), seed) for seed in range(3)]
    group = _Group(runs, _Splits(FIT, {"test": TEST}, torch.device("cuda")), graph_steps=0)
    group.epoch(1)  # makes what is kept
    orders, rows = (torch.from_numpy(array).cuda() for array in group.orders.take(2, range(3)))
    group._answers("test")
    torch.cuda.set_sync_debug_mode("error")  # what waits raises
    try:
        group.presentation.epoch(group, orders, rows)
        digits, _ = group._answers("test")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert digits.shape == (3, len(TEST))


# The last bits of trained weights: a change calls for a new `numerics` in TorchTrainer. The
# libraries below PyTorch choose their kernels by the processor, so this knows only one.
GOLDEN = {
    ("2.13.0", "AMD EPYC", "AVX512"): {
        "float32": "de198a499967723b",
        "float64": "61a5bfb9e5f0b69e",
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_are_still_the_same(dtype):
    processor = machine().split(",")[0]
    capability = torch.backends.cpu.get_cpu_capability()
    key = (torch.__version__.split("+")[0], processor, capability)
    if key not in GOLDEN:
        pytest.skip(f"no record for PyTorch {', '.join(key)}")
    recipes = [fields for name, fields in RECIPES.items() if name != "a user's own"]
    runs = [Run(Recipe(dtype=dtype, epochs=2, **fields), 5) for fields in recipes]
    sha = hashlib.sha256()
    for epochs in train(runs):
        sha.update(epochs[-1][1])
    assert sha.hexdigest()[:16] == GOLDEN[key][dtype]


@pytest.mark.parametrize(
    ("slot", "value", "message"),
    [
        ("mean", lambda p: torch.zeros(3), "here (2, 1), got shape (3,)"),
        ("mean", lambda p: torch.zeros(p.shape[1]), "got shape (12"),
        (
            "mean",
            lambda p: torch.zeros(1, 1),
            "expected a number, or a tensor of shape (replicas, weights)",
        ),
        ("t", lambda p: "7", "or (replicas, 1), here (2, 1), got '7'"),
        ("average", torch.zeros_like, "expected a name without a slash, and neither 'average'"),
        ("a/b", torch.zeros_like, "expected a name without a slash"),
    ],
)
def test_a_state_that_cannot_be_stored_is_refused(slot, value, message):
    def own(parameters, gradients, state, lr):
        state[slot] = value(parameters)

    registry.register("optimizer", "own")(own)
    runs = [Run(Recipe(optimizer="own", epochs=1), seed) for seed in range(2)]
    with pytest.raises(ConfigError) as raised:
        train(runs, threads=1)
    assert f"optimizer 'own': state[{slot!r}]: " in str(raised.value)
    assert message in str(raised.value)


def adam_with(count):
    """Return Adam as one writes it first; `count` makes its step count."""

    def adam(parameters, gradients, state, lr):
        if not state:
            state["m"], state["v"] = torch.zeros_like(parameters), torch.zeros_like(parameters)
            state["step"] = count(lr)
        state["step"] = state["step"] + 1
        state["m"].mul_(0.9).add_(gradients, alpha=0.1)
        state["v"].mul_(0.999).addcmul_(gradients, gradients, value=0.001)
        m = state["m"] / (1 - 0.9 ** state["step"])
        v = state["v"] / (1 - 0.999 ** state["step"])
        parameters.sub_(lr * m / (v.sqrt() + 1e-8))

    return adam


@pytest.mark.parametrize("count", [lambda lr: 0, torch.zeros_like], ids=["number", "column"])
def test_a_step_count_may_be_a_number_or_one_for_each_replica(count):
    registry.register("optimizer", "own_adam")(adam_with(count))
    recipe = Recipe(optimizer="own_adam", lr=0.003, epochs=2, dtype="float64")
    runs = [Run(recipe, seed) for seed in (0, 1, 2)]

    def states(runs, on_epoch=None):
        reports = TorchTrainer(threads=1).train(runs, FIT, {"train": FIT}, on_epoch)
        return {(r.index, r.epoch): r.state for r in reports}

    whole = states(runs)
    built_in = states([Run(recipe.model_copy(update={"optimizer": "adam"}), 0)])
    for name, weights in whole[0, 2].parameters.items():
        np.testing.assert_allclose(weights, built_in[0, 2].parameters[name], rtol=1e-12, atol=1e-15)
    assert whole[0, 2].optimizer["step"] == 2 * len(FIT)
    resumed = states([Run(recipe, seed, whole[seed, 1]) for seed in (0, 1, 2)])
    fewer = states(runs, lambda report: report.index == 1)  # one replica ends after an epoch
    for again, index in ((resumed, 0), (resumed, 2), (fewer, 0), (fewer, 2)):
        for part in ("parameters", "optimizer"):
            then, now = (getattr(found[index, 2], part) for found in (whole, again))
            assert then.keys() == now.keys()
            assert all(np.array_equal(then[k], now[k]) for k in then), (part, index)
