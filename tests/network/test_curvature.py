"""The curvature of stochastic diagonal Levenberg-Marquardt against Jacobians and known answers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.network.curvature import curvature, loss_curvature
from lecun_ablate.network.reference import Network
from lecun_ablate.registry import registry


def few(n=3):
    rng = np.random.default_rng(5)
    images = torch.from_numpy(rng.uniform(-1, 1, (n, 16, 16)))
    return images, torch.from_numpy(rng.integers(0, 10, n))


def gauss_newton(network, images, labels, name):
    """Return the exact diagonal of J' C J, a mean over the images, with C of the loss."""
    weights = network.weights[name]
    found = torch.zeros_like(weights)
    targets = network.recipe.component("target")(labels)
    for image, target in zip(images, targets, strict=True):
        outputs = network(image[None])[0]
        c = loss_curvature(network.recipe.component("loss"), outputs[None], target[None])[0]
        for k in range(10):
            (row,) = torch.autograd.grad(outputs[k], weights, retain_graph=True)
            found += c[k].detach() * row**2
    return found / len(images)


@pytest.mark.parametrize("name", ["h3_weight", "h3_bias", "out_weight", "out_bias"])
@pytest.mark.parametrize(
    "fields",
    [
        {"activation": "scaled_tanh", "target": "bipolar", "loss": "half_sum_squares"},
        {"activation": "silu", "output_activation": "sigmoid"},
    ],
)
def test_h_of_the_outputs_is_the_exact_diagonal_and_so_is_that_of_h3s_chain(fields, name):
    """The outputs' always; H3's too, as each of its weights reaches the outputs by one unit."""
    images, labels = few()
    network = Network(Recipe(dtype="float64", **fields), 2)
    h = curvature(network, images, labels)[name]
    torch.testing.assert_close(h, gauss_newton(network, images, labels, name), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["h1_weight", "h1_bias", "h2_weight", "h2_bias"])
def test_h_of_h1_and_h2_is_near_the_exact_diagonal(name):
    """Terms off the diagonal are dropped, so the sums are somewhat larger: 1.04 to 1.26 times."""
    images, labels = few(20)
    network = Network(Recipe(dtype="float64"), 1337)
    h = curvature(network, images, labels)[name]
    ratio = h.sum() / gauss_newton(network, images, labels, name).sum()
    assert 0.7 < ratio < 1.5
    assert (h >= 0).all()


@pytest.mark.parametrize("name", registry.names("loss"))
def test_the_losses_curvature_is_the_second_derivative(name):
    rng = np.random.default_rng(1)
    outputs = torch.from_numpy(rng.normal(size=(4, 10)))
    targets = torch.softmax(torch.from_numpy(rng.normal(size=(4, 10))), -1)
    loss = registry.get("loss", name)
    for y, t, c in zip(outputs, targets, loss_curvature(loss, outputs, targets), strict=True):
        exact = torch.autograd.functional.hessian(lambda y, t=t: loss(y, t), y).diagonal()
        torch.testing.assert_close(c, exact, rtol=1e-12, atol=1e-15)


def test_a_users_loss_is_differentiated_twice():
    @registry.register("loss")
    def quartic(outputs, targets):
        return ((outputs - targets) ** 4).sum(-1)

    y, t = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    assert loss_curvature(registry.get("loss", "quartic"), y, t).tolist() == [[12, 48]]

    @registry.register("loss")
    def linear(outputs, targets):
        return (outputs - targets).sum(-1)

    assert loss_curvature(registry.get("loss", "linear"), y, t).tolist() == [[0, 0]]


# Of the notebook's net before its first step, over the first 500 training patterns of USPS; the
# last two indices of H2 are the slot of the H1 plane and its kernel.
KNOWN = {
    ("h1_weight", (0, 0, 0, 0)): 1.1056621245e-02,
    ("h1_weight", (5, 0, 2, 2)): 2.3844917054e-02,
    ("h1_bias", (0, 0, 0)): 6.4244671561e-05,
    ("h2_weight", (0, 0, 0, 0)): 3.0714344545e-02,
    ("h2_weight", (4, 7, 2, 2)): 1.7006641132e-02,
    ("h2_weight", (11, 11, 4, 4)): 1.7038122260e-02,
    ("h2_bias", (6, 1, 2)): 1.3559517453e-03,
    ("h3_weight", (0, 0)): 8.3476079275e-04,
    ("h3_weight", (100, 17)): 2.6967838997e-02,
    ("h3_bias", (0,)): 2.5860753520e-02,
    ("out_weight", (29, 9)): 3.9633720868e-02,
    ("out_bias", (0,)): 6.6809226778e-03,
    ("out_bias", (9,)): 9.7480091516e-02,
}


@pytest.mark.usps
def test_the_first_h_of_the_notebooks_net():
    from lecun_ablate.data.usps import read_folder

    train = read_folder(Path(os.environ["LECUN_ABLATE_DATA"])).train
    images, labels = torch.from_numpy(train.images[:500]), torch.from_numpy(train.labels[:500])
    h = curvature(Network(Recipe(dtype="float64"), 1337), images.double(), labels.long())
    for (name, place), value in KNOWN.items():
        assert h[name][place].item() == pytest.approx(value, rel=1e-10), (name, place)
    assert sum(each.sum().item() for each in h.values()) == pytest.approx(103.59834503, rel=1e-10)
