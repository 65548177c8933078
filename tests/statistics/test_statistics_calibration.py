"""Tests and intervals keep what they promise, on simulated experiments with realistic spread.

Errors are whole misses of 2,007 images, 5 % on average, with an sd of 0.3 points over seeds.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statistics_rates import assert_rate, highest_rate

from lecun_ablate import statistics as st

IMAGES = 2007
MEAN, SD = 0.05, 0.003  # test error over seeds
LEVEL = 0.95


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """statsmodels collects garbage in every correction for multiple tests: 0.1 s each."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def simulate(experiments, seeds, correlation, difference=0.0, arms=1, seed=0):
    """Return baseline (experiments, seeds) and arms (arms, experiments, seeds): whole misses."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(experiments, seeds))
    own = rng.normal(size=(arms + 1, experiments, seeds))
    errors = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    errors = MEAN + SD * errors
    errors[1:] += difference
    errors = np.round(errors * IMAGES) / IMAGES
    return errors[0], errors[1:]


def covers(interval, truth):
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_permutation_test_rejects_identical_arms_at_its_level(correlation):
    baseline, (arm,) = simulate(4000, 10, correlation)
    p = np.array([st.sign_flip_test(row)[0] for row in arm - baseline])
    # whole misses give ties, so p takes many values and its level is just below the nominal one
    assert_rate(p <= 0.05, 0.0488)
    assert_rate(p <= 0.2, 0.2)
    assert_rate(p <= 0.5, 0.5)


def test_monte_carlo_permutation_test_rejects_identical_arms_at_its_level():
    baseline, (arm,) = simulate(1500, 25, 0.5)
    p = np.array([st.sign_flip_test(row, permutations=399)[0] for row in arm - baseline])
    assert_rate(p <= 0.05, 0.05)


@pytest.mark.parametrize(("seeds", "correlation"), [(5, 0.3), (10, 0.0), (10, 0.7)])
def test_t_interval_covers_at_its_level(seeds, correlation):
    truth = -0.002
    baseline, (arm,) = simulate(2000, seeds, correlation, truth)
    assert_rate([covers(st.seed_interval(row), truth) for row in arm - baseline], LEVEL)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_interval_that_follows_skew_covers_at_its_level(correlation):
    truth = 0.001
    baseline, (arm,) = simulate(5000, 40, correlation, truth, seed=1)
    low, high = st.interval_ends(arm - baseline)
    # the farther end of two: half a point above its level for normal differences
    assert_rate((low <= truth) & (truth <= high), LEVEL + 0.005)


def test_seed_interval_covers_skewed_differences_where_students_does_not():
    """Now and then a seed goes wrong: a long tail to one side."""
    rng = np.random.default_rng(4)
    differences = 0.001 * rng.exponential(size=(4000, 30)) ** 1.5
    truth = 0.001 * math.gamma(2.5)
    low, high = st.interval_ends(differences)
    found = np.mean((low <= truth) & (truth <= high))
    reach = stats.t.ppf(0.975, 29) * stats.sem(differences, axis=1)
    student = np.mean(np.abs(differences.mean(axis=1) - truth) <= reach)
    assert student < 0.91
    assert found > 0.94


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("seeds", [10, 20, 60])
def test_seed_interval_covers_where_runs_collapse_if_one_did(rate, both, seeds):
    """A collapsed run costs 75 points; the same holds at 5 to 100 seeds (benchmarks)."""
    rng = np.random.default_rng(5)
    shape = (2000, seeds)
    differences = 0.4 * rng.normal(size=shape) + 75 * (rng.random(shape) < rate)
    truth = 75 * rate
    if both:
        differences, truth = differences - 75 * (rng.random(shape) < rate), 0.0
    told = (np.abs(differences) > 30).any(axis=1)
    low, high = st.interval_ends(differences[told])
    assert np.mean((low <= truth) & (truth <= high)) > 0.93


def test_bca_interval_is_too_narrow_for_ten_seeds():
    """The reason why it is a cross-check only."""
    baseline, (arm,) = simulate(300, 10, 0.5)
    intervals = [st.bca_interval(row, resamples=499) for row in arm - baseline]
    assert 0.85 < np.mean([covers(interval, 0.0) for interval in intervals]) < 0.945


def welch_interval(arm, baseline):
    """Return the interval that forgets which runs share a seed."""
    found = stats.ttest_ind(arm, baseline, equal_var=False).confidence_interval(LEVEL)
    return st.Interval(found.low, found.high, LEVEL, "Welch")


def test_a_method_that_ignores_the_pairing_fails_the_coverage_check():
    baseline, (arm,) = simulate(600, 10, 0.7)
    unpaired = [covers(welch_interval(*pair), 0.0) for pair in zip(arm, baseline, strict=True)]
    with pytest.raises(AssertionError, match="rate"):
        assert_rate(unpaired, LEVEL)
    # as many experiments for ours: with fewer, a method that is much too wide would pass as well
    paired = [
        covers(st.difference_interval(*pair), 0.0) for pair in zip(arm, baseline, strict=True)
    ]
    assert_rate(paired, LEVEL)
    assert st.difference_interval(arm[0], baseline[0]) == st.compare(arm[0], baseline[0]).interval


def test_pairing_narrows_the_interval_as_the_correlation_says():
    baseline, (arm,) = simulate(200, 10, 0.7)
    pairs = list(zip(arm, baseline, strict=True))
    paired = np.mean([st.seed_interval(a - b).halfwidth for a, b in pairs])
    unpaired = np.mean([welch_interval(a, b).halfwidth for a, b in pairs])
    # sqrt(1 - 0.7) = 0.55; fewer degrees of freedom take back a little: t(9) / t(18) = 1.077
    assert paired / unpaired == pytest.approx(0.55 * 1.077, rel=0.05)


def test_comparison_depends_on_which_runs_share_a_seed():
    baseline, (arm,) = simulate(1, 12, 0.9, -0.001)
    right = st.compare(arm[0], baseline[0])
    shuffled = st.compare(arm[0], np.roll(baseline[0], 1))
    assert right.difference == pytest.approx(shuffled.difference, abs=1e-15)
    assert right.interval.halfwidth < 0.6 * shuffled.interval.halfwidth
    assert right.p < shuffled.p
    assert right.correlation > 0.7 > shuffled.correlation


def test_holm_keeps_the_level_of_the_whole_experiment():
    """Four arms that are no better than the baseline they share."""
    baseline, arms = simulate(1500, 10, 0.5, arms=4)
    p = np.array([[st.sign_flip_test(row)[0] for row in arm - baseline] for arm in arms]).T
    corrected = np.array([st.holm(row).min() <= 0.05 for row in p])
    assert corrected.mean() <= highest_rate(1500, 0.05)
    assert (p.min(axis=1) <= 0.05).mean() > 0.1  # what Holm is there for


def test_seeds_needed_are_enough_and_one_fewer_are_not():
    for effect in (0.01, 0.005, 0.0025, 0.001):
        n = st.seeds_needed(effect, 0.006)
        assert st.power(effect, 0.006, n) >= 0.8 > st.power(effect, 0.006, n - 1)


@pytest.mark.parametrize("true_difference", [0.0, 0.0015])
def test_verdicts_are_rarely_wrong(true_difference):
    baseline, (arm,) = simulate(200, 10, 0.5, true_difference)
    verdicts = [
        st.decide(st.compare(a, b, resamples=9)).kind for a, b in zip(arm, baseline, strict=True)
    ]
    wrong = {"better", "worse"} if true_difference == 0 else {"better"}
    assert np.mean([kind in wrong for kind in verdicts]) <= highest_rate(200, 0.05)
    assert len(set(verdicts)) > 1


def test_no_difference_is_said_only_when_it_is_small():
    """The largest difference named covers the true one as often as the interval promises."""
    margin = 0.005
    baseline, (arm,) = simulate(1500, 20, 0.5, margin)  # exactly as large as what matters
    differences = arm - baseline
    inside = [st.t_interval(row).bound <= margin for row in differences]
    assert np.mean(inside) <= highest_rate(1500, 0.025)


def test_interval_of_the_factorial_interaction_covers():
    rng = np.random.default_rng(9)
    truth = np.array([[0.05, 0.047], [0.052, 0.045]])  # interaction -0.004
    cells = [{"a": i, "b": j} for i in (0, 1) for j in (0, 1)]
    hits = []
    for _ in range(500):
        seed_effect = 0.002 * rng.normal(size=8)
        errors = truth.reshape(4, 1) + seed_effect + 0.0025 * rng.normal(size=(4, 8))
        hits.append(covers(st.factorial(cells, errors)[2].interval, -0.004))
    assert_rate(hits, LEVEL)


@pytest.fixture
def sequential_coverage(monkeypatch):
    """The benchmark whose table stands in docs/statistics.md."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import sequential_coverage

    return sequential_coverage


def test_stopping_on_the_width_costs_little_coverage(sequential_coverage):
    """On a small scale."""
    benchmark = sequential_coverage
    rule = st.UntilNarrow(benchmark.HALFWIDTH, benchmark.AT_MOST)
    found = benchmark.measure(benchmark.normal, 0.006, rule, experiments=150)
    assert stats.binom.cdf(round(150 * found.sound), 150, 0.935) > 0.0005
    assert found.seeds == pytest.approx(42, abs=2)
    assert found.at_limit == 0


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1])
def test_stopping_on_the_width_where_runs_collapse(sequential_coverage, rate):
    """What is said holds; the interval over all runs as one sample would not."""
    benchmark = sequential_coverage
    rule = st.UntilNarrow(benchmark.HALFWIDTH, benchmark.AT_MOST)
    found = benchmark.measure(benchmark.normal, 0.004, rule, 150, failing=(rate, 0.0))
    for held in (found.sound, found.rates, found.with_failures):
        assert stats.binom.cdf(round(150 * held), 150, 0.935) > 0.0005
    if rate < 0.1:
        assert found.naive < 0.8
