"""Built-in components against formulas written independently with NumPy and SciPy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.network.initial import connectivity
from lecun_ablate.registry import registry

X = np.linspace(-4, 4, 41)

ACTIVATIONS = {
    "tanh": np.tanh(X),
    "scaled_tanh": 1.7159 * np.tanh(2 * X / 3),
    "lisht": X * np.tanh(X),
    "sigmoid": scipy.special.expit(X),
    "relu": np.where(X > 0, X, 0),
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "softsign": X / (1 + np.abs(X)),
    "gelu": X * scipy.stats.norm.cdf(X),
    "silu": X * scipy.special.expit(X),
    "identity": X,
}


def test_every_activation_has_its_formula_here():
    assert set(ACTIVATIONS) == set(registry.names("activation"))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    values = registry.get("activation", name)(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(values, ACTIVATIONS[name], rtol=1e-13, atol=1e-15)


def test_losses():
    rng = np.random.default_rng(0)
    y, t = rng.normal(size=(3, 10)), np.eye(10)[[1, 5, 9]]
    expected = {
        "mse": ((y - t) ** 2).sum(1) / 10,
        "half_sum_squares": ((y - t) ** 2).sum(1) / 2,
        "cross_entropy": -np.log(scipy.special.softmax(y, axis=1)[[0, 1, 2], [1, 5, 9]]),
    }
    assert set(expected) == set(registry.names("loss"))
    for name, values in expected.items():
        loss = registry.get("loss", name)(torch.from_numpy(y), torch.from_numpy(t))
        np.testing.assert_allclose(loss.numpy(), values, rtol=1e-13)


def test_targets():
    labels = torch.tensor([3, 0])
    np.testing.assert_array_equal(registry.get("target", "one_hot")(labels), np.eye(10)[[3, 0]])
    np.testing.assert_array_equal(
        registry.get("target", "bipolar")(labels), 2 * np.eye(10)[[3, 0]] - 1
    )


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("fan_in", 2.4 / 200),
        ("sqrt_fan_in", 2.4 / 200**0.5),
        ("sqrt_gain_fan_in", (2.4 / 200) ** 0.5),
        ("xavier", (6 / (200 + 120)) ** 0.5),
        ("kaiming", (6 / 200) ** 0.5),
    ],
)
def test_inits_fill_their_bounds_uniformly(name, bound):
    generator = torch.Generator().manual_seed(0)
    fan_in = torch.tensor(200.0, dtype=torch.float64)
    weights = registry.get("init", name)(generator, (40, 500), fan_in, 120.0)
    assert weights.dtype == torch.float64
    uniform = scipy.stats.uniform(-bound, 2 * bound)
    assert scipy.stats.kstest(weights.flatten().numpy(), uniform.cdf).pvalue > 0.001
    assert 0.999 * bound < weights.abs().max() <= bound


def test_connectivities():
    seen = {n: connectivity(Recipe(connectivity=n), 0) for n in registry.names("connectivity")}
    assert list(np.flatnonzero(seen["blocks"][0])) == list(range(8))
    assert list(np.flatnonzero(seen["blocks"][7])) == list(range(4, 12))
    assert list(np.flatnonzero(seen["blocks"][11])) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert list(np.flatnonzero(seen["cyclic"][10])) == [0, 1, 2, 3, 4, 5, 10, 11]
    assert seen["full"].all()
    assert (seen["grouped"] == np.kron(np.eye(3), np.ones((4, 4)))).all()
    for name, inputs in {"blocks": 8, "cyclic": 8, "random_8": 8, "grouped": 4}.items():
        assert (seen[name].sum(1) == inputs).all(), name
    for name in ("blocks", "cyclic", "grouped"):
        assert len(set(seen[name].sum(0))) == 1, f"{name} uses some planes of H1 more than others"
    assert sorted(seen["lenet5_style"].sum(1)) == [6] * 6 + [8] * 5 + [12]
    assert len({row.tobytes() for row in seen["lenet5_style"]}) == 12
    other = connectivity(Recipe(connectivity="random_8"), 1)
    assert (seen["random_8"] != other).any()


def test_orders():
    fixed, shuffled = registry.get("order", "fixed"), registry.get("order", "shuffled")
    assert fixed(5, None).tolist() == [0, 1, 2, 3, 4]
    draws = [shuffled(50, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert sorted(draws[2]) == list(range(50))


def test_sgd_with_momentum_is_torch_sgd():
    own = torch.linspace(-1, 1, 7, dtype=torch.float64)[None]
    reference = own[0].clone().requires_grad_()
    optimizer = torch.optim.SGD([reference], lr=0.1, momentum=0.9)
    state: dict = {}
    lr = torch.full((1, 1), 0.1, dtype=torch.float64)
    for step in range(5):
        gradient = torch.full((1, 7), float(step + 1), dtype=torch.float64)
        registry.get("optimizer", "sgd")(own, gradient, state, lr, 0.9)
        reference.grad = gradient[0].clone()
        optimizer.step()
    np.testing.assert_allclose(own[0], reference.detach(), rtol=1e-12)
