"""The doubt from the test images: crossed components, McNemar, the split of the seeds' variance."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats
from statistics_rates import assert_rate, highest_rate

from lecun_ablate import statistics as st

LEVEL = 0.95


class Digits:
    """Images of their own difficulty, and two arms that find different images hard.

    An image is missed where  difficulty + arm's difficulty + seed + noise > threshold, all normal:
    an error of 5 %, a seed sd of 0.3 points, most images never missed and a few nearly always.
    """

    threshold, image_sd, arm_sd, seed_sd, noise_sd = 3.6, 2.0, 0.45, 0.05, 0.6

    def __init__(self, rng, images=2007, shift=0.0):
        self.rng, self.images, self.shift = rng, images, shift
        own = rng.normal(0, self.arm_sd, (2, images))
        self.difficulty = rng.normal(0, self.image_sd, images) + own
        self.difficulty[0] += shift

    def misses(self, seeds):
        """Return the misses (2, seeds, images) of the arm and the baseline."""
        seed = self.rng.normal(0, self.seed_sd, (2, seeds, 1))
        noise = self.rng.normal(0, self.noise_sd, (2, seeds, self.images))
        return (self.difficulty[:, None] + seed + noise > self.threshold).astype(float)

    def difference_here(self):
        """Return the true difference on these images, over endless seeds."""
        spread = np.hypot(self.seed_sd, self.noise_sd)
        rates = stats.norm.cdf((self.difficulty - self.threshold) / spread)
        return (rates[0] - rates[1]).mean()

    def difference_everywhere(self):
        """Return the true difference over endless images and seeds."""
        parts = [self.image_sd, self.arm_sd, self.seed_sd, self.noise_sd]
        rates = stats.norm.cdf((np.array([self.shift, 0]) - self.threshold) / np.linalg.norm(parts))
        return rates[0] - rates[1]


def test_the_simulated_digits_are_realistic():
    rng = np.random.default_rng(0)
    _, baseline = Digits(rng).misses(200)
    errors = baseline.mean(axis=1)
    assert errors.mean() == pytest.approx(0.05, abs=0.01)
    assert errors.std(ddof=1) == pytest.approx(0.003, abs=0.001)


def test_joint_interval_covers_new_images_and_the_seed_interval_this_test_set():
    rng = np.random.default_rng(1)
    joint, seed_here, seed_everywhere = [], [], []
    for _ in range(300):
        digits = Digits(rng, shift=-0.1)
        arm, baseline = digits.misses(10)
        found = st.compare_jointly(arm, baseline, resamples=2)
        seeds = st.t_interval(arm.mean(axis=1) - baseline.mean(axis=1))
        everywhere = digits.difference_everywhere()
        joint.append(not found.interval.excludes(everywhere))
        seed_here.append(not seeds.excludes(digits.difference_here()))
        seed_everywhere.append(not seeds.excludes(everywhere))
    assert_rate(joint, LEVEL)
    assert_rate(seed_here, LEVEL)
    assert np.mean(seed_everywhere) < 0.85  # it does not know about other images


def test_joint_interval_covers_where_the_seeds_rule():
    """Few images, seeds that differ much: the other end of the scale."""
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(600):
        seeds, images = rng.normal(0, 1, (8, 1)), rng.normal(0, 1, 60)
        table = 0.3 * seeds + 0.4 * images + rng.normal(0, 1, (8, 60))
        hits.append(not st.compare_jointly(table, 0 * table, resamples=2).interval.excludes(0))
    assert_rate(hits, LEVEL)


def test_joint_interval_is_never_narrower_than_the_seed_interval():
    rng = np.random.default_rng(12)
    for scale in (0.0, 0.05, 1.0):
        for _ in range(30):
            table = 0.1 * (rng.normal(size=(6, 40)) + scale * rng.normal(size=(6, 1)))
            joint = st.compare_jointly(table, 0 * table, resamples=2).interval
            seeds = st.t_interval(table.mean(axis=1))
            assert joint.halfwidth >= seeds.halfwidth * (1 - 1e-12)


def with_a_stray_seed(rng, seeds=20):
    """Return misses of two arms that differ little, but with one seed the first went wrong."""
    arm, baseline = Digits(rng, images=500).misses(seeds)
    arm[0, :100] = 1.0
    return arm, baseline


def test_joint_interval_contains_the_seed_interval_shown_beside_it():
    """From 20 seeds on that one follows skew, farther than Student's does."""
    rng = np.random.default_rng(13)
    labels, free = np.zeros(500, np.uint8), 0
    for _ in range(5):
        tables = with_a_stray_seed(rng)
        arms = {
            name: st.Runs(np.arange(20), missed.mean(1), None, missed.astype(np.uint8))
            for name, missed in zip(("arm", "base"), tables, strict=True)
        }
        pair = st.compare_all(arms, [("arm", "base")], labels=labels)["arm"]
        seeds, joint = pair.counted.interval, pair.joint.interval
        assert seeds.method == "t and Hall"
        assert joint.low <= seeds.low and joint.high >= seeds.high
        alone = st.compare_jointly(*tables, resamples=2).interval
        free += alone.low > seeds.low or alone.high < seeds.high
    assert free, "the case that this test is for"


@settings(max_examples=40, deadline=None)
@given(
    some.integers(2, 12), some.integers(2, 40), some.sampled_from([0.0, 0.1, 1.0, 10.0]),
    some.sampled_from([0.0, 0.3, 3.0]), some.integers(0, 2**32 - 1),
)  # fmt: skip
def test_nothing_reaches_beyond_the_widest_interval(n, m, seed_sd, image_sd, seed):
    """Where the seeds rule, the two-way bootstrap alone is narrower than the components."""
    rng = np.random.default_rng(seed)
    table = seed_sd * rng.normal(size=(n, 1)) + image_sd * rng.normal(size=m)
    table = 0.02 * (table + rng.normal(size=(n, m)))
    found = st.compare_jointly(table, 0 * table, resamples=60)
    for one in (found.interval, found.bootstrap.clipped(-1, 1)):
        assert found.widest.low <= one.low and found.widest.high >= one.high


def test_the_widest_interval_is_not_the_bootstrap_alone_where_the_seeds_rule():
    rng = np.random.default_rng(14)
    table = 0.1 * rng.normal(size=(6, 1)) + 0.001 * rng.normal(size=(6, 40))
    found = [st.compare_jointly(table, 0 * table, resamples=99, rng_seed=k) for k in range(20)]
    assert any(one.bootstrap.halfwidth < one.interval.halfwidth for one in found)
    assert all(one.widest.halfwidth >= one.interval.halfwidth for one in found)


@pytest.mark.slow
def test_two_way_bootstrap_is_conservative_where_the_images_rule():
    rng = np.random.default_rng(3)
    hits, wider = [], []
    for _ in range(250):
        digits = Digits(rng, shift=-0.1)
        found = st.compare_jointly(*digits.misses(10), resamples=500)
        hits.append(not found.widest.excludes(digits.difference_everywhere()))
        wider.append(found.bootstrap.halfwidth > found.interval.halfwidth)
    assert np.mean(hits) >= stats.binom.ppf(0.0005, 250, LEVEL) / 250
    assert np.mean(wider) > 0.8


def test_two_way_bootstrap_resample_by_resample():
    rng = np.random.default_rng(4)
    table = rng.normal(size=(3, 5))
    draw = np.random.default_rng(9)
    means = []
    for _ in range(50):
        seeds = draw.integers(0, 3, 3)
        images = draw.integers(0, 5, 5)
        means.append(np.mean([[table[s, i] for i in images] for s in seeds]))
    widen = stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975) * np.sqrt(3 / 2)
    mean = table.mean()
    found = st.compare_jointly(table, 0 * table, resamples=50, rng_seed=9).bootstrap
    assert found.low == pytest.approx(mean + widen * (np.quantile(means, 0.025) - mean), abs=1e-12)
    assert found.high == pytest.approx(mean + widen * (np.quantile(means, 0.975) - mean), abs=1e-12)


def test_variance_components_are_found():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(60):
        table = 0.3 * rng.normal(size=(20, 1)) + 0.5 * rng.normal(size=300)
        found.append(
            st.compare_jointly(
                table + rng.normal(size=(20, 300)), 0 * table + np.zeros((20, 300)), resamples=2
            )
        )
    assert np.mean([f.seed_variance for f in found]) == pytest.approx(0.09, rel=0.15)
    assert np.mean([f.image_variance for f in found]) == pytest.approx(0.25, rel=0.05)
    assert np.mean([f.interaction_variance for f in found]) == pytest.approx(1, rel=0.02)


def test_identical_arms_give_zero():
    _, missed = Digits(np.random.default_rng(6), images=50).misses(4)
    found = st.compare_jointly(missed, missed)
    assert (found.difference, found.interval.low, found.interval.high) == (0, 0, 0)
    assert (found.bootstrap.low, found.bootstrap.high) == (0, 0)


def test_misses_count_no_answer_and_diverged_runs():
    labels = np.array([3, 4, 5])
    predictions = np.array([[3, 4, 5], [3, 255, 0], [255, 255, 255]], np.uint8)
    assert st.misses(predictions, labels).tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 1]]
    diverged = np.array([False, False, True])
    assert st.misses(predictions, labels, diverged)[2].tolist() == [0.9] * 3


def test_an_experiment_with_predictions_has_both_doubts():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    missed = Digits(rng, images=300, shift=0.3).misses(8)
    predictions = np.where(missed > 0, (labels + 1) % 10, labels).astype(np.uint8)
    diverged = np.arange(8) == 2
    arms = {
        "arm": st.Runs(np.arange(8), missed[0].mean(1), None, predictions[0]),
        "base": st.Runs(np.arange(8), missed[1].mean(1), diverged, predictions[1]),
    }
    pair = st.compare_all(arms, [("arm", "base")], labels=labels)["arm"]
    assert pair.joint.difference == pytest.approx(pair.counted.difference, abs=1e-12)
    counted = missed.copy()
    counted[1, 2] = 0.9
    assert pair.joint == st.compare_jointly(*counted, seeds=pair.counted.interval)

    wrong = st.Runs(np.arange(8), missed[0].mean(1), None, predictions[1])
    with pytest.raises(ValueError, match="errors and predictions disagree"):
        st.compare_all({**arms, "arm": wrong}, [("arm", "base")], labels=labels)


def test_the_second_sentence_is_about_new_images():
    low, high = st.Interval(-0.006, -0.001, LEVEL, "-"), st.Interval(-0.006, 0.001, LEVEL, "-")
    table = np.zeros((2, 2))
    joint = st.compare_jointly(table, table, resamples=2)

    def sentence(kind, interval, holds=True):
        made = replace(joint, difference=-0.003, interval=interval)
        return st.second_sentence(st.Verdict(kind, ""), made, holds)

    assert sentence("better", low) == (
        "The same holds for new images of this kind: -0.30 points [-0.60, -0.10]."
    )
    assert sentence("better", high, holds=False) == (
        "For new images of this kind it remains open: -0.30 points [-0.60, +0.10]."
    )
    assert sentence("undecided", high) == (
        "For new images of this kind: -0.30 points [-0.60, +0.10]."
    )


# --- McNemar


def test_mcnemar_rejects_equal_runs_at_most_at_its_level():
    rng = np.random.default_rng(8)
    labels = np.zeros(2007, int)
    p = []
    for _ in range(400):
        digits = Digits(rng)
        digits.difficulty[0] = digits.difficulty[1]
        digits.seed_sd = 0.0
        first, second = digits.misses(1)[:, 0]
        p.append(st.mcnemar(first, second, labels).p)
    assert 0.01 < np.mean(np.array(p) <= 0.05) <= highest_rate(400, 0.05)


def test_mcnemar_interval_covers():
    rng = np.random.default_rng(9)
    labels, hits = np.zeros(2007, int), []
    cells = [0.9, 0.025, 0.015, 0.06]
    for _ in range(1000):
        kind = rng.choice(4, 2007, p=cells)
        found = st.mcnemar((kind == 1) | (kind == 3), (kind == 2) | (kind == 3), labels)
        hits.append(not found.interval.excludes(0.01))
    assert_rate(hits, LEVEL)


def test_mcnemar_of_equal_runs():
    labels = np.arange(30) % 10
    found = st.mcnemar(labels, labels, labels)
    assert (found.p, found.difference, found.differing) == (1.0, 0.0, 0)
    assert found.interval.low < 0 < found.interval.high  # new images could still differ


# --- the split of the seeds' variance


def predictions_from(missed):
    return missed.astype(np.uint8), np.zeros(missed.shape[1], int)


def test_independent_misses_are_all_finite_test_set_noise():
    rng = np.random.default_rng(10)
    rates = rng.beta(0.025, 0.475, 2007)
    splits = [
        st.split_variance(*predictions_from(rng.random((60, 2007)) < rates)) for _ in range(30)
    ]
    truth = (rates * (1 - rates)).sum() / 2007**2
    rest = np.array([split.rest for split in splits])
    assert abs(rest.mean()) < 4 * rest.std(ddof=1) / np.sqrt(30)
    noise = np.mean([split.finite_test_set for split in splits])
    assert noise == pytest.approx(truth, rel=0.03)
    # the standard error says how much `rest` scatters
    stated = np.mean([split.rest_se for split in splits])
    assert stated == pytest.approx(rest.std(ddof=1), rel=0.4)
    assert splits[0].finite_share > 0.5


def test_seeds_that_are_better_networks_show_in_the_rest():
    rng = np.random.default_rng(11)
    quality = rng.normal(1, 0.1, (300, 1))  # this seed's factor on every image's error rate
    rates = rng.uniform(0, 0.1, 2007)
    split = st.split_variance(*predictions_from(rng.random((300, 2007)) < rates * quality))
    truth = (0.1 * rates.mean()) ** 2
    assert abs(split.rest - truth) < 4 * split.rest_se
    assert split.rest > 4 * split.rest_se
    assert split.total == pytest.approx(split.rest + split.finite_test_set)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.misses([[1, 2]], [1, 2, 3]), r"shape \(1, 2\) and labels \(3,\)"),
        (lambda: st.misses(np.zeros((0, 3)), [1, 2, 3]), "nothing in them"),
        (lambda: st.compare_jointly(np.zeros((1, 5)), np.zeros((1, 5))), "at least 2 of each"),
        (lambda: st.compare_jointly(np.zeros((2, 5)), np.zeros((2, 4))), "expected the same"),
        (lambda: st.compare_jointly(np.full((2, 2), np.nan), np.zeros((2, 2))), "not finite"),
        (lambda: st.mcnemar([1, 2], [1], [1, 2]), "one value per image"),
        (lambda: st.split_variance([[1, 2]], [1, 2]), "1 seeds and 2 images"),
    ],
)
def test_arrays_that_make_no_sense_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
