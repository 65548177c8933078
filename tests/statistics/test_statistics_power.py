"""The power of the rules that decide, against simulated experiments that they decide."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from lecun_ablate import statistics as st

TOLERANCE = 0.03  # of a power: the simulation behind it, and that of the tests


def flip_p(differences):
    """Return the exact p of the sign-flip test of each row of (experiments, seeds)."""
    n = differences.shape[1]
    signs = 1 - 2 * ((np.arange(2 ** (n - 1)) >> np.arange(n)[:, None]) & 1)
    observed = np.abs(differences.sum(axis=1, keepdims=True))
    return np.mean(np.abs(differences @ signs) >= observed - 1e-12, axis=1)


def halfwidths(differences):
    n = differences.shape[1]
    return stats.t.ppf(0.975, n - 1) * differences.std(axis=1, ddof=1) / np.sqrt(n)


def rate_shown(effect, comparisons, n, experiments=2000):
    """Return how often an arm's effect (in sds) is shown, the other arms being the baseline's like.

    By the rule: the p after correction, and Student's interval at 95 % above 0.
    """
    rng = np.random.default_rng(1)
    runs = rng.normal(size=(experiments, comparisons + 1, n)) / np.sqrt(2)
    differences = runs[:, 1:] - runs[:, :1]
    differences[:, 0] += effect
    if comparisons == 1:
        p = flip_p(differences[:, 0])
    else:
        p = np.array([st.step_down(table)[0] for table in differences])
    return np.mean((p <= 0.05) & (differences[:, 0].mean(axis=1) > halfwidths(differences[:, 0])))


def test_the_quick_p_is_that_of_the_test():
    differences = np.random.default_rng(0).integers(-3, 5, (20, 7)) / 2007
    expected = [st.sign_flip_test(row)[0] for row in differences]
    assert flip_p(differences) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("comparisons", "n"), [(1, 6), (1, 7), (1, 9), (1, 12), (2, 7), (4, 7), (4, 8), (4, 10), (8, 9)]
)
def test_the_detectable_effect_is_shown_in_80_percent_of_experiments(comparisons, n):
    effect = st.minimum_detectable_effect(n, 0.004, comparisons=comparisons)
    rate = rate_shown(effect / 0.004, comparisons, n)
    assert rate == pytest.approx(0.8, abs=TOLERANCE + 0.01)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("comparisons", "n"), [(1, 6), (1, 8), (4, 6), (4, 9)])
def test_power_is_the_rate_at_which_the_rule_shows_an_effect(comparisons, n, ratio):
    rate = rate_shown(ratio, comparisons, n)
    found = st.power(ratio, 1.0, n, comparisons=comparisons)
    assert found == pytest.approx(rate, abs=TOLERANCE + 0.01)


def test_power_is_that_of_the_verdict():
    rng = np.random.default_rng(3)
    effect, baseline = 1.5 * 0.004, np.full(6, 0.05)
    kinds = [
        st.decide(st.compare(row, baseline, resamples=9)).kind
        for row in baseline - rng.normal(effect, 0.004, (400, 6))
    ]
    rate = np.mean([kind == "better" for kind in kinds])
    assert st.power(effect, 0.004, 6) == pytest.approx(rate, abs=0.08)


@pytest.mark.parametrize("comparisons", [1, 4, 14])
def test_too_few_seeds_show_nothing_however_large(comparisons):
    fewest = st.fewest_seeds()
    for n in (1, 2, fewest - 1):
        assert st.power(0.5, 0.001, n, comparisons=comparisons) == 0
        assert st.power(0.5, 0.0, n, comparisons=comparisons) == 0
        assert st.minimum_detectable_effect(n, 0.001, comparisons=comparisons) is None
    assert st.power(0.5, 0.001, fewest, comparisons=comparisons) > 0.99
    assert st.minimum_detectable_effect(fewest, 0.001, comparisons=comparisons) < 0.01


def test_power_grows_with_the_seeds_and_with_the_effect():
    for comparisons in (1, 4):
        by_seeds = [st.power(1.2, 1.0, n, comparisons=comparisons) for n in range(2, 25)]
        assert all(later > earlier - 0.01 for earlier, later in pairwise(by_seeds))
    by_effect = [st.power(effect, 1.0, 7) for effect in np.linspace(0.01, 4, 40)]
    assert all(later > earlier - 0.005 for earlier, later in pairwise(by_effect))


@pytest.mark.parametrize("difference", [0.0, 0.0005, 0.0025])
def test_the_seeds_for_sameness_give_it_in_80_percent_of_experiments(difference):
    margin, sd = 0.005, 0.008
    n = st.seeds_for_equivalence(difference, margin, sd)
    rng = np.random.default_rng(4)
    for seeds, expected in ((n, 0.8), (n // 2, None)):
        sample = rng.normal(difference, sd, (4000, seeds))
        rate = np.mean(np.abs(sample.mean(axis=1)) + halfwidths(sample) <= margin)
        if expected:
            assert rate == pytest.approx(expected, abs=TOLERANCE)
        assert rate == pytest.approx(st.equivalence_power(difference, margin, sd, seeds), abs=0.025)


def test_more_seeds_tell_arms_without_a_difference():
    """Of arms that are the same, the seeds that an undecided verdict names show it."""
    rng = np.random.default_rng(5)
    sample = rng.normal(size=10)
    sample = 0.008 * (sample - sample.mean()) / sample.std(ddof=1)
    verdict = st.decide(st.compare(0.05 + sample, np.full(10, 0.05), resamples=9))
    assert verdict.kind == "undecided"
    again = rng.normal(0, 0.008, (4000, 10 + verdict.more_seeds))
    rate = np.mean(np.abs(again.mean(axis=1)) + halfwidths(again) <= st.MARGIN)
    assert rate == pytest.approx(0.8, abs=TOLERANCE)


def test_no_number_of_seeds_makes_a_difference_beyond_the_margin_small():
    assert st.seeds_for_equivalence(0.006, 0.005, 0.004) == 1_000_000
    assert st.equivalence_power(0.006, 0.005, 0.0, 10) == 0
    assert st.equivalence_power(0.004, 0.005, 0.0, 10) == 1
