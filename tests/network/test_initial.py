"""Where a run starts: common random numbers, and the notebook's draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.initial import (
    SHAPES,
    connectivity,
    mac_count,
    parameter_count,
    pattern_order,
    start,
)
from lecun_ablate.network.reference import Network
from lecun_ablate.registry import registry


def test_the_first_stream_is_the_notebooks():
    """The four tensors of torch.rand after torch.manual_seed, in the order of the net's layers."""
    torch.manual_seed(1337)

    def draw(fan_in, *shape):
        return ((torch.rand(*shape, dtype=torch.float64) - 0.5) * 2 * 2.4 / fan_in**0.5).numpy()

    h1, h2 = draw(25, 12, 1, 5, 5), draw(200, 12, 8, 5, 5)
    h3, out = draw(192, 192, 30), draw(30, 30, 10)
    ours = start(Recipe(), 1337).parameters
    np.testing.assert_allclose(ours["h1_weight"], h1, rtol=1e-15)
    np.testing.assert_allclose(ours["h3_weight"], h3, rtol=1e-15)
    np.testing.assert_allclose(ours["out_weight"], out, rtol=1e-15)
    planes = [range(8), range(4, 12), [0, 1, 2, 3, 8, 9, 10, 11]]
    for plane in range(12):
        own = ours["h2_weight"][plane, planes[plane // 4]]
        np.testing.assert_allclose(own, h2[plane], rtol=1e-15)
    assert np.count_nonzero(ours["h2_weight"]) == 12 * 8 * 25
    assert (ours["out_bias"] == -1).all() and (ours["h2_bias"] == 0).all()


def test_counts_are_the_papers():
    seen = connectivity(Recipe(), 0)
    assert parameter_count(seen) == 9760
    assert mac_count(seen) == 63660
    assert parameter_count(connectivity(Recipe(connectivity="full"), 0)) == 9760 + 12 * 4 * 25
    assert {k: v.shape for k, v in start(Recipe(), 0).parameters.items()} == SHAPES


@given(
    seed=st.integers(0, 2**40),
    name=st.sampled_from(["cyclic", "random_8", "lenet5_style", "grouped", "full"]),
)
@settings(max_examples=20, deadline=None)
def test_arms_of_one_seed_share_their_draws(seed, name):
    """Another connectivity changes nothing but H2, whose k-th seen plane keeps the k-th draw."""
    base, other = (start(Recipe(connectivity=c), seed) for c in ("blocks", name))
    for key in set(SHAPES) - {"h2_weight"}:
        np.testing.assert_array_equal(base.parameters[key], other.parameters[key])
    for plane in range(12):
        ours = base.parameters["h2_weight"][plane, base.connectivity[plane]]
        theirs = other.parameters["h2_weight"][plane, other.connectivity[plane]]
        shared = min(8, len(theirs))
        scale = np.sqrt(len(theirs) / 8)  # the bound follows the plane's own fan-in
        np.testing.assert_allclose(ours[:shared], theirs[:shared] * scale, rtol=1e-12)
        assert not other.parameters["h2_weight"][plane, ~other.connectivity[plane]].any()


def test_weights_and_order_can_be_pinned_apart():
    a, b = Recipe(init_seed=7, order="shuffled"), Recipe(order_seed=7, order="shuffled")
    same = start(a, 1).parameters["h3_weight"], start(a, 2).parameters["h3_weight"]
    np.testing.assert_array_equal(*same)
    assert not pattern_order(a, 1, 1, 50).equal(pattern_order(a, 2, 1, 50))
    assert (start(b, 1).parameters["h3_weight"] != start(b, 2).parameters["h3_weight"]).any()
    assert pattern_order(b, 1, 1, 50).equal(pattern_order(b, 2, 1, 50))
    assert not pattern_order(b, 1, 1, 50).equal(pattern_order(b, 1, 2, 50))


def test_components_that_break_their_contract_are_named():
    registry.register("connectivity", "small")(lambda: np.ones((3, 3), bool))
    registry.register("connectivity", "blind")(lambda: np.eye(12, dtype=bool) & False)
    registry.register("init", "flat")(lambda generator, shape: torch.zeros(3))
    registry.register("order", "short")(lambda n: torch.arange(n - 1))
    with pytest.raises(ConfigError, match="'small': expected a 12x12 boolean matrix"):
        start(Recipe(connectivity="small"), 0)
    with pytest.raises(ConfigError, match="'blind': H2 plane 0 sees no plane"):
        start(Recipe(connectivity="blind"), 0)
    with pytest.raises(ConfigError, match="'flat': expected a float64 tensor of shape"):
        start(Recipe(init="flat"), 0)
    with pytest.raises(ConfigError, match=r"'short': expected a permutation of 0\.\.9"):
        pattern_order(Recipe(order="short"), 0, 1, 10)


def test_forward_is_the_net_of_the_paper_unit_by_unit():
    """The reference module against explicit loops over units, taps and planes."""
    recipe = Recipe(dtype="float64", connectivity="lenet5_style", padding=-0.7)
    network = Network(recipe, 3)
    begin = start(recipe, 3)
    w = begin.parameters
    image = np.random.default_rng(1).uniform(-1, 1, (16, 16))

    def plane(inputs, weights, biases, size):
        padded = np.pad(inputs, ((0, 0), (2, 2), (2, 2)), constant_values=-0.7)
        out = np.empty((12, size, size))
        for p, y, x in np.ndindex(12, size, size):
            window = padded[:, 2 * y : 2 * y + 5, 2 * x : 2 * x + 5]
            out[p, y, x] = (window * weights[p]).sum() + biases[p, y, x]
        return np.tanh(out)

    h1 = plane(image[None], w["h1_weight"], w["h1_bias"], 8)
    h2 = plane(h1, w["h2_weight"], w["h2_bias"], 4)
    h3 = np.tanh(h2.reshape(192) @ w["h3_weight"] + w["h3_bias"])
    out = np.tanh(h3 @ w["out_weight"] + w["out_bias"])
    ours = network(torch.from_numpy(image)[None]).detach().numpy()[0]
    np.testing.assert_allclose(ours, out, rtol=1e-12)
    network(torch.from_numpy(image)[None]).sum().backward()
    gradient = network.weights["h2_weight"].grad.numpy()
    assert not gradient[~begin.connectivity].any() and gradient[begin.connectivity].any()
