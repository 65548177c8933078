"""The native trainer: its formulas, its instruction sets, and the known answers on USPS.

What holds for every trainer stands in test_conformance.py.
"""

import hashlib

import numpy as np
import pytest
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import register, registry
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.flat import flatten
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.shared import begin
from lecun_ablate.trainers.torch_trainer import TorchTrainer

if native.availability():
    pytest.skip(native.availability(), allow_module_level=True)

kernel = native.kernel
INSTRUCTION_SETS = kernel.INSTRUCTION_SETS
DTYPES = ["float32", "float64"]
each = pytest.mark.parametrize
GRID = np.concatenate(
    [
        np.linspace(-12, 12, 4800),
        np.geomspace(1e-8, 1e-2, 200),
        -np.geomspace(1e-8, 1e-2, 200),
        np.geomspace(12, 400, 100),
        -np.geomspace(12, 400, 100),
    ]
)


def activate(instruction_set: str, name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f(x) and f'(x) as the kernel computes them."""
    values, slopes = np.empty_like(x), np.empty_like(x)
    kernel.activate(instruction_set, name, x, values, slopes)
    return values, slopes


def by_autograd(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    outputs = registry.get("activation", name)(inputs)
    (slopes,) = torch.autograd.grad(outputs.sum(), inputs)
    return outputs.detach().numpy(), slopes.numpy()


# ---- formulas ---------------------------------------------------------------------------------


def test_every_builtin_activation_and_loss_has_a_formula():
    assert sorted(kernel.ACTIVATIONS) == sorted(registry.names("activation"))
    assert sorted(kernel.LOSSES) == sorted(registry.names("loss"))


@each("instruction_set", INSTRUCTION_SETS)
@each("dtype", DTYPES)
@each("name", kernel.ACTIVATIONS)
def test_activations_are_those_of_the_components(name, dtype, instruction_set):
    """Values to 2 units in the last place of f(x), or of x near 0; slopes to 4, times x if > 1.

    The components' own slopes lose as much: x (1 - tanh(x)^2) and its like cancel.
    """
    x = GRID.astype(dtype)
    unit = np.finfo(dtype).eps
    values, slopes = activate(instruction_set, name, x)
    expected, expected_slopes = by_autograd(name, x)
    size = np.maximum(np.abs(expected), np.minimum(np.abs(x), 1))
    assert np.abs((values - expected) / size).max() <= 2 * unit
    size = np.maximum(1, np.abs(x))
    assert np.abs((slopes - expected_slopes) / size).max() <= 4 * unit


@each("instruction_set", INSTRUCTION_SETS)
@each("dtype", DTYPES)
@each("name", kernel.ACTIVATIONS)
def test_activations_at_nan_zero_and_the_extremes(name, dtype, instruction_set):
    largest = np.finfo(dtype).max
    x = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 1e4, -1e4, largest, -largest], dtype)
    values, slopes = activate(instruction_set, name, x)
    # in float64: in float32, PyTorch's own gelu is NaN at infinity on some CPUs
    with np.errstate(all="ignore"):
        expected = registry.get("activation", name)(torch.from_numpy(x).double()).numpy()
        expected = expected.astype(dtype)
    np.testing.assert_allclose(values, expected, rtol=2 * np.finfo(dtype).eps)
    assert slopes[1] == slopes[2]
    np.testing.assert_allclose(slopes[1], by_autograd(name, np.zeros(1))[1][0], rtol=1e-7)


@each("instruction_set", INSTRUCTION_SETS)
@each("name", kernel.ACTIVATIONS)
def test_slopes_are_finite_differences_of_values(name, instruction_set):
    x = np.linspace(-9, 9, 1201)
    h = 2.0**-17
    x = x[np.abs(x) > h]  # the rectifiers have a kink at 0
    above, below = (activate(instruction_set, name, x + d)[0] for d in (h, -h))
    slopes = activate(instruction_set, name, x)[1]
    assert np.abs((above - below) / (2 * h) - slopes).max() < 1e-9


def loss(instruction_set: str, name: str, outputs: np.ndarray, targets: np.ndarray):
    """Return a loss and its gradient as the kernel computes them."""
    gradient = np.empty_like(outputs)
    return kernel.loss(instruction_set, name, outputs, targets, gradient), gradient


@each("instruction_set", INSTRUCTION_SETS)
@each("dtype", DTYPES)
@each("name", kernel.LOSSES)
def test_losses_are_those_of_the_components(name, dtype, instruction_set):
    rng = np.random.default_rng(3)
    unit = float(np.finfo(dtype).eps)
    for scale in (1e-3, 1, 30, 1e3):
        outputs = (scale * rng.normal(size=10)).astype(dtype)
        for targets in np.eye(10), rng.dirichlet(np.ones(10), 3), 2 * np.eye(10)[:3] - 1:
            for target in targets.astype(dtype):
                value, gradient = loss(instruction_set, name, outputs, target)
                inputs = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
                expected = registry.get("loss", name)(inputs, torch.tensor(target).double())
                (slopes,) = torch.autograd.grad(expected, inputs)
                size = float(np.abs(target).sum() * np.abs(outputs).max())
                assert value == pytest.approx(expected.item(), rel=8 * unit, abs=8 * unit * size)
                error = np.abs(gradient - slopes.numpy()).max()
                assert error <= 8 * unit * max(1, np.abs(slopes.numpy()).max())


@each("instruction_set", INSTRUCTION_SETS)
@each("name", kernel.LOSSES)
def test_loss_gradients_are_finite_differences(name, instruction_set):
    rng = np.random.default_rng(4)
    outputs, targets, h = rng.normal(size=10), rng.dirichlet(np.ones(10)), 2.0**-17
    gradient = loss(instruction_set, name, outputs, targets)[1]
    for i, direction in enumerate(h * np.eye(10)):
        above = loss(instruction_set, name, outputs + direction, targets)[0]
        below = loss(instruction_set, name, outputs - direction, targets)[0]
        assert (above - below) / (2 * h) == pytest.approx(gradient[i], abs=1e-9)


# ---- what it takes, and where it runs ------------------------------------------------------------


def test_what_it_does_not_support_it_names():
    @register("activation")
    def bump(x):
        return torch.exp(-x * x)

    @register("optimizer")
    def still(parameters, gradients, state, lr):
        pass

    trainer = NativeTrainer()
    assert trainer.unsupported(Recipe()) is None
    assert "'bump'" in trainer.unsupported(Recipe(activation="bump"))
    assert "'bump'" in trainer.unsupported(Recipe(output_activation="bump"))
    assert "'still'" in trainer.unsupported(Recipe(optimizer="still"))
    with pytest.raises(ConfigError, match="bump"):
        next(trainer.train([Run(Recipe(activation="bump"), 0)], None, {}))


def test_the_identity_names_the_instruction_set():
    assert NativeTrainer().identity().instruction_set == INSTRUCTION_SETS[0]
    for name in INSTRUCTION_SETS:
        assert NativeTrainer(instruction_set=name).identity().instruction_set == name
    with pytest.raises(ConfigError, match=INSTRUCTION_SETS[0]):
        NativeTrainer(instruction_set="vax")


def test_without_the_kernel_it_says_why(monkeypatch):
    monkeypatch.setattr(native, "kernel", None)
    monkeypatch.setattr(native, "_missing", "no compiler", raising=False)
    assert native.availability() == "no compiler"
    with pytest.raises(ConfigError, match="no compiler"):
        NativeTrainer()


# The last bits of trained weights, to notice a change of the numbers: it calls for a new `numerics`
# in NativeTrainer.identity. Compilers may fuse multiply-adds differently, so this knows only one.
GOLDEN = {
    ("avx512", "float32"): "22183fab82654dd5",
    ("avx512", "float64"): "2b9cbcb396dcbd69",
    ("avx2", "float32"): "ea23e664647ce3d0",
    ("avx2", "float64"): "2025036715f21b89",
    ("baseline", "float32"): "9dc34dc879b8a61c",
    ("baseline", "float64"): "8c7025b496468efe",
}


@each("instruction_set", INSTRUCTION_SETS)
@each("dtype", DTYPES)
def test_the_numbers_are_still_the_same(dtype, instruction_set):
    if not kernel.COMPILER.startswith("GCC 12.") or (instruction_set, dtype) not in GOLDEN:
        pytest.skip(f"no record for {instruction_set} by {kernel.COMPILER}")
    rng = np.random.default_rng(7)
    fit = Split(rng.uniform(-1, 1, (50, 16, 16)), rng.integers(0, 10, 50))
    others = [{}, {"momentum": 0.5}, {"loss": "cross_entropy"}, {"connectivity": "random_8"}]
    runs = [
        Run(Recipe(dtype=dtype, epochs=2, activation=name, lr=0.003, **others[i % 4]), 5)
        for i, name in enumerate(kernel.ACTIVATIONS[:10])  # those that the records know
    ]
    sha = hashlib.sha256()
    for report in NativeTrainer(1, instruction_set).train(runs, fit, {"fit": fit}):
        if report.last:
            sha.update(b"".join(tensor.tobytes() for tensor in report.state.parameters.values()))
    assert sha.hexdigest()[:16] == GOLDEN[instruction_set, dtype]


# ---- USPS -------------------------------------------------------------------------------------

# The notebook's printed losses and the true counts of misses, for seed 1337 in float64.
KNOWN = [
    (3.133231e-02, 727, 3.674993e-02, 291),
    (2.061267e-02, 434, 2.630060e-02, 202),
    (1.508845e-02, 330, 2.083232e-02, 178),
    (1.185159e-02, 278, 1.776443e-02, 173),
    (9.951142e-03, 249, 1.597637e-02, 166),
    (8.715297e-03, 227, 1.480246e-02, 158),
    (7.805854e-03, 211, 1.393636e-02, 147),
]


def notebook(instruction_set: str, until: int) -> list:
    from lecun_ablate.data import load

    digits = load("usps")
    run = Run(Recipe(dtype="float64"), 1337, until=until)
    trainer = NativeTrainer(instruction_set=instruction_set)
    return list(trainer.train([run], digits.train, {"train": digits.train, "test": digits.test}))


def check_known(reports: list) -> None:
    for report, (train_loss, train_misses, test_loss, test_misses) in zip(
        reports, KNOWN, strict=False
    ):
        train, test = report.scores["train"], report.scores["test"]
        assert (train.misses, test.misses) == (train_misses, test_misses)
        assert train.loss == pytest.approx(train_loss, rel=1e-5)
        assert test.loss == pytest.approx(test_loss, rel=1e-5)


@pytest.mark.usps
@each("instruction_set", INSTRUCTION_SETS)
def test_the_first_epoch_of_the_notebook(instruction_set):
    reports = notebook(instruction_set, until=1)
    assert len(reports) == 1
    check_known(reports)


@pytest.mark.usps
@pytest.mark.slow
@each("instruction_set", INSTRUCTION_SETS)
def test_all_epochs_of_the_notebook(instruction_set):
    reports = notebook(instruction_set, until=23)
    assert len(reports) == 23
    check_known(reports)
    assert 0.94 < 1 - reports[-1].scores["test"].error < 0.95  # "95 %" in the notebook's words


# ---- methods ----------------------------------------------------------------------------------


@each("dtype", DTYPES)
@each("instruction_set", INSTRUCTION_SETS)
def test_subnormal_moments_are_flushed_and_the_cpu_is_left_as_it_was(instruction_set, dtype):
    """Moments that decay for many epochs become subnormal, which would slow the CPU down."""
    recipe = Recipe(dtype=dtype)
    connected, state = begin(Run(recipe, 1))
    tiny = np.finfo(dtype).smallest_normal / np.dtype(dtype).type(8)
    method = kernel.Method(
        "lion", momentum=0.0, beta1=0.9, beta2=0.9, eps=0.0, decay=0.0, mu=0.0, gamma=0.0,
        running=False, weight_decay=0.0, average=0.0, dropout=0.0,
    )  # fmt: skip
    parameters = flatten(state.parameters, dtype)
    mean = np.full(parameters.shape, tiny, dtype)
    # targets that the outputs have: no gradient, so that the mean only decays
    parameters[:] = 0
    choices = kernel.Choices(
        "tanh", "tanh", "mse", 0.1, 0.0, 0.0, 0.01, 0.01, np.zeros((10, 10)), connected
    )
    images, labels = np.zeros((1, 16, 16), dtype), np.zeros(1, np.int64)
    kernel.train_by(
        instruction_set, choices, method, parameters, mean, None, None, None, None,
        images, labels, np.zeros(1, np.int64), 1, np.full(1, 0.0), None,
    )  # fmt: skip
    mask = flatten(state.parameters, dtype) != 0  # drawn weights, so connected ones
    assert mask.sum() > 8000
    assert (mean[mask] == 0).all()
    assert tiny * np.dtype(dtype).type(0.5) > 0  # this thread still has subnormal numbers


@each("optimizer", ["adamw", "sdlm(estimate=running)", "lion"])
def test_either_trainer_goes_on_from_the_others_state(optimizer):
    rng = np.random.default_rng(0)
    fit = Split(rng.uniform(-1, 1, (30, 16, 16)), rng.integers(0, 10, 30))
    recipe = Recipe(dtype="float64", optimizer=optimizer, average=0.9, epochs=2, lr=1e-4)
    native, torch_trainer = NativeTrainer(), TorchTrainer(threads=1)
    (half, whole) = native.train([Run(recipe, 1)], fit, {"fit": fit})
    (other,) = torch_trainer.train([Run(recipe, 1, state=half.state)], fit, {"fit": fit})
    assert other.state.optimizer.keys() == whole.state.optimizer.keys()
    assert other.scores["fit"].loss == pytest.approx(whole.scores["fit"].loss, rel=1e-9)
    for name, values in whole.state.scored.items():
        np.testing.assert_allclose(other.state.scored[name], values, rtol=1e-9, atol=1e-12)


def test_mu_of_the_mean_loss_is_a_fifth_of_that_of_half_the_sum_of_squares():
    rng = np.random.default_rng(0)
    fit = Split(rng.uniform(-1, 1, (30, 16, 16)), rng.integers(0, 10, 30))
    losses = [
        [report.state.parameters["h1_weight"] for report in NativeTrainer().train([run], fit, {})]
        for run in (
            Run(Recipe(dtype="float64", optimizer="sdlm(mu=0.02)", lr=0.002, epochs=2), 1),
            Run(
                Recipe(
                    dtype="float64",
                    optimizer="sdlm(mu=0.1)",
                    loss="half_sum_squares",
                    lr=0.002,
                    epochs=2,
                ),
                1,
            ),
        )
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
