"""Every number against an independent computation, on a small fixed table."""

import math
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

from lecun_ablate import statistics as st

IMAGES = 2007
BASELINE = np.array([101, 108, 97, 112, 104, 99, 106, 110]) / IMAGES
ARM = np.array([95, 101, 99, 103, 101, 90, 106, 98]) / IMAGES
DIFFERENCES = np.array([-6, -7, 2, -9, -3, -9, 0, -12]) / IMAGES
CLOSE = {"rel": 1e-12, "abs": 1e-15}


@pytest.fixture(scope="module")
def comparison():
    return st.compare(ARM, BASELINE)


def test_paired_t_interval_is_scipys(comparison):
    low, high = stats.ttest_rel(ARM, BASELINE).confidence_interval(0.95)
    assert comparison.interval.low == pytest.approx(low, **CLOSE)
    assert comparison.interval.high == pytest.approx(high, **CLOSE)
    assert comparison.interval.method == "t"
    assert comparison.difference == pytest.approx(-44 / 8 / IMAGES, **CLOSE)


def test_permutation_p_is_scipys_exact_one(comparison):
    exact = stats.permutation_test(
        (ARM, BASELINE),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert comparison.p == pytest.approx(exact.pvalue, **CLOSE)
    assert comparison.exact


def test_permutation_p_by_counting(comparison):
    misses = [-6, -7, 2, -9, -3, -9, 0, -12]  # integers: no rounding anywhere
    sums = [
        sum(s * d for s, d in zip(signs, misses, strict=True))
        for signs in product((-1, 1), repeat=8)
    ]
    assert comparison.p == np.mean([abs(total) >= 44 for total in sums])


def test_monte_carlo_p_agrees_with_the_exact_one():
    rng = np.random.default_rng(3)
    differences = rng.normal(-0.0012, 0.003, 20)
    exact, is_exact = st.sign_flip_test(differences)
    # one more pair, so small that it changes no ordering that matters, forces random flips
    sampled, still_exact = st.sign_flip_test(np.append(differences, 1e-9))
    assert is_exact and not still_exact
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 99_999))


def test_monte_carlo_p_counts_the_observed_flip():
    p, exact = st.sign_flip_test(np.full(40, 0.001), permutations=999)
    assert (p, exact) == (1 / 1000, False)


def test_monte_carlo_p_counts_flips_that_reach_exactly_as_far():
    """Whole misses tie all the time: 17 differences of one sign and 7 of the other."""
    differences = np.repeat([1, -1], [17, 7]) / IMAGES
    p, exact = st.sign_flip_test(differences)
    expected = 2 * stats.binom.cdf(7, 24, 0.5)  # 0.0639; without the ties 0.0227
    assert not exact
    assert p == pytest.approx(expected, abs=4 * math.sqrt(expected / 99_999))


def test_seeds_without_a_difference_leave_the_permutation_p_exact():
    assert st.sign_flip_test([*DIFFERENCES, *np.zeros(30)]) == st.sign_flip_test(DIFFERENCES)


def test_moments_effect_size_and_correlation(comparison):
    assert comparison.arm_mean == pytest.approx(ARM.mean(), **CLOSE)
    assert comparison.baseline_mean == pytest.approx(BASELINE.mean(), **CLOSE)
    assert comparison.arm_sd == pytest.approx(stats.tstd(ARM), **CLOSE)
    assert comparison.baseline_sd == pytest.approx(stats.tstd(BASELINE), **CLOSE)
    # t = d_z * sqrt(n)
    t = stats.ttest_rel(ARM, BASELINE).statistic
    assert comparison.effect_size * math.sqrt(8) == pytest.approx(t, **CLOSE)
    assert comparison.correlation == pytest.approx(stats.pearsonr(ARM, BASELINE)[0], **CLOSE)
    expected = (ARM.var(ddof=1) + BASELINE.var(ddof=1)) / DIFFERENCES.var(ddof=1)
    assert comparison.pairing_gain == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_probability_of_improvement_with_wilsons_interval(level):
    improvement, interval = st.probability_of_improvement(ARM - BASELINE, level)
    assert improvement == 6.5 / 8  # six wins and a tie
    z = stats.norm.ppf((1 + level) / 2)
    share, n = 6.5 / 8, 8
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert interval.low == pytest.approx(centre - reach, **CLOSE)
    assert interval.high == pytest.approx(centre + reach, **CLOSE)
    assert interval.level == level
    found = st.compare(ARM, BASELINE, level=level)
    assert (found.improvement, found.improvement_interval) == (improvement, interval)


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("values", [np.tile(DIFFERENCES, 3), np.tile(DIFFERENCES, 3) ** 2 * 1e3])
def test_the_seed_interval_reaches_as_far_as_students_and_halls(values, level):
    """Hall's ends by solving for the studentized mean whose transformation is Student's t."""
    n, mean, se = len(values), values.mean(), stats.sem(values)
    a = stats.skew(values, bias=False) / math.sqrt(n)
    t = stats.t.ppf((1 + level) / 2, n - 1)

    def without_skew(x):
        return x + a * (2 * x**2 + 1) / 6 + a**2 * x**3 / 27

    high_x = optimize.brentq(lambda x: without_skew(x) - t, -99, 99)
    low_x = optimize.brentq(lambda x: without_skew(x) + t, -99, 99)
    found = st.seed_interval(values, level)
    assert found.low == pytest.approx(mean - max(t, high_x) * se, **CLOSE)
    assert found.high == pytest.approx(mean + max(t, -low_x) * se, **CLOSE)
    assert (found.method, found.level) == ("t and Hall", level)


def test_the_seed_interval_with_an_outlier_is_no_wider_than_twice_students():
    """One seed of twenty collapsed: the studentized bootstrap gives [-1.35, +1274] points."""
    points = np.append(np.linspace(-0.6, -0.4, 19), 75.5)
    student, found = st.t_interval(points), st.seed_interval(points)
    assert (student.low, student.high) == pytest.approx((-4.65, 11.25), abs=0.01)
    assert found.low == pytest.approx(student.low, **CLOSE)
    assert 26 < found.high < 27.2
    assert found.halfwidth <= 2 * student.halfwidth


def test_many_samples_have_the_intervals_of_one():
    samples = np.random.default_rng(6).exponential(size=(4, 5, 24))
    low, high = st.interval_ends(samples, 0.9)
    assert low.shape == (4, 5)
    one = st.seed_interval(samples[2, 3], 0.9)
    assert (low[2, 3], high[2, 3]) == pytest.approx((one.low, one.high), **CLOSE)


def test_bca_is_scipys(comparison):
    expected = stats.bootstrap(
        (ARM - BASELINE,), np.mean, n_resamples=9_999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert comparison.bca.low == pytest.approx(expected.low, **CLOSE)
    assert comparison.bca.high == pytest.approx(expected.high, **CLOSE)


def test_holm_by_hand():
    # sorted .01 .02 .03 .5: times 4, 3, 2, 1, made monotone
    assert st.holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06], abs=1e-15)
    assert st.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


def test_holm_is_that_of_statsmodels(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # statsmodels does in every correction: 0.1 s
    rng = np.random.default_rng(0)
    for size in range(1, 9):
        p = rng.uniform(size=size).round(2)  # ties, too
        assert st.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_intervals_of_a_factorial_have_the_level_asked_for(level):
    cells = [{"a": 0}, {"a": 1}]
    (found,) = st.factorial(cells, [BASELINE, ARM], level=level)
    expected = stats.ttest_rel(ARM, BASELINE).confidence_interval(level)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected, **CLOSE)
    assert found.interval.level == level


def test_the_experiments_alpha_sets_the_level_of_every_interval():
    """For 8 seeds, Student's quantiles at 99 and 95 % stand in the ratio 1.480."""
    labels = np.zeros(IMAGES, np.uint8)
    image = np.arange(IMAGES)

    def runs(errors):
        missed = (image < np.round(errors * IMAGES)[:, None]).astype(np.uint8)
        return st.Runs(np.arange(8), errors, None, missed)

    arms = {"arm": runs(ARM), "base": runs(BASELINE)}
    pair, strict = (
        st.compare_all(arms, [("arm", "base")], labels=labels, alpha=alpha)["arm"]
        for alpha in (0.05, 0.01)
    )
    ratio = stats.t.isf(0.005, 7) / stats.t.isf(0.025, 7)
    assert ratio == pytest.approx(1.480, abs=5e-4)
    wider = strict.counted.interval.halfwidth / pair.counted.interval.halfwidth
    assert wider == pytest.approx(ratio, rel=1e-12)
    assert strict.sound.interval == strict.counted.interval
    one, other = strict.joint.interval, pair.joint.interval
    assert (one.level, other.level) == (0.99, 0.95)
    assert one.halfwidth / other.halfwidth > 1.3  # degrees of freedom beyond the seeds' 7
    assert strict.joint.bootstrap.halfwidth > 1.2 * pair.joint.bootstrap.halfwidth
    assert strict.joint.bootstrap.level == 0.99


def test_joint_interval_by_hand():
    arm = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 1, 0], [1, 0, 1, 1, 0]], dtype=float)
    baseline = np.array([[1, 1, 0, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 0]], dtype=float)
    table = arm - baseline
    n, m = table.shape
    mean = table.mean()
    ms_seeds = m * sum((table[s].mean() - mean) ** 2 for s in range(n)) / (n - 1)
    ms_images = n * sum((table[:, i].mean() - mean) ** 2 for i in range(m)) / (m - 1)
    rest = sum(
        (table[s, i] - table[s].mean() - table[:, i].mean() + mean) ** 2
        for s in range(n)
        for i in range(m)
    ) / ((n - 1) * (m - 1))
    assert ms_images > rest > ms_seeds  # the seeds' component is 0: only the images' counts
    found = st.compare_jointly(arm, baseline, resamples=10)
    assert found.difference == pytest.approx(mean, **CLOSE)
    assert found.seed_variance == 0
    assert found.image_variance == pytest.approx((ms_images - rest) / n, **CLOSE)
    assert found.interaction_variance == pytest.approx(rest, **CLOSE)
    reach = stats.t.ppf(0.975, m - 1) * math.sqrt(ms_images / (n * m))
    assert found.interval.high - mean == pytest.approx(reach, **CLOSE)
    assert mean - found.interval.low == pytest.approx(reach, **CLOSE)


def test_joint_interval_with_all_components_against_statsmodels():
    rng = np.random.default_rng(5)
    n, m = 4, 6
    arm = rng.random((n, m)) + 0.4 * rng.normal(size=(n, 1)) + rng.normal(size=m)
    baseline = np.zeros((n, m))
    rows = pd.DataFrame(
        {
            "y": arm.ravel(),
            "seed": np.repeat(np.arange(n), m),
            "image": np.tile(np.arange(m), n),
        }
    )
    anova = anova_lm(ols("y ~ C(seed) + C(image)", rows).fit())
    ms = anova["sum_sq"] / anova["df"]
    parts = np.array([ms["C(seed)"], ms["C(image)"], -ms["Residual"]])
    df = parts.sum() ** 2 / (parts**2 / np.array([n - 1, m - 1, (n - 1) * (m - 1)])).sum()
    reach = stats.t.ppf(0.975, df) * math.sqrt(parts.sum() / (n * m))
    found = st.compare_jointly(arm, baseline, resamples=10)
    assert found.interval.halfwidth == pytest.approx(reach, rel=1e-11)
    assert found.seed_variance == pytest.approx((ms["C(seed)"] - ms["Residual"]) / m, rel=1e-11)


def test_mcnemar_by_hand():
    labels = np.zeros(20, int)
    first, second = np.zeros(20, np.uint8), np.zeros(20, np.uint8)
    first[:3] = 1  # wrong alone
    second[3:12] = 255  # no answer is wrong, too
    first[12:14], second[12:14] = 2, 3  # both wrong, differently
    found = st.mcnemar(first, second, labels)
    assert (found.both_right, found.only_first_right, found.only_second_right) == (6, 9, 3)
    assert (found.both_wrong, found.differing, found.images) == (2, 14, 20)
    assert found.difference == pytest.approx((3 - 9) / 20, **CLOSE)
    by_hand = 2 * sum(math.comb(12, k) for k in range(4)) / 2**12
    assert found.p == pytest.approx(by_hand, **CLOSE)
    assert found.p == pytest.approx(stats.binomtest(3, 12).pvalue, **CLOSE)
    # Agresti and Min: half a count in every cell, then the usual normal interval
    b, c, total = 3.5, 9.5, 22
    reach = stats.norm.ppf(0.975) * math.sqrt((b + c) - (b - c) ** 2 / total) / total
    assert found.interval.low == pytest.approx((b - c) / total - reach, **CLOSE)
    assert found.interval.high == pytest.approx((b - c) / total + reach, **CLOSE)


@pytest.mark.parametrize("n", [2, 5, 10, 30, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_power_is_statsmodels(n, alpha):
    for ratio in (0.2, 0.5, 1.0):
        paired = TTestPower().power(ratio, n, alpha)
        unpaired = TTestIndPower().power(ratio, n, alpha, ratio=1)
        if not np.isnan(paired):  # statsmodels gives NaN where the power is all but 1
            assert st.t_power(ratio, 1.0, n, alpha=alpha) == pytest.approx(paired, **CLOSE)
        if not np.isnan(unpaired):
            found = st.t_power(ratio, 1.0, n, alpha=alpha, paired=False)
            assert found == pytest.approx(unpaired, **CLOSE)
        assert 0 < st.t_power(ratio, 1.0, n, alpha=alpha) <= 1


def test_detectable_effect_and_seeds_needed_are_statsmodels_where_seeds_are_many():
    solved = TTestPower().solve_power(nobs=30, alpha=0.0125, power=0.8) * 0.004
    found = st.minimum_detectable_effect(30, 0.004, comparisons=4)
    assert found == pytest.approx(solved, rel=1e-6)  # the solver's own accuracy
    assert st.power(found, 0.004, 30, comparisons=4) == pytest.approx(0.8, **CLOSE)
    for paired, solver in ((True, TTestPower()), (False, TTestIndPower())):
        solved = solver.solve_power(0.0025 / 0.004, alpha=0.05, power=0.8)
        assert st.seeds_needed(0.0025, 0.004, paired=paired) == math.ceil(float(solved))


@pytest.mark.parametrize("n", [5, 12, 60])
@pytest.mark.parametrize("difference", [0.0, 0.003, 0.006])
def test_power_of_equivalence_is_the_integral_over_the_samples_spread(n, difference):
    margin, sd = 0.005, 0.004

    def inside(square):  # n - 1 times the sample's variance in units of the true one
        reach = stats.t.ppf(0.975, n - 1) * math.sqrt(square / (n - 1) / n) * sd
        if reach >= margin:
            return 0.0
        mean = stats.norm(difference, sd / math.sqrt(n))
        return (mean.cdf(margin - reach) - mean.cdf(reach - margin)) * stats.chi2.pdf(square, n - 1)

    last = (margin / sd / stats.t.ppf(0.975, n - 1)) ** 2 * (n - 1) * n
    expected = integrate.quad(inside, 0, min(last, stats.chi2.isf(1e-12, n - 1)), limit=200)[0]
    found = st.equivalence_power(difference, margin, sd, n)
    assert found == pytest.approx(expected, abs=1e-3)


def test_description_and_wrong_ranking_by_counting():
    found = st.describe(BASELINE)
    assert (found.n, found.best, found.worst) == (8, 97 / IMAGES, 112 / IMAGES)
    assert found.mean == pytest.approx(837 / 8 / IMAGES, **CLOSE)
    assert found.sd == pytest.approx(stats.tstd(BASELINE), **CLOSE)
    # sorted 97 99 101 104 106 108 110 112: 5 % of the way is 0.35 of the first step
    assert found.low == pytest.approx((97 + 0.35 * 2) / IMAGES, **CLOSE)
    assert found.high == pytest.approx((112 - 0.35 * 2) / IMAGES, **CLOSE)

    misses = [101, 108, 97, 112, 104, 99, 106, 110]
    # the worse arm makes five misses more: it looks better, or ties, in so many pairs
    wrong = [1.0 * (a > b + 5) + 0.5 * (a == b + 5) for a in misses for b in misses]
    assert st.chance_of_wrong_ranking(BASELINE, 5 / IMAGES) == pytest.approx(sum(wrong) / 56)
    assert st.chance_of_wrong_ranking(BASELINE, 0.0) == 0.5  # nothing to rank: a toss


def test_variance_split_is_the_covariance_of_halves():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 10, 6)
    predictions = rng.integers(0, 10, (5, 6)).astype(np.uint8)
    predictions[:, :4] = np.where(rng.random((5, 4)) < 0.6, labels[:4], predictions[:, :4])
    missed = (predictions != labels).astype(float)
    halves = []
    for half in combinations(range(6), 3):
        other = [k for k in range(6) if k not in half]
        halves.append(np.cov(missed[:, half].mean(1), missed[:, other].mean(1))[0, 1])
    found = st.split_variance(predictions, labels)
    assert found.total == pytest.approx(missed.mean(1).var(ddof=1), **CLOSE)
    assert found.rest == pytest.approx(np.mean(halves), **CLOSE)
    rates = missed.mean(0)
    unbiased = (rates * (1 - rates)).sum() / 36 * 5 / 4
    assert found.finite_test_set == pytest.approx(unbiased - found.rest / 6, **CLOSE)
    assert found.total == pytest.approx(found.finite_test_set + found.rest, **CLOSE)
    left_out = [st.split_variance(np.delete(predictions, k, 0), labels).rest for k in range(5)]
    assert found.rest_se == pytest.approx(
        math.sqrt(4 / 5 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2)), **CLOSE
    )


def test_factorial_by_hand():
    arms = [{"act": a, "init": i} for a in ("tanh", "relu") for i in ("fan", "sqrt", "he")]
    rng = np.random.default_rng(2)
    errors = dict(
        zip(
            [tuple(arm.values()) for arm in arms],
            rng.integers(80, 140, (6, 7)) / IMAGES,
            strict=True,
        )
    )
    shuffled = [4, 0, 5, 2, 1, 3]
    found = st.factorial(
        [arms[k] for k in shuffled],
        [errors[tuple(arms[k].values())] for k in shuffled],
        baseline={"act": "tanh", "init": "sqrt"},
    )
    expected = {
        ("relu",): sum(errors["relu", i] - errors["tanh", i] for i in ("fan", "sqrt", "he")) / 3,
        ("he",): sum(errors[a, "he"] - errors[a, "sqrt"] for a in ("tanh", "relu")) / 2,
        ("fan",): sum(errors[a, "fan"] - errors[a, "sqrt"] for a in ("tanh", "relu")) / 2,
        ("relu", "he"): errors["relu", "he"]
        - errors["tanh", "he"]
        - errors["relu", "sqrt"]
        + errors["tanh", "sqrt"],
        ("relu", "fan"): errors["relu", "fan"]
        - errors["tanh", "fan"]
        - errors["relu", "sqrt"]
        + errors["tanh", "sqrt"],
    }
    assert {effect.levels for effect in found} == set(expected)
    for effect in found:
        contrast = expected[effect.levels]
        t = stats.ttest_1samp(contrast, 0).confidence_interval()
        assert effect.effect == pytest.approx(contrast.mean(), rel=1e-11)
        assert effect.interval.low == pytest.approx(t.low, rel=1e-11)
        assert effect.interval.high == pytest.approx(t.high, rel=1e-11)
        assert effect.baseline == tuple({"act": "tanh", "init": "sqrt"}[f] for f in effect.factors)
    rows = [expected[effect.levels] for effect in found]
    adjusted = [effect.p_adjusted for effect in found]
    assert adjusted == pytest.approx(st.step_down(rows))
    assert adjusted == [
        pytest.approx(pair.p_adjusted)
        for pair in st.factorial(
            [arms[k] for k in range(6)],
            [errors[tuple(arms[k].values())] for k in range(6)],
            baseline={"act": "tanh", "init": "sqrt"},
        )
    ]
