"""What an epoch presents: rates, batches, shifts, masks and smoothed targets."""

import functools
import operator

import numpy as np
import pytest
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.epoch import (
    augmented,
    batches,
    dropout_masks,
    learning_rates,
    smoothed,
    steps_of,
)
from lecun_ablate.registry import registry


def rates(n=4, **fields):
    recipe = Recipe(lr=2.0, **fields)
    return np.concatenate([learning_rates(recipe, e, n) for e in range(1, recipe.epochs + 1)])


def test_rates_per_epoch_are_constant_within_it():
    assert rates(2, epochs=3).tolist() == [2] * 6
    found = rates(2, epochs=5, schedule="linear(to=0.5)")
    assert found.tolist() == [2, 2, 1.75, 1.75, 1.5, 1.5, 1.25, 1.25, 1, 1]
    assert rates(1, epochs=1, schedule="linear").tolist() == [2]


def test_karpathys_decay():
    """(1 - a) 3e-4 + a 1e-4 with a = pass / (passes - 1)."""
    recipe = Recipe(lr=3e-4, epochs=46, schedule=f"linear(to={1 / 3})")
    found = [learning_rates(recipe, epoch, 1)[0] for epoch in range(1, 47)]
    a = np.arange(46) / 45
    np.testing.assert_allclose(found, (1 - a) * 3e-4 + a * 1e-4, rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: (1 + np.cos(np.pi * t)) / 2),
        (
            "cosine(to=0.1, warmup=0.25)",
            lambda t: (
                t / 0.25 if t < 0.25 else 0.1 + 0.9 * (1 + np.cos(np.pi * (t - 0.25) / 0.75)) / 2
            ),
        ),
        ("step(factor=0.5, every=0.25)", lambda t: 0.5 ** int(t / 0.25 + 1e-9)),
        (
            "one_cycle(peak=0.4, start=0.1, end=0.01)",
            lambda t: (
                0.1 + 0.9 * (1 - np.cos(np.pi * t / 0.4)) / 2
                if t < 0.4
                else 0.01 + 0.99 * (1 + np.cos(np.pi * (t - 0.4) / 0.6)) / 2
            ),
        ),
    ],
)
def test_rates_per_step_follow_their_formula(schedule, factor):
    found = rates(5, epochs=4, schedule=schedule, schedule_per="step")
    expected = [2 * factor(i / 19) for i in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_users_schedule_must_give_factors():
    @registry.register("schedule")
    def wrong(progress):
        return progress - 1

    with pytest.raises(
        ConfigError, match="schedule 'wrong': expected 1 finite factors of at least"
    ):
        learning_rates(Recipe(schedule="wrong"), 1, 3)


def test_batches_take_every_place_once():
    for size in (1, 3, 10, 99):
        recipe = Recipe(batch_size=size)
        taken = [list(range(10))[places] for places in batches(recipe, 10)]
        assert functools.reduce(operator.iadd, taken, []) == list(range(10))
        assert len(taken) == steps_of(recipe, 10)
        assert {len(part) for part in taken[:-1]} <= {size}


def pictures(n=4000):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 16, 16)))


def test_shifts_roll_by_every_step_equally_often():
    images, recipe = pictures(), Recipe(augmentation="shift")
    shifted = augmented(recipe, 3, 1, images)
    counts = []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            same = (shifted == images.roll((down, right), (1, 2))).all(2).all(1)
            counts.append(int(same.sum()))
    assert sum(counts) == len(images)
    assert min(counts) > 4000 / 9 * 0.85  # 3.5 standard deviations


def test_shifts_without_wrapping_bring_in_background():
    images = torch.zeros(500, 16, 16)
    shifted = augmented(Recipe(augmentation="shift(pixels=2, wrap=false)"), 3, 1, images)
    assert set(shifted.unique().tolist()) == {-1, 0}
    new = (shifted == -1).any(2).sum(1)  # rows with background: all of them, or those shifted in
    assert set(new.tolist()) <= {0, 1, 2, 16}
    corners = (shifted == -1).sum((1, 2))
    sizes = {256 - (16 - abs(a)) * (16 - abs(b)) for a in range(3) for b in range(3)}
    assert set(corners.tolist()) == sizes


def test_shifts_and_masks_are_named_streams_of_the_seed():
    images = pictures(50)
    recipe = Recipe(augmentation="shift", dropout=0.5)
    one = augmented(recipe, 3, 1, images)
    assert torch.equal(one, augmented(recipe, 3, 1, images))
    assert torch.equal(one.float(), augmented(recipe, 3, 1, images.float()))
    for other in (augmented(recipe, 4, 1, images), augmented(recipe, 3, 2, images)):
        assert not torch.equal(one, other)
    pinned = Recipe(augmentation="shift", order_seed=3)
    assert torch.equal(one, augmented(pinned, 99, 1, images))
    masks = [dropout_masks(recipe, seed, epoch, 50) for seed, epoch in ((3, 1), (3, 2), (4, 1))]
    assert (masks[0] == dropout_masks(recipe, 3, 1, 50)).all()
    assert len({mask.tobytes() for mask in masks}) == 3
    # more patterns or another rate, the same draws
    assert (dropout_masks(recipe, 3, 1, 80)[:50] == masks[0]).all()
    assert (masks[0] <= dropout_masks(Recipe(dropout=0.25), 3, 1, 50)).all()


@pytest.mark.parametrize("rate", [0.25, 0.1])
def test_masks_drop_at_their_rate(rate):
    mask = dropout_masks(Recipe(dropout=rate), 0, 1, 2000)
    assert mask.shape == (2000, 192) and mask.dtype == bool
    error = 4 * (rate * (1 - rate) / mask.size) ** 0.5
    assert abs((~mask).mean() - rate) < error
    assert np.abs((~mask).mean(0) - rate).max() < 5 * (rate * (1 - rate) / 2000) ** 0.5


def test_a_users_augmentation_must_keep_the_shape():
    @registry.register("augmentation")
    def crop(images):
        return images[:, 1:]

    with pytest.raises(ConfigError, match=r"augmentation 'crop': expected torch.float64 images"):
        augmented(Recipe(augmentation="crop"), 0, 1, pictures(3))


def test_smoothing_keeps_the_mass_of_targets():
    one_hot = torch.eye(10, dtype=torch.float64)
    found = smoothed(Recipe(label_smoothing=0.1), one_hot)
    np.testing.assert_allclose(found, np.eye(10) * 0.9 + 0.01, rtol=1e-15)
    assert smoothed(Recipe(), one_hot) is one_hot
