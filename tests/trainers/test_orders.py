"""The orders in which runs see the patterns."""

import numpy as np
import pytest
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.initial import pattern_order
from lecun_ablate.registry import registry
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.orders import Orders

WRONG = {
    "repeats": torch.tensor([0, 1, 1]),
    "beyond": torch.tensor([0, 1, 3]),
    "negative": torch.tensor([0, 2, -1]),
    "short": torch.tensor([0, 1]),
    "floats": torch.tensor([0.0, 2.0, 1.0]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_permutation_is_refused(name):
    registry.register("order", name)(lambda n: WRONG[name])
    with pytest.raises(ConfigError, match=rf"{name!r}: expected a permutation of 0\.\.2 as int64"):
        pattern_order(Recipe(order=name), 0, 1, 3)


def test_each_run_has_its_own_order():
    recipes = [Recipe(order="shuffled"), Recipe(order="shuffled", order_seed=7), Recipe()]
    runs = [Run(recipe, seed) for seed in (0, 1) for recipe in recipes]
    orders = Orders(runs, 50)
    for epoch in (1, 2):
        drawn, rows = orders.take(epoch, range(6))
        assert len(drawn) == 4  # two seeds, the pinned seed, the fixed order
        for run, row in zip(runs, rows, strict=True):
            expected = pattern_order(run.recipe, run.seed, epoch, 50)
            assert np.array_equal(drawn[row], expected)


def test_drawing_ahead_changes_nothing():
    runs = [Run(Recipe(order="shuffled"), seed) for seed in range(3)]
    plain, ahead = Orders(runs, 50), Orders(runs, 50)
    ahead.draw_ahead(2, range(3))
    for active in ([0, 2], [2]):  # a run may end in between
        (expected, expected_rows), (drawn, rows) = plain.take(2, active), ahead.take(2, active)
        assert rows[1] == expected_rows[1] == -1
        for i in active:
            assert np.array_equal(drawn[rows[i]], expected[expected_rows[i]])
