"""Verdicts, corrections, divergence, stopping, wording, and arrays that make no sense."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lecun_ablate import statistics as st

IMAGES = 2007


def comparison(difference, halfwidth, n=10, p=0.5, sd=0.004):
    """Return a comparison with the given difference and interval."""
    made = st.compare(np.full(n, 0.05), np.full(n, 0.05), resamples=9)
    interval = st.Interval(difference - halfwidth, difference + halfwidth, 0.95, "t")
    return replace(made, difference=difference, interval=interval, p=p, sd=sd)


# --- verdicts


def test_better_and_worse_with_the_interval():
    better = st.decide(comparison(-0.0031, 0.0025, p=0.01))
    assert (better.kind, better.more_seeds) == ("better", None)
    assert better.text == "better by 0.31 points [-0.56, -0.06]"
    worse = st.decide(comparison(0.0031, 0.0025, p=0.01))
    assert worse.kind == "worse"
    assert worse.text == "worse by 0.31 points [+0.06, +0.56]"


@pytest.mark.parametrize(
    ("p", "p_adjusted", "halfwidth", "kind"),
    [
        (0.05, None, 0.006, "better"),
        (0.051, None, 0.006, "undecided"),
        (0.01, 0.06, 0.006, "undecided"),  # the corrected p decides
        (0.01, 0.04, 0.0069, "better"),
        (0.01, 0.04, 0.0071, "undecided"),  # the interval holds 0
    ],
)
def test_a_difference_takes_both_the_corrected_p_and_the_interval(p, p_adjusted, halfwidth, kind):
    assert st.decide(comparison(-0.007, halfwidth, p=p), p_adjusted).kind == kind


def test_no_difference_names_the_largest_one_that_is_left():
    verdict = st.decide(comparison(-0.001, 0.003))
    assert verdict.kind == "no difference"
    assert verdict.text == "no difference larger than 0.40 points"
    assert st.decide(comparison(-0.001, 0.00301)).text == "no difference larger than 0.41 points"
    assert st.decide(comparison(-0.001, 0.003), margin=0.0039).kind == "undecided"
    assert st.decide(comparison(-0.001, 0.003), margin=0.0041).kind == "no difference"


def test_a_certain_difference_may_be_smaller_than_matters():
    small = st.decide(comparison(-0.0031, 0.0014, p=0.01))
    assert (small.kind, small.text) == ("better", "better, but by less than matters (at most 0.45)")
    assert st.decide(comparison(0.0031, 0.0014, p=0.01)).text == (
        "worse, but by less than matters (at most 0.45)"
    )
    assert st.decide(comparison(-0.0031, 0.0014, p=0.01), margin=0.004).text == (
        "better by 0.31 points [-0.45, -0.17]"
    )


def test_more_seeds_are_planned_for_the_level_of_the_next_look():
    one = comparison(-0.0045, 0.0055, sd=0.008)
    now, later = st.decide(one), st.decide(one, next_alpha=st.look_level(2))
    assert later.more_seeds == st.seeds_needed(0.0045, 0.008, alpha=0.05 * 0.64 * 0.36) - 10
    assert later.more_seeds > now.more_seeds
    assert st.decide(st.compare([0.05], [0.06]), next_alpha=0.01).more_seeds == 7


def test_too_few_seeds_are_undecided_whatever_they_show():
    assert st.fewest_seeds(1) == 6  # 2 / 2^6 = 0.031
    assert st.decide(comparison(-0.02, 0.001, n=5, p=0.01)).kind == "undecided"
    assert st.decide(comparison(-0.02, 0.001, n=6, p=0.01)).kind == "better"
    floor = {"smallest": 0.0625, "comparisons": 2}  # what Holm makes of 2 / 2^6 for two
    assert st.decide(comparison(-0.02, 0.001, n=6, p=0.01), **floor).kind == "undecided"
    assert st.decide(comparison(0.0, 0.001, n=5)).kind == "undecided"
    assert st.decide(comparison(0.0, 0.001, n=6)).kind == "no difference"


def test_undecided_says_how_many_more_seeds_would_tell():
    # a difference of 0.45 points: 0.45 from 0, but only 0.05 from the margin
    verdict = st.decide(comparison(-0.0045, 0.0055, sd=0.008))
    needed = st.seeds_needed(0.0045, 0.008)
    assert verdict.more_seeds == needed - 10 > 0
    assert verdict.text == f"undecided: {needed - 10} more seeds would probably decide it"
    # 0.05 points: far from the margin, so narrowing towards no difference is the shorter way
    verdict = st.decide(comparison(-0.0005, 0.0055, sd=0.008))
    assert verdict.more_seeds == st.seeds_for_equivalence(0.0005, 0.005, 0.008) - 10
    assert verdict.more_seeds < st.seeds_needed(0.0005, 0.008) - 10
    # with more comparisons a significant difference takes more seeds
    assert st.decide(comparison(-0.0049, 0.0055, sd=0.008), comparisons=4).more_seeds > (
        st.decide(comparison(-0.0049, 0.0055, sd=0.008)).more_seeds
    )


def test_more_seeds_do_tell_in_most_experiments():
    """Simulated: an experiment that was undecided, continued as it was told."""
    rng = np.random.default_rng(8)
    mean, sd = -0.002, 0.006
    sample = rng.normal(0, 1, 10)
    sample = mean + sd * (sample - sample.mean()) / sample.std(ddof=1)
    verdict = st.decide(st.compare(0.05 + sample, np.full(10, 0.05), resamples=9))
    assert verdict.kind == "undecided"
    n = 10 + verdict.more_seeds
    told = []
    for _ in range(200):
        again = rng.normal(mean, sd, n)
        found = comparison(again.mean(), st.t_interval(again).halfwidth, n=n)
        found = replace(found, p=st.sign_flip_test(again, permutations=199)[0])
        told.append(st.decide(found).kind != "undecided")
    assert np.mean(told) > 0.72


def test_a_single_seed():
    alone = st.compare([0.05], [0.06])
    assert (alone.n, alone.interval, alone.bca, alone.p) == (1, None, None, 1.0)
    assert alone.improvement == 1.0 and alone.improvement_interval is None
    assert alone.effect_size is None and alone.correlation is None
    assert "one seed" in alone.note
    verdict = st.decide(alone)
    assert (verdict.kind, verdict.more_seeds) == ("undecided", 5)
    assert verdict.text == "undecided: one seed does not show the spread; 6 seeds could decide it"


@pytest.mark.parametrize("n", [2, 6, 10, 25])
def test_identical_arms_give_zero_and_never_nan(n):
    errors = np.linspace(0.04, 0.06, n)
    same = st.compare(errors, errors)
    assert (same.difference, same.p, same.effect_size, same.sd) == (0, 1, 0, 0)
    assert (same.interval.low, same.interval.high) == (0, 0)
    assert same.improvement == 0.5
    assert same.identical and same.pairing_gain is None
    numbers = [v for v in asdict(same).values() if isinstance(v, float)]
    assert all(math.isfinite(number) for number in numbers)
    verdict = st.decide(same)
    if n >= 6:
        assert verdict.text == f"no difference with any of {n} seeds"
    else:
        assert verdict.kind == "undecided" and verdict.more_seeds == 6 - n


def test_identical_arms_stay_zero_after_rounding():
    thirds = np.array([1, 2, 3]) / 3 * 0.1
    noisy = thirds * (1 + 2e-16)
    assert st.compare(noisy, thirds).identical


def test_a_constant_difference_is_no_certainty():
    """Three seeds with the same difference: an interval of no width, but no verdict."""
    constant = st.compare(np.array([0.05, 0.06, 0.04]) + 0.01, [0.05, 0.06, 0.04])
    assert constant.interval.halfwidth == pytest.approx(0, abs=1e-12)
    assert constant.effect_size is None
    assert constant.p == 0.25
    assert st.decide(constant).kind == "undecided"


def test_skew_is_followed_from_twenty_seeds_on():
    differences = np.random.default_rng(0).exponential(size=20)
    assert st.seed_interval(differences[:19]) == st.t_interval(differences[:19])
    found, student = st.seed_interval(differences), st.t_interval(differences)
    assert found.method == "t and Hall"
    assert found.low == student.low and found.high > student.high


@settings(max_examples=100, deadline=None)
@given(
    some.lists(some.integers(-IMAGES, IMAGES), min_size=2, max_size=40),
    some.floats(0.5, 0.999),
)
def test_no_seed_interval_is_wider_than_twice_students(values, level):
    values = np.array(values) / IMAGES
    found, student = st.seed_interval(values, level), st.t_interval(values, level)
    assert found.low <= student.low + 1e-15 and found.high >= student.high - 1e-15
    assert found.halfwidth <= 2 * student.halfwidth + 1e-15


# --- an experiment's comparisons


def runs(misses, seeds=None, diverged=None, predictions=None, collapsed=None):
    misses = np.asarray(misses)
    seeds = np.arange(len(misses)) if seeds is None else seeds
    return st.Runs(seeds, misses / IMAGES, diverged, predictions, collapsed)


BASE = [100, 104, 98, 102, 107, 95, 101, 99]
GOOD = [80, 83, 79, 83, 85, 76, 80, 81]
SAME = [101, 103, 98, 103, 106, 95, 102, 98]


def test_an_experiment_is_corrected_over_all_its_comparisons():
    result = st.compare_all(
        {"tanh": runs(BASE), "relu": runs(GOOD), "lisht": runs(SAME)},
        [("relu", "tanh"), ("lisht", "tanh")],
    )
    relu, lisht = result["relu"], result["lisht"]
    assert relu.counted == st.compare(np.array(GOOD) / IMAGES, np.array(BASE) / IMAGES)
    tables = np.array([GOOD, SAME]) - np.array(BASE)
    assert [relu.p_adjusted, lisht.p_adjusted] == pytest.approx(st.step_down(tables / IMAGES))
    assert relu.counted.p <= relu.p_adjusted <= 2 * relu.counted.p
    assert result.correction == "step-down max-t"
    assert (relu.verdict.kind, lisht.verdict.kind) == ("better", "no difference")
    assert result.warning is None
    assert relu.sound == relu.counted and relu.failure_note is None
    assert not relu.failures_matter and relu.joint is None
    with pytest.raises(KeyError):
        result["gelu"]


def test_the_corrected_p_decides_the_verdict():
    slightly = runs([91, 96, 93, 103, 103, 96, 96, 93])  # p = 0.031
    arms = {"tanh": runs(BASE), "relu": slightly, "lisht": runs(SAME)}
    alone = st.compare_all(arms, [("relu", "tanh")])["relu"]
    among = st.compare_all(arms, [("relu", "tanh"), ("lisht", "tanh")])["relu"]
    assert alone.counted == among.counted
    assert (alone.verdict.kind, among.verdict.kind) == ("better", "no difference")
    excluded = (alone.verdict_sound.kind, among.verdict_sound.kind)
    assert excluded == ("better", "no difference")


def test_a_ladder_compares_each_step_with_the_one_before():
    arms = {"a": runs(BASE), "b": runs(GOOD), "c": runs(np.array(GOOD) + 1)}
    result = st.compare_all(arms, [("b", "a"), ("c", "b")])
    assert result["c"].baseline == "b"
    assert result["c"].counted.difference == pytest.approx(1 / IMAGES)


def test_runs_pair_up_by_seed_and_not_by_row():
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    shuffled = runs(np.array(GOOD)[order], seeds=np.array(order))
    extra = runs([*BASE, 90], seeds=[*range(8), 99])
    found = st.compare_all({"a": shuffled, "b": extra}, [("a", "b")])["a"].counted
    assert found == st.compare(np.array(GOOD) / IMAGES, np.array(BASE) / IMAGES)


def test_an_experiment_of_one_arm_has_nothing_to_compare():
    result = st.compare_all({"tanh": runs(BASE[:2])}, [])
    assert result.pairs == () and result.warning is None


def test_common_seeds_of_many_arms():
    seeds = [[3, 1, 2, 7], [7, 2, 9, 3], [2, 3, 7, 0]]
    arms = [runs(np.array(row) * 10, seeds=row) for row in seeds]
    for taken in st.common(*arms):
        assert taken.seeds.tolist() == [2, 3, 7]
        assert (taken.errors * IMAGES).round().tolist() == [20, 30, 70]


def test_too_few_seeds_are_said_so_in_words():
    arms = {name: runs(values[:5]) for name, values in {"a": BASE, "b": GOOD, "c": SAME}.items()}
    warning = st.compare_all(arms, [("b", "a"), ("c", "a")]).warning
    assert warning == (
        "With 5 seeds and 2 comparisons no result could be significant at 0.05, however large "
        "the difference: the smallest possible p, corrected, is 0.062. It takes at least 6 seeds."
    )
    arms = {name: runs(values[:6]) for name, values in {"a": BASE, "b": GOOD, "c": SAME}.items()}
    assert st.compare_all(arms, [("b", "a"), ("c", "a")]).warning is None
    # with a failed run, Holm's correction asks for one more
    arms["c"] = runs(SAME[:6], collapsed=np.arange(6) == 2)
    found = st.compare_all(arms, [("b", "a"), ("c", "a")])
    assert found.correction == "Holm"
    assert found.warning.endswith("is 0.062. It takes at least 7 seeds.")


def fewer_seeds_of_one_arm():
    """Return an experiment: 20 seeds of x, 6 of y, and all of y's are better."""
    rng = np.random.default_rng(1)
    base = np.linspace(100, 120, 20).round()
    arms = {"base": runs(base), "x": runs(base - 40 + rng.integers(0, 3, 20)),
            "y": runs(base[:6] - 40 + rng.integers(0, 3, 6))}  # fmt: skip
    return arms, [("x", "base"), ("y", "base")]


def test_each_comparison_has_its_own_number_of_seeds():
    result = st.compare_all(*fewer_seeds_of_one_arm())
    assert result["y"].counted.n == 6 < result.fewest_seeds == 7
    assert result["y"].p_adjusted == 2 / 2**6 == result["y"].smallest_p  # Holm: x comes first
    assert result["y"].verdict.kind == "better"
    assert result.too_few == () and result.warning is None


def test_comparisons_that_cannot_be_significant_are_named():
    arms, pairs = fewer_seeds_of_one_arm()
    arms["z"] = runs([70, 71, 72, 73])
    result = st.compare_all(arms, [*pairs, ("z", "base")])
    assert result["x"].verdict.kind == "better"
    assert [pair.arm for pair in result.too_few] == ["y", "z"]
    # z, which has fewer seeds, may not come before y
    assert (result["y"].smallest_p, result["z"].smallest_p) == (2 * 2 / 2**6, 2 / 2**4)
    assert result.warning.startswith("With 4 to 6 seeds and 3 comparisons no result of y, z could")
    assert {result[arm].verdict.kind for arm in "yz"} == {"undecided"}
    alone = st.compare_all(arms, [("x", "base"), ("z", "base")])
    assert alone.warning.startswith("With 4 seeds and 2 comparisons no result of z could be")


@settings(max_examples=15, deadline=None)
@given(some.lists(some.integers(1, 12), min_size=1, max_size=5), some.randoms())
def test_no_adjusted_p_is_below_the_least_that_the_seeds_allow(numbers, random):
    """And it is met where every seed of every comparison points the same way."""
    base = np.array([random.randrange(80, 120) for _ in range(12)])
    arms = {"base": runs(base)}
    arms |= {str(k): runs(base[:n] - random.randrange(1, 9)) for k, n in enumerate(numbers)}
    result = st.compare_all(arms, [(str(k), "base") for k in range(len(numbers))])
    for pair in result.pairs:
        assert pair.p_adjusted == pair.smallest_p
        assert (pair.verdict.kind == "better") == (pair.p_adjusted <= 0.05)
    for k, n in enumerate(numbers):
        arms[str(k)] = runs([random.randrange(80, 120) for _ in range(n)])
    for pair in st.compare_all(arms, [(str(k), "base") for k in range(len(numbers))]).pairs:
        assert pair.p_adjusted >= pair.smallest_p


def test_diverged_runs_count_as_guesses_and_the_change_of_verdict_is_said():
    diverged = np.array([True] + [False] * 7)
    broken = np.array(GOOD, dtype=float)
    broken[0] = np.nan
    arms = {"tanh": runs(BASE), "relu": runs(broken, diverged=diverged)}
    pair = st.compare_all(arms, [("relu", "tanh")])["relu"]
    assert pair.counted.n == 8 and pair.sound.n == 7
    assert pair.counted.arm_mean == pytest.approx((0.9 + sum(GOOD[1:]) / IMAGES) / 8)
    assert pair.sound == st.compare(np.array(GOOD[1:]) / IMAGES, np.array(BASE[1:]) / IMAGES)
    assert (pair.verdict.kind, pair.verdict_sound.kind) == ("undecided", "better")
    assert pair.failures_matter
    assert pair.conclusion == (
        f"over all runs {pair.verdict.text}; among sound runs {pair.verdict_sound.text}"
    )
    assert pair.failure_note == (
        "relu failed with 1 of 8: 12 % [0, 53] (1 diverged); equal failure rates: p = 1; a "
        "diverged run counts as error 0.9; among sound runs, the difference is "
        f"{st.points(pair.sound.difference)} {st.span(pair.sound.interval)} over 7 seeds "
        f"and the verdict another: {pair.verdict_sound.text}"
    )


def test_collapsed_runs_count_with_their_own_error_and_are_left_out_of_the_sound():
    collapsed = np.arange(8) == 5
    errors = np.where(collapsed, 1660, GOOD)
    arms = {"tanh": runs(BASE), "relu": runs(errors, collapsed=collapsed)}
    result = st.compare_all(arms, [("relu", "tanh")])
    pair = result["relu"]
    assert pair.counted.arm_mean == pytest.approx(errors.mean() / IMAGES)
    kept = np.array(GOOD)[~collapsed] / IMAGES, np.array(BASE)[~collapsed] / IMAGES
    assert pair.sound == st.compare(*kept)
    assert (pair.failures.arm.failed, pair.failures.baseline.failed) == (1, 0)
    assert pair.failure_note.startswith(
        "relu failed with 1 of 8: 12 % [0, 53] (1 collapsed); equal failure rates: p = 1; among"
    )
    assert pair.over_all == st.interval_with_failures(
        errors / IMAGES, np.array(BASE) / IMAGES, collapsed, np.zeros(8, bool)
    )


def test_a_seed_with_which_only_the_baseline_diverged_is_left_out_too():
    diverged = np.arange(8) == 3
    arms = {"tanh": runs(BASE, diverged=diverged), "relu": runs(GOOD)}
    pair = st.compare_all(arms, [("relu", "tanh")])["relu"]
    assert (pair.counted.n, pair.sound.n) == (8, 7)
    kept = np.array(GOOD)[~diverged] / IMAGES, np.array(BASE)[~diverged] / IMAGES
    assert pair.sound == st.compare(*kept)


def test_failures_everywhere_leave_no_sound_run():
    arms = {"tanh": runs(BASE), "relu": runs([np.nan] * 8, diverged=np.ones(8, bool))}
    pair = st.compare_all(arms, [("relu", "tanh")])["relu"]
    assert pair.verdict.kind == "worse"
    assert pair.sound is None and pair.verdict_sound is None and pair.failures_matter
    assert pair.over_all is None
    assert pair.conclusion == (
        f"{pair.verdict.text}; with every seed, at least one of the arms failed"
    )
    assert pair.failure_note.endswith("without failed runs, nothing is left to compare")


def test_failures_that_change_nothing():
    diverged = np.arange(12) < 6
    bad = 200.0 + np.arange(12)
    arms = {"tanh": runs(100 + np.arange(12) % 5), "relu": runs(bad, diverged=diverged)}
    pair = st.compare_all(arms, [("relu", "tanh")])["relu"]
    assert pair.verdict.kind == pair.verdict_sound.kind == "worse"
    found = f"+5.31 points {st.span(pair.sound.interval)}"
    assert pair.conclusion == f"{pair.verdict.text}; the same among sound runs: {found}"
    assert pair.failure_note == (
        "relu failed with 6 of 12: 50 % [21, 79] (6 diverged); equal failure rates: p = 0.031; a "
        "diverged run counts as error 0.9; among sound runs, the difference is "
        f"{found} over 6 seeds and the verdict the same"
    )


def test_the_note_names_only_arms_of_which_a_run_failed():
    def note(arm, baseline, collapsed=0):
        where = [np.arange(8) < number for number in (arm, baseline)]
        gone = np.arange(8) >= 8 - collapsed
        arms = {"relu": runs(GOOD, diverged=where[0], collapsed=gone),
                "tanh": runs(BASE, diverged=where[1])}  # fmt: skip
        return st.compare_all(arms, [("relu", "tanh")])["relu"].failure_note

    assert note(2, 1).startswith(
        "relu failed with 2 of 8: 25 % [3, 66] (2 diverged); "
        "tanh failed with 1 of 8: 12 % [0, 53] (1 diverged); equal failure rates: p = 1;"
    )
    assert note(0, 1).startswith("tanh failed with 1 of 8")
    assert "(1 diverged, 2 collapsed)" in note(1, 0, collapsed=2)
    assert note(0, 0) is None


def test_a_verdict_names_the_failures_that_no_seed_has_met():
    """None of 8 runs failed, so up to 32 % may; a gain is outweighed by far fewer."""
    arms = {"tanh": runs(BASE), "relu": runs(GOOD), "lisht": runs(SAME)}
    result = st.compare_all(arms, [("relu", "tanh"), ("lisht", "tanh"), ("tanh", "relu")])
    better, same, worse = result.pairs
    gain, cost = -better.counted.difference, 0.9 - better.counted.arm_mean
    assert better.conclusion == (
        f"{better.verdict.text} while no run fails (at most 32 % do; "
        f"{100 * gain / cost:.2g} % would outweigh it)"
    )
    assert same.conclusion.endswith(
        "while no run fails (at most 32 % do; 0.59 % more in one arm would matter)"
    )
    # the arm that is worse could be the one that fails less: tanh - relu
    assert worse.conclusion.endswith(better.conclusion.split("while")[1])
    undecided = st.compare_all({name: arms[name].take(np.arange(5)) for name in arms},
                               [("relu", "tanh")])["relu"]  # fmt: skip
    assert undecided.conclusion == undecided.verdict.text


def test_a_verdict_that_no_failure_rate_in_doubt_could_turn_names_none():
    rng = np.random.default_rng(0)
    base = 1000 + rng.integers(0, 9, 200)  # 50 points worse: outweighed at 60 %
    arms = {"base": runs(base), "arm": runs(base - 990 - rng.integers(0, 9, 200))}
    pair = st.compare_all(arms, [("arm", "base")])["arm"]
    assert pair.verdict.kind == "better"
    assert pair.conclusion == pair.verdict.text


def test_an_arm_that_fails_unseen_is_never_called_better_without_a_word():
    """6 points worse on average, for 1 run in 10 collapses; 2 points better otherwise."""
    rng = np.random.default_rng(1)
    better, named = 0, 0
    for _ in range(200):
        base = rng.normal(0.06, 0.003, 10)
        collapsed = rng.random(10) < 0.1
        arm = np.where(collapsed, 0.84, base - 0.02 + rng.normal(0, 0.004, 10))
        arms = {"base": st.Runs(range(10), base),
                "arm": st.Runs(range(10), arm, collapsed=collapsed)}  # fmt: skip
        pair = st.compare_all(arms, [("arm", "base")])["arm"]
        if pair.verdict.kind == "better":
            better += 1
            named += "while no run fails (at most 26 % do" in pair.conclusion
    assert 0.2 < better / 200 < 0.5  # as often as no run happens to collapse
    assert named == better


def test_two_arms_that_diverged_with_every_seed_are_not_the_same():
    nothing = runs([np.nan] * 8, diverged=np.ones(8, bool))
    pair = st.compare_all({"tanh": nothing, "relu": nothing}, [("relu", "tanh")])["relu"]
    assert pair.verdict == st.BOTH_DIVERGED
    assert pair.verdict.text == "undecided: both arms diverged with every seed"
    assert pair.sound is None and pair.verdict_sound is None


# --- power, stopping, wording


def test_power_analysis_of_a_comparison():
    rng = np.random.default_rng(1)
    shared = rng.normal(0.05, 0.003, 12)
    pair = st.compare(shared + rng.normal(0, 0.001, 12), shared + rng.normal(0, 0.001, 12))
    found = st.analyse_power(pair, 0.0025, comparisons=4)
    assert found.paired == st.seeds_needed(0.0025, pair.sd, comparisons=4)
    assert found.paired < found.unpaired  # the arms are strongly correlated
    low, high = st.sd_interval(pair.sd, 12)
    assert low < pair.sd < high
    assert found.paired_range[0] <= found.paired <= found.paired_range[1]
    assert found.power == st.power(0.0025, pair.sd, 12, comparisons=4)
    assert found.detectable == st.minimum_detectable_effect(12, pair.sd, comparisons=4)
    assert found.fewest == 6
    low, high = found.detectable_range
    assert low < found.detectable < high
    assert high / found.detectable == pytest.approx(st.sd_interval(pair.sd, 12)[1] / pair.sd)
    with pytest.raises(ValueError, match="one seed"):
        st.analyse_power(st.compare([0.1], [0.2]), 0.0025)


def test_unpaired_seeds_are_planned_with_the_spread_of_both_arms():
    """With sds of 0.2 and 0.6 points, 0.25 points take 52 seeds per arm, not the first's 12."""
    unit = math.sqrt(19 / 20)  # so that 20 values of +-unit have an sd of 1
    arm, baseline = (
        0.05 + 0.002 * unit * np.tile([-1, 1], 10),
        0.05 + 0.006 * unit * np.repeat([-1, 1], 10),
    )
    pair = st.compare(arm, baseline)
    assert (pair.arm_sd, pair.baseline_sd) == pytest.approx((0.002, 0.006))
    assert st.seeds_needed(0.0025, 0.002, paired=False) == 12
    assert st.analyse_power(pair, 0.0025).unpaired == 52
    assert st.analyse_power(st.compare(baseline, arm), 0.0025).unpaired == 52


def test_planned_seeds_can_reach_significance_at_all():
    assert st.seeds_needed(0.1, 0.001) == 6
    assert st.seeds_needed(0.1, 0.001, comparisons=4) == 6  # all four may be significant at once
    assert st.seeds_needed(0.1, 0.001, paired=False) == 4  # 2 / C(8, 4) = 0.029
    assert st.seeds_needed(0.1, 0.0) == 6
    assert st.seeds_needed(1e-9, 0.1) == 1_000_000  # that many or more


def test_seeds_table_pairs_by_the_correlation():
    table = st.seeds_table(0.003, correlation=0.5)
    assert [row.effect for row in table] == [0.01, 0.005, 0.0025, 0.001]
    for row in table:
        assert row.paired == st.seeds_needed(row.effect, 0.003)  # sd sqrt(2 (1 - 0.5)) = sd
        assert row.unpaired == st.seeds_needed(row.effect, 0.003, paired=False)
    assert table[3].paired < table[3].unpaired


def test_sd_interval_covers():
    rng = np.random.default_rng(3)
    sds = rng.normal(0, 0.003, (2000, 8)).std(axis=1, ddof=1)
    low, high = np.transpose([st.sd_interval(sd, 8) for sd in sds])
    assert np.mean((low <= 0.003) & (high >= 0.003)) == pytest.approx(0.95, abs=0.016)


def test_seeds_are_added_in_blocks_until_all_intervals_are_narrow():
    rule = st.UntilNarrow(halfwidth=0.002, at_most=45)
    assert rule.seeds_to_add(0, []) == 20
    assert rule.seeds_to_add(12, [0.0001]) == 8  # never a look before 20
    assert rule.seeds_to_add(20, [0.001, 0.0021]) == 10
    assert rule.seeds_to_add(20, [0.001, 0.002]) == 0
    assert rule.seeds_to_add(30, [float("nan")]) == 10
    assert rule.seeds_to_add(40, [0.1]) == 5
    assert rule.seeds_to_add(45, [0.1]) == 0
    assert st.UntilNarrow(halfwidth=0.002, at_most=7).seeds_to_add(0, []) == 7
    patient = st.UntilNarrow(halfwidth=0.002, at_most=100, at_least=60)
    assert patient.seeds_to_add(0, []) == 60
    assert patient.seeds_to_add(20, [0.0001]) == 40
    assert patient.seeds_to_add(60, [0.0001]) == 0


def test_the_levels_of_all_looks_add_up_to_alpha():
    levels = [st.look_level(k) for k in range(1, 60)]
    assert levels[:3] == pytest.approx([0.032, 0.01152, 0.0041472])
    assert sum(levels) == pytest.approx(0.05)
    assert st.look_level(1, 0.01) == pytest.approx(0.0064)
    # six seeds, or eight among four comparisons after Holm, are still enough at the first look
    assert st.fewest_seeds(1, levels[0]) == 6 and st.fewest_seeds(4, levels[0]) == 8


def test_a_look_decides_at_its_level_with_intervals_to_match():
    slightly = runs([91, 96, 93, 103, 103, 96, 96, 93])  # p = 0.031
    arms = {"tanh": runs(BASE), "relu": slightly}
    first, second = (st.compare_all(arms, [("relu", "tanh")], look=look) for look in (1, 2))
    assert (first.alpha, first.level_note) == (0.032, "first look: level 0.032")
    assert second.level_note == "second look: level 0.012"
    assert first["relu"].verdict.kind == "better"
    assert second["relu"].verdict.kind != "better"
    for result, level in ((first, 0.968), (second, 1 - 0.01152)):
        pair = result["relu"]
        assert pair.counted.interval.level == pytest.approx(level)
        assert pair.counted.interval == st.t_interval(
            (slightly.errors - arms["tanh"].errors), pair.counted.interval.level
        )
    assert st.compare_all(arms, [("relu", "tanh")]).level_note == "level 0.05"


def test_numbers_are_written_as_people_read_them():
    assert st.percent(0.0502) == "5.02 %"
    assert st.points(-0.0031) == "-0.31 points"
    assert st.points(0.0031) == "+0.31 points"
    assert st.points(-0.00001) == st.points(0.0) == "0.00 points"
    assert st.span(st.Interval(-0.0062, -0.0001, 0.95, "t")) == "[-0.62, -0.01]"
    assert st.span(None) == "no interval"
    assert st.p_value(0.0004) == "p < 0.001"
    assert st.p_value(0.0123) == "p = 0.012"


# --- what holds for any numbers

misses = some.lists(
    some.tuples(some.integers(0, IMAGES), some.integers(0, IMAGES)), min_size=1, max_size=12
)


@settings(max_examples=50, deadline=None)
@given(misses)
def test_swapping_the_arms_mirrors_everything(pairs):
    arm, baseline = np.transpose(pairs) / IMAGES
    one = st.compare(arm, baseline, resamples=19)
    other = st.compare(baseline, arm, resamples=19)
    assert one.p == other.p
    assert one.difference == pytest.approx(-other.difference, abs=1e-15)
    assert one.improvement == pytest.approx(1 - other.improvement)
    if one.interval:
        assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-15)
    for value in asdict(one).values():
        assert not (isinstance(value, float) and math.isnan(value))
    assert one.interval is None or one.interval.low <= one.difference <= one.interval.high
    assert st.decide(one).kind in ("better", "worse", "no difference", "undecided")


@settings(max_examples=50, deadline=None)
@given(misses, some.randoms())
def test_the_order_of_the_seeds_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (st.compare(*(np.transpose(p) / IMAGES), resamples=19) for p in (pairs, shuffled))
    assert one.p == other.p
    assert one.difference == pytest.approx(other.difference, abs=1e-15)
    if one.interval:
        assert one.interval.halfwidth == pytest.approx(other.interval.halfwidth, abs=1e-13)


def test_the_same_arguments_give_the_same_numbers():
    rng = np.random.default_rng(0)
    arm, baseline = rng.normal(0.05, 0.003, (2, 30))
    assert st.compare(arm, baseline) == st.compare(arm, baseline)
    other = st.compare(arm, baseline, rng_seed=1)
    assert other.bca != st.compare(arm, baseline).bca
    assert other.p != st.compare(arm, baseline).p


# --- arrays that make no sense


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.compare([0.1, 0.2], [0.1]), "arm has 2 seeds and baseline has 1"),
        (lambda: st.compare([0.1, float("nan")], [0.1, 0.2]), "arm: row 1 is nan"),
        (lambda: st.compare([0.1, 0.2], [0.1, 5.0]), "baseline: row 1 is 5.0"),
        (lambda: st.compare([], []), r"arm: expected one error per seed, got shape \(0,\)"),
        (lambda: st.compare([[0.1]], [[0.1]]), r"got shape \(1, 1\)"),
        (lambda: st.t_interval([0.1, float("inf")]), "row 1 is inf"),
        (lambda: st.t_interval([0.1, 0.2], 95), "level is 95"),
        (lambda: st.holm([0.1, float("nan")]), "from 0 to 1"),
        (lambda: st.decide(comparison(0, 1), margin=0), "margin is 0"),
        (lambda: st.power(-0.1, 0.1, 5), "effect is -0.1"),
        (lambda: st.t_power(0.1, -0.1, 5), "sd is -0.1"),
        (lambda: st.equivalence_power(0.0, 0.0, 0.1, 5), "effect is 0.0"),
        (lambda: st.seeds_needed(0.1, float("nan")), "sd is nan"),
        (lambda: st.seeds_needed(0.1, 0.1, target=80), "target is 80"),
        (lambda: st.seeds_needed(0.1, 0.1, comparisons=0), "comparisons is 0"),
        (lambda: st.seeds_table(0.003, 1.5), "correlation is 1.5"),
        (lambda: st.UntilNarrow(0.0, 100), "halfwidth is 0.0"),
        (lambda: st.UntilNarrow(0.2, 1), "at_most is 1"),
        (lambda: st.UntilNarrow(0.2, 100, 19), "at_least is 19; expected 20 seeds or more"),
        (lambda: st.UntilNarrow(0.2, 50, 60), "at_least is 60, above at_most, 50"),
        (lambda: st.look_level(0), "look is 0; expected 1"),
        (lambda: st.shown_when_called(0.1, 0.0, 10), "expected 2 seeds or more, and a spread"),
        (lambda: st.Runs([1, 2], [0.1, 0.2], collapsed=[1, 0]), "collapsed: expected 2 booleans"),
        (lambda: st.chance_of_wrong_ranking([0.1]), "one seed"),
        (lambda: st.chance_of_wrong_ranking([0.1, 0.2], -1), "difference is -1"),
        (lambda: st.Runs([1, 1], [0.1, 0.2]), "expected a row of different seeds"),
        (lambda: st.Runs([1, 2], [0.1]), "for 2 seeds"),
        (lambda: st.Runs([1, 2], [0.1, 0.2], [True]), "diverged: expected 2 booleans"),
        (lambda: st.Runs([1, 2], [0.1, 0.2], None, [[1, 2]]), r"expected \(2, images\)"),
        (lambda: st.compare_all({"a": runs(BASE)}, [("a", "b")]), "arm 'b' has no runs"),
        (
            lambda: st.compare_all({"a": runs([1], [0]), "b": runs([1], [1])}, [("a", "b")]),
            "'a' and 'b' have no seed in common",
        ),
        (lambda: st.factorial([], []), "no arms"),
        (lambda: st.factorial([{"a": 1}, {"a": 1}], [[0.1], [0.1]]), "one occurs twice"),
        (lambda: st.factorial([{"a": 1}, {"b": 2}], [[0.1], [0.1]]), "each of \\['a'\\]"),
        (
            lambda: st.factorial(
                [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}], [[0.1]] * 3
            ),
            "{'a': 2, 'b': 2} is missing",
        ),
        (lambda: st.factorial([{"a": 1}, {"a": 2}], [[0.1], [0.1, 0.2]]), "same seeds"),
        (lambda: st.factorial([{"a": 1}], [[0.1]], {"a": 3}), "the baseline's a: expected one of"),
    ],
)
def test_arrays_that_make_no_sense_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_interval_of_a_difference_leaves_what_is_possible():
    arm, baseline = [0.99, 0.99, 0.99, 0.99, 0.2], [0.0] * 5
    free = st.seed_interval(arm)
    assert free.high > 1
    cut = st.compare(arm, baseline).interval
    assert (cut.low, cut.high) == (free.low, 1.0)


def test_no_interval_of_a_mean_error_leaves_what_is_possible():
    nearly_perfect = [0.0, 0.0, 0.01, 0.0, 0.0]
    assert st.t_interval(nearly_perfect).low < 0
    assert st.describe(nearly_perfect).interval.low == 0
    assert st.describe([1 - error for error in nearly_perfect]).interval.high == 1
