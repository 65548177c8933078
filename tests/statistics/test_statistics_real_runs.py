"""The statistics on real training runs: one epoch over 300 of scikit-learn's digits."""

import numpy as np
import pytest
from statistics_rates import assert_rate

from lecun_ablate import statistics as st
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.sklearn_digits import load_digits
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.choice import choose

SEEDS = 10


def errors_after_one_epoch(recipe, seeds):
    """Return the test error of one run per seed."""
    digits = load_digits()
    fit = digits.train.take(np.arange(300))
    trainer = choose({"arm": recipe})[0]["arm"]
    errors = np.full(len(seeds), np.nan)
    for report in trainer.train(
        [Run(recipe, int(seed)) for seed in seeds], fit, {"test": digits.test}
    ):
        errors[report.index] = report.scores["test"].error
    return errors


@pytest.mark.parametrize("experiments", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_identical_arms_with_different_seeds_differ_at_the_nominal_rate_only(experiments):
    seeds = np.arange(2 * experiments * SEEDS)
    errors = errors_after_one_epoch(Recipe(epochs=1), seeds)
    arm, baseline = errors.reshape(2, experiments, SEEDS)
    differences = arm - baseline
    assert np.count_nonzero(differences) > 0.9 * differences.size  # other seeds, other networks
    p = np.array([st.sign_flip_test(row)[0] for row in differences])
    for level in (0.05, 0.2, 0.5):
        assert_rate(p <= level, level)
        # at 0.5 and 0.8, a hundred experiments show intervals that are too wide, too
        held = [not st.seed_interval(row, 1 - level).excludes(0) for row in differences]
        assert_rate(held, 1 - level)


def test_pairing_by_seed_helps_on_real_runs():
    """A learning rate a tenth higher: a small change, mostly hidden behind the seeds."""
    seeds = np.arange(20)
    baseline = errors_after_one_epoch(Recipe(epochs=1), seeds)
    arm = errors_after_one_epoch(Recipe(epochs=1, lr=0.033), seeds)
    paired = st.compare(arm, baseline)
    unrelated = st.compare(arm, np.roll(baseline, 1))  # the same runs, no longer by seed
    assert paired.correlation > 0.8 > abs(unrelated.correlation)
    assert paired.interval.halfwidth < 0.5 * unrelated.interval.halfwidth
    assert st.compare(baseline, errors_after_one_epoch(Recipe(epochs=1), seeds)).identical
