"""The torch trainer: what holds for it alone. The suite for every trainer stands elsewhere."""

import hashlib

import numpy as np
import pytest
import torch

from lecun_ablate import initial
from lecun_ablate.data.digits import Split
from lecun_ablate.provenance import machine
from lecun_ablate.recipe import Recipe
from lecun_ablate.registry import registry
from lecun_ablate.trainers import torch_trainer
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.torch_trainer import (
    GROUP,
    TorchTrainer,
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


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "a user's own"])
def test_an_order_kept_on_the_device_is_the_same_order(name):
    """What a GPU does, but for the graph: the place in the order is a tensor."""
    recipe = Recipe(**RECIPES[name], epochs=2)
    runs = [Run(recipe, seed) for seed in range(3)]
    ordinary, other = (_Group(runs, _Splits(FIT, {}, torch.device("cpu"))) for _ in range(2))
    for epoch in (1, 2):
        ordinary.epoch(epoch)
        orders = [initial.pattern_order(recipe, run.seed, epoch, len(FIT)) for run in runs]
        order = torch.stack(orders, dim=1)
        other.presentation = other.presentation or _Presentation(other, order)
        other.presentation.epoch(order)
    assert torch.equal(ordinary.weights, other.weights)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "a user's own"])
def test_a_graph_computes_what_its_steps_do(name, dtype, monkeypatch):
    recipe = Recipe(**RECIPES[name], dtype=dtype, epochs=3)
    runs = [Run(recipe, seed) for seed in range(5)]
    fit = split(100, 0)

    def weights():
        reports = TorchTrainer("cuda").train(runs, fit, {"test": TEST})
        return [r.state.parameters["h2_weight"].tobytes() for r in reports]

    captured = weights()
    monkeypatch.setattr(torch_trainer, "GRAPH_STEPS", 1000)  # more than there are
    assert weights() == captured


# The last bits of trained weights: a change calls for a new `numerics` in TorchTrainer. The
# libraries below PyTorch choose their kernels by the processor, so this knows only one.
GOLDEN = {
    ("2.13.0", "AMD EPYC", "AVX512"): {
        "float32": "bdd3297982c1719a",
        "float64": "fd1325ef7cdb2604",
    },
    ("2.13.0", "AMD EPYC", "AVX2"): {"float32": "891fb260347e0095", "float64": "ea17597c6644b289"},
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
