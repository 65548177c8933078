"""Failures as an outcome of their own: rates, their comparison, and what has not occurred yet."""

import numpy as np
import pytest
from scipy import stats
from statistics_rates import highest_rate

from lecun_ablate import statistics as st


def test_a_failure_rate_by_hand():
    """Clopper-Pearson's ends are those rates that give so many failures, or more, in 2.5 %."""
    found = st.failure_rate(2, 20)
    assert found.rate == 0.1
    assert stats.binom.sf(1, 20, found.interval.low) == pytest.approx(0.025)
    assert stats.binom.cdf(2, 20, found.interval.high) == pytest.approx(0.025)
    assert stats.binom.cdf(2, 20, found.at_most) == pytest.approx(0.05)
    assert stats.binom.sf(1, 20, found.at_least) == pytest.approx(0.05)
    assert found.text == "2 of 20: 10 % [1, 32]"


@pytest.mark.parametrize(
    ("failed", "runs", "text"),
    [
        (0, 10, "0 of 10: at most 26 %"),  # 1 - 0.05^(1/10) = 0.259
        (0, 59, "0 of 59: at most 5 %"),
        (0, 58, "0 of 58: at most 6 %"),  # 5.03 %: a bound is rounded up
        (1, 1, "1 of 1: at least 5 %"),
        (10, 10, "10 of 10: at least 74 %"),
        (3, 30, "3 of 30: 10 % [2, 27]"),
    ],
)
def test_a_failure_rate_in_words(failed, runs, text):
    assert st.failure_rate(failed, runs).text == text


@pytest.mark.parametrize("runs", [5, 10, 20, 100])
def test_failure_rates_are_covered_at_every_true_rate(runs):
    """Counted over all outcomes, not simulated."""
    rates = np.linspace(0.001, 0.999, 400)
    chance = stats.binom.pmf(np.arange(runs + 1)[:, None], runs, rates)
    found = [st.failure_rate(k, runs) for k in range(runs + 1)]
    inside = [[not one.interval.excludes(rate) for rate in rates] for one in found]
    assert (chance * inside).sum(axis=0).min() >= 0.95
    below = [one.at_most >= rates for one in found]
    assert (chance * below).sum(axis=0).min() >= 0.95 - 1e-12
    assert (chance * inside).sum(axis=0).min() < 0.985  # nor wider than it must be


def test_failure_rates_are_compared_by_seed():
    arm = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 0], bool)
    baseline = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 0], bool)
    found = st.compare_failures(arm, baseline)
    assert (found.arm.failed, found.baseline.failed) == (7, 2)
    assert (found.only_arm, found.only_baseline) == (6, 1)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)  # 1 or fewer of 7, on either side
    assert st.compare_failures(arm, arm).p == 1
    assert st.compare_failures(baseline, arm).p == found.p


def test_equal_failure_rates_differ_at_most_at_the_level():
    rng = np.random.default_rng(0)
    shared = rng.random((3000, 1, 60)) < 0.1  # seeds with which every arm fails
    failed = (rng.random((3000, 2, 60)) < 0.15) | shared
    p = np.array([st.compare_failures(*pair).p for pair in failed])
    assert (p <= 0.05).mean() <= highest_rate(3000, 0.05)
    assert (p <= 0.05).mean() > 0.005  # not a test that never rejects


def test_the_rate_that_outweighs_a_gain():
    # 2 points better: of 50 runs one that guesses, at 0.9 instead of 0.04, costs 1.72 points
    rate = st.outweighing_rate(0.02, 0.04)
    assert rate == pytest.approx(0.02 / 0.86)
    assert (1 - rate) * 0.04 + rate * 0.9 == pytest.approx(0.06)
    assert st.outweighing_rate(0.02, 0.9) == st.outweighing_rate(0.9, 0.1) == 1


def test_an_interval_with_failures_by_hand():
    """Without a failure: the sound interval at 97.5 %, and up to 5.9 % of failures on each side."""
    rng = np.random.default_rng(1)
    arm, baseline = rng.normal(0.05, 0.003, (2, 10))
    none = np.zeros(10, bool)
    found = st.interval_with_failures(arm, baseline, none, none)
    sound = st.seed_interval(arm - baseline, 0.975)
    most = 1 - (0.0125 / 2) ** (1 / 10)  # of 0 of 10, two-sided at 98.75 %
    assert found.high == pytest.approx(sound.high + most * (0.9 - arm.mean()))
    assert found.low == pytest.approx(sound.low - most * (0.9 - baseline.mean()))
    failed = np.arange(10) < 2
    arm[:2] = 0.8
    found = st.interval_with_failures(arm, baseline, failed, none)
    rate = st.failure_rate(2, 10, 0.9875).interval
    sound = st.seed_interval((arm - baseline)[2:], 0.975)
    assert found.high == pytest.approx(sound.high + rate.high * (0.8 - arm[2:].mean()))
    assert found.low == pytest.approx(
        sound.low + rate.low * (0.8 - arm[2:].mean()) - most * (0.9 - baseline.mean())
    )
    assert st.interval_with_failures(arm[:3], baseline[:3], failed[:3], none[:3]) is None


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("seeds", [10, 20])
def test_the_interval_with_failures_covers_where_the_naive_one_cannot(seeds, rate):
    rng = np.random.default_rng(2)
    none, truth = np.zeros(seeds, bool), -0.02 + rate * (0.8 - 0.03)
    held, naive = [], []
    for _ in range(300):
        failed = rng.random(seeds) < rate
        arm = np.where(failed, 0.8, rng.normal(0.03, 0.003, seeds))
        baseline = rng.normal(0.05, 0.003, seeds)
        held.append(not st.interval_with_failures(arm, baseline, failed, none).excludes(truth))
        naive.append(not st.seed_interval(arm - baseline).excludes(truth))
    assert np.mean(held) >= 0.95
    assert np.mean(naive) < 1 - 0.5 * (1 - rate) ** seeds  # nothing failed, nothing known


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.failure_rate(3, 2), "3 of 2 runs failed; expected 0 to 2"),
        (lambda: st.failure_rate(0, 0), "0 of 0 runs failed"),
        (lambda: st.failure_rate(-1, 2), "-1 of 2"),
        (lambda: st.failure_rate(1, 2, 95), "level is 95"),
        (lambda: st.compare_failures([True], [True, False]), "baseline_failed: expected 1 boolean"),
        (lambda: st.compare_failures([1], [True]), "arm_failed: expected 1 boolean"),
        (
            lambda: st.interval_with_failures([0.1] * 2, [0.2] * 2, [False], [False] * 2),
            "arm_failed: expected 2 booleans",
        ),
    ],
)
def test_counts_that_make_no_sense_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
