"""Shares of variance, contributions over all orders, rankings, and inflated effects."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from statistics_rates import highest_rate

from lecun_ablate import statistics as st


def grid(*sizes):
    return [dict(zip("abc", cell, strict=False)) for cell in np.ndindex(*sizes)]


def test_shares_of_an_additive_table_are_those_of_its_factors():
    """a moves the error by 0 or 6, b by 0, 1 or 2: variances 9 and 2/3, no interaction."""
    errors = np.array([[0.1 + 0.06 * cell["a"] + 0.01 * cell["b"]] * 4 for cell in grid(2, 3)])
    shares = {share.factors: share.share for share in st.variance_shares(grid(2, 3), errors)}
    assert shares == pytest.approx({("a",): 9 / (9 + 2 / 3), ("b",): (2 / 3) / (9 + 2 / 3),
                                    ("a", "b"): 0})  # fmt: skip


def test_a_pure_interaction_is_nobodys_main_effect():
    errors = np.array([[0.2 + 0.05 * ((cell["a"] + cell["b"]) % 2)] * 3 for cell in grid(2, 2)])
    shares = {share.factors: share.share for share in st.variance_shares(grid(2, 2), errors)}
    assert shares == pytest.approx({("a",): 0, ("b",): 0, ("a", "b"): 1})


def test_shares_are_those_of_the_sums_of_squares_less_the_noise():
    """Independently: the two-way table of cell means, with the seed-by-cell mean square."""
    rng = np.random.default_rng(0)
    errors = 0.1 + 0.01 * rng.random((6, 5)) + 0.02 * np.arange(6)[:, None]
    means = errors.mean(axis=1).reshape(2, 3)
    a = means.mean(axis=1, keepdims=True) - means.mean()
    b = means.mean(axis=0, keepdims=True) - means.mean()
    both = means - means.mean() - a - b
    residual = errors - errors.mean(axis=0) - errors.mean(axis=1, keepdims=True) + errors.mean()
    noise = (residual**2).sum() / (4 * 5) / 5  # of a cell's mean
    parts = [max(0, (part**2).mean() - df * noise / 6) for part, df in ((a, 1), (b, 2), (both, 2))]
    found = {share.factors: share.share for share in st.variance_shares(grid(2, 3), errors)}
    expected = dict(zip([("a",), ("b",), ("a", "b")], np.array(parts) / sum(parts), strict=True))
    assert found == pytest.approx(expected)


def test_intervals_of_shares_cover():
    rng = np.random.default_rng(1)
    truth = np.array([0.1 + 0.02 * cell["a"] + 0.01 * cell["b"] for cell in grid(2, 2)])
    hits = []
    for _ in range(200):
        errors = truth[:, None] + 0.004 * rng.normal(size=10) + 0.006 * rng.normal(size=(4, 10))
        share = {s.factors: s for s in st.variance_shares(grid(2, 2), errors)}["a",]
        hits.append(not share.interval.excludes(0.8))
    assert np.mean(hits) > 0.9
    assert st.variance_shares(grid(2, 2), errors[:, :2])[0].interval is None
    flat = st.variance_shares(grid(2, 2), np.full((4, 5), 0.1))
    assert {share.share for share in flat} == {0.0}


def by_orders(table, names):
    """Return each change's contribution by going through all orders."""
    found = dict.fromkeys(names, 0.0)
    orders = list(permutations(names))
    for order in orders:
        done = frozenset()
        for name in order:
            step = np.mean(table[done | {name}]) - np.mean(table[done])
            found[name] += step / len(orders)
            done = done | {name}
    return found


def test_contributions_are_the_average_over_all_orders():
    rng = np.random.default_rng(2)
    names = ["lr", "init", "order"]
    subsets = [frozenset(n for k, n in enumerate(names) if bits >> k & 1) for bits in range(8)]
    table = {changes: rng.random(6) / 4 for changes in subsets}
    found = st.shapley(table)
    assert {one.change: one.effect for one in found} == pytest.approx(by_orders(table, names))
    whole = table[frozenset(names)].mean() - table[frozenset()].mean()
    assert sum(one.effect for one in found) == pytest.approx(whole)
    assert [one.effect for one in found] == sorted(one.effect for one in found)
    lr = next(one for one in found if one.change == "lr")
    assert lr.first == pytest.approx((table[frozenset({"lr"})] - table[frozenset()]).mean())
    assert lr.last == pytest.approx(
        (table[frozenset(names)] - table[frozenset({"init", "order"})]).mean()
    )
    assert lr.interval.low < lr.effect < lr.interval.high


def test_what_two_changes_do_together_is_shared_between_them():
    table = {(): [0.1] * 5, ("a",): [0.1] * 5, ("b",): [0.1] * 5, ("a", "b"): [0.06] * 5}
    assert [one.effect for one in st.shapley(table)] == pytest.approx([-0.02, -0.02])


def ranked(misses):
    """Return the ranking of arms whose runs (seeds,) are given as misses of 2,007 images."""
    arms = {arm: st.Runs(range(len(row)), np.array(row) / 2007) for arm, row in misses.items()}
    names = list(arms)
    pairs = [(b, a) for k, a in enumerate(names) for b in names[k + 1 :]]
    result = st.compare_all(arms, pairs)
    return st.rank(result, {arm: runs.errors.mean() for arm, runs in arms.items()})


def test_arms_that_are_not_told_apart_share_a_group():
    rng = np.random.default_rng(3)
    near = 100 + rng.integers(-3, 4, (3, 12))
    found = ranked({"x": near[0], "y": near[1], "far": near[2] - 40, "worst": near[0] + 60})
    assert found.order[0] == "far" and found.order[-1] == "worst"
    assert {frozenset(group) for group in found.groups} == {
        frozenset({"far"}), frozenset({"x", "y"}), frozenset({"worst"})
    }  # fmt: skip
    assert found.letters["x"] == found.letters["y"] == "b"


def test_groups_may_overlap():
    """a < c are told apart, but b is told from neither: a chain of two groups."""
    result = st.compare_all(
        {arm: st.Runs(range(9), np.full(9, 0.1) + 0.001 * np.arange(9)) for arm in "abc"},
        [("b", "a"), ("c", "a"), ("c", "b")],
    )
    called = st.Verdict("worse", "")
    from dataclasses import replace

    pairs = [replace(p, verdict=called) if (p.arm, p.baseline) == ("c", "a") else p
             for p in result.pairs]  # fmt: skip
    found = st.rank(replace(result, pairs=tuple(pairs)), {"a": 0.1, "b": 0.2, "c": 0.3})
    assert found.groups == (("a", "b"), ("b", "c"))
    assert found.letters == {"a": "a", "b": "ab", "c": "b"}
    with pytest.raises(ValueError, match="arm 'b' has no error"):
        st.rank(result, {"a": 0.1})


def test_equal_arms_are_ranked_apart_at_most_at_the_level():
    rng = np.random.default_rng(4)
    wrong = [len(ranked({k: 100 + rng.normal(0, 6, 10).round() for k in "abcd"}).groups) > 1
             for _ in range(100)]  # fmt: skip
    assert np.mean(wrong) <= highest_rate(100, 0.05)


@pytest.mark.parametrize(("effect", "sd", "n"), [(0.2, 0.4, 10), (0.2, 0.6, 10), (0.6, 0.4, 20)])
def test_called_differences_are_shown_as_large_as_expected(effect, sd, n):
    rng = np.random.default_rng(5)
    sample = rng.normal(effect, sd, (60_000, n))
    mean, se = sample.mean(axis=1), sample.std(axis=1, ddof=1) / np.sqrt(n)
    called = np.abs(mean) / se >= stats.t.isf(0.025, n - 1)
    shown = np.abs(mean[called]).mean()
    assert st.shown_when_called(effect, sd, n) == pytest.approx(shown, rel=0.01)


def test_the_correction_takes_most_of_the_inflation_back():
    """0.2 points, called in a fifth of experiments, are shown as 0.35."""
    rng = np.random.default_rng(6)
    sample = rng.normal(0.2, 0.4, (8000, 10))
    mean, sd = sample.mean(axis=1), sample.std(axis=1, ddof=1)
    called = mean / sd * np.sqrt(10) >= stats.t.isf(0.016, 9)
    corrected = [st.corrected_for_call(m, s, 10, alpha=0.032)
                 for m, s in zip(mean[called], sd[called], strict=True)]  # fmt: skip
    assert mean[called].mean() > 0.33
    assert np.mean(corrected) == pytest.approx(0.23, abs=0.02)


def test_the_correction_is_between_nothing_and_what_is_shown():
    for shown in (-0.31, -0.4, -1.0):
        corrected = st.corrected_for_call(shown, 0.4, 10)
        assert shown < corrected <= 0
    assert st.corrected_for_call(-1.0, 0.4, 10) == pytest.approx(-1.0, abs=1e-3)
    assert st.corrected_for_call(-0.1, 0.4, 10) == -0.1, "it was not called"
    assert st.corrected_for_call(-0.1, 0.0, 10) == -0.1


def test_simultaneous_intervals_hold_together():
    rng = np.random.default_rng(7)
    together = []
    for _ in range(400):
        runs = 0.05 + 0.003 * rng.normal(size=(5, 10))
        arms = {str(k): st.Runs(range(10), row) for k, row in enumerate(runs)}
        pairs = [(str(k), "0") for k in range(1, 5)]
        found = [st.difference_interval(arms[a].errors, arms["0"].errors, level=1 - 0.05 / 4)
                 for a, _ in pairs]  # fmt: skip
        together.append(all(not one.excludes(0) for one in found))
    assert np.mean(together) >= 0.93
    result = st.compare_all(arms, pairs)
    assert [pair.simultaneous for pair in result.pairs] == found


def test_a_factorial_without_effects_errs_within_the_level():
    """Three comparisons and three effects are one family; two families would err in 7.5 %."""
    rng = np.random.default_rng(8)
    cells = {f"{a}{b}": {"a": a, "b": b} for a in (0, 1) for b in (0, 1)}
    wrong = []
    for _ in range(150):
        arms = {name: st.Runs(range(9), 0.05 + 0.003 * rng.normal(size=9)) for name in cells}
        found = st.compare_all(arms, [(name, "00") for name in list(cells)[1:]], cells=cells)
        assert (found.family, len(found.effects)) == (6, 3)
        p = [pair.p_adjusted for pair in found.pairs] + [e.p_adjusted for e in found.effects]
        wrong.append(min(p) <= 0.05)
    assert np.mean(wrong) <= highest_rate(150, 0.05)


def test_the_same_is_said_of_new_images_after_correction_only():
    """Equal arms, each with images that are hard for it alone: 8 arms, 20 seeds."""
    rng = np.random.default_rng(9)
    plain, corrected = [], []
    for _ in range(150):
        hard = rng.normal(0, 0.2, (9, 1, 200))
        missed = 0.5 + hard + rng.normal(0, 0.25, (9, 20, 200))
        joint = [st.compare_jointly(arm - missed[0], 0 * arm, resamples=2) for arm in missed[1:]]
        p = np.array([one.p for one in joint])
        assert [one.interval.excludes(0) for one in joint] == list(p < 0.05)
        plain.append((p < 0.05).any())
        corrected.append((st.holm(p) <= 0.05).any())
    assert np.mean(plain) > 0.12
    assert np.mean(corrected) <= highest_rate(150, 0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: st.shapley({(): [0.1]}), "0 changes"),
        (lambda: st.shapley({(): [0.1], ("a", "b"): [0.2]}), r"\['a'\] are missing"),
        (lambda: st.shapley({(): [0.1], ("a",): [0.2, 0.3]}), "different numbers of seeds"),
        (lambda: st.sets_to_meet({(): [0.1], ("a",): [0.2, 0.3]}), "different numbers of seeds"),
        (lambda: st.largest_gains({(): [0.1], ("a", "b"): [0.2]}), r"\['a'\] are missing"),
        (lambda: st.largest_gains({(): [0.1]}), "0 changes"),
        (lambda: st.variance_shares([], []), "no arms"),
    ],
)
def test_tables_that_make_no_sense_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_path_of_the_largest_gains_is_the_greedy_one():
    """b gains nothing alone, and most of all once a is there."""
    errors = {
        (): [0.10, 0.12],
        ("a",): [0.08, 0.10],
        ("b",): [0.11, 0.13],
        ("c",): [0.09, 0.11],
        ("a", "b"): [0.04, 0.05],
        ("a", "c"): [0.07, 0.09],
        ("b", "c"): [0.10, 0.12],
        ("a", "b", "c"): [0.04, 0.04],
    }
    path = st.largest_gains(errors)
    assert [step.change for step in path] == ["a", "b", "c"]
    assert [step.effect for step in path] == pytest.approx([-0.02, -0.045, -0.005])
    assert sum(step.effect for step in path) == pytest.approx(-0.07)
    expected = st.seed_interval([-0.04, -0.05])
    assert (path[1].interval.low, path[1].interval.high) == pytest.approx(
        (expected.low, expected.high)
    )

    met = {changes: errors[changes] for changes in ((), ("a", "b", "c"))}
    asked = []
    while more := st.sets_to_meet(met):
        asked.append(sorted("".join(sorted(made)) for made in more))
        with pytest.raises(ValueError, match="are missing"):
            st.largest_gains(met)
        met |= {tuple(sorted(made)): errors[tuple(sorted(made))] for made in more}
    assert asked == [["a", "b", "c"], ["ab", "ac"]]
    assert st.largest_gains(met) == path, "of the sets on its way alone"


def test_of_equal_gains_the_first_in_the_alphabet_is_made():
    errors = {(): [0.1], ("b",): [0.05], ("a",): [0.05], ("c",): [0.06], ("a", "b", "c"): [0.0]}
    assert {*map(frozenset, st.sets_to_meet(errors))} == {frozenset("ab"), frozenset("ac")}


def test_the_test_variance_of_own_images_is_what_drawing_them_makes():
    """Networks whose true errors vary by a known amount, each tested on images of its own."""
    rng = np.random.default_rng(11)
    true = np.clip(rng.normal(0.06, 0.004, 4000), 0, 1)
    errors = rng.binomial(2007, true) / 2007
    found = st.split_variance_of_own_images(errors, 2007)
    assert found.total == pytest.approx(errors.var(ddof=1))
    assert found.finite_test_set + found.rest == pytest.approx(found.total)
    assert found.rest == pytest.approx(0.004**2, rel=0.15)
    assert abs(found.rest - 0.004**2) < 4 * found.rest_se
    same = st.split_variance_of_own_images(rng.binomial(2007, 0.06, 4000) / 2007, 2007)
    assert abs(same.rest) < 4 * same.rest_se and same.finite_share > 0.9
    with pytest.raises(ValueError, match="expected at least 2 of each"):
        st.split_variance_of_own_images([0.1], 100)


def test_more_changes_than_can_be_weighed_are_refused():
    names = "abcdefghi"
    with pytest.raises(ValueError, match="9 changes; expected 1 to 8"):
        st.shapley({tuple(names): [0.1], (): [0.2]})


def test_effects_without_the_seeds_that_failed_stand_beside():
    rng = np.random.default_rng(12)
    cells = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    errors = 0.05 + 0.003 * rng.normal(size=(4, 8))
    failed = np.zeros(8, bool)
    failed[[2, 5]] = True
    errors[3, failed] = 0.9
    found = st.factorial(cells, errors, failed=failed)
    sound = st.factorial(cells, errors[:, ~failed])
    for effect, alone in zip(found, sound, strict=True):
        assert (effect.failed, effect.n, effect.sound.n) == (2, 8, 6)
        assert effect.sound.effect == pytest.approx(alone.effect)
        assert effect.sound.p == alone.p and effect.sound.interval == alone.interval
    assert all(effect.sound is None for effect in st.factorial(cells, errors))
    everything = st.factorial(cells, errors, failed=np.ones(8, bool))
    assert all(effect.sound is None and effect.failed == 8 for effect in everything)


def test_the_share_of_the_finite_test_set_is_a_fraction():
    split = st.VarianceSplit(200, 2007, 0.1159, 0.0819, 0.034, 0.0119)
    assert split.finite_share == pytest.approx(0.0819 / 0.1159)
    assert st.VarianceSplit(9, 9, 0.1, 0.2, -0.1, None).finite_share == 1.0
    assert st.VarianceSplit(9, 9, 0.1, -0.2, 0.3, None).finite_share == 0.0
    assert st.VarianceSplit(9, 9, 0.0, 0.0, 0.0, None).finite_share == 0.0


def test_numbers_have_two_decimals_unless_asked():
    assert st.signed(-0.00456) == "-0.46" and st.signed(0.00456, 1) == "+0.5"


def test_seeds_that_are_no_row_are_refused():
    for seeds in (3, [[1, 2]]):
        with pytest.raises(ValueError, match="expected a row of different seeds"):
            st.Runs(seeds, [0.1, 0.2])


def test_without_answers_nothing_is_said_of_new_images():
    rng = np.random.default_rng(13)
    runs = 0.05 + 0.001 * rng.normal(size=(2, 12))
    arms = {"a": st.Runs(range(12), runs[0]), "b": st.Runs(range(12), runs[1] - 0.02)}
    pair = st.compare_all(arms, [("b", "a")])["b"]
    assert pair.called and pair.joint is None and not pair.holds_for_new_images
    answers = (rng.random((2, 12, 300)) < np.array([[[0.4]], [[0.1]]])).astype(np.uint8)
    arms = {
        name: st.Runs(range(12), table.mean(axis=1), predictions=table)
        for name, table in zip("ab", answers, strict=True)
    }
    pair = st.compare_all(arms, [("b", "a")], labels=np.zeros(300, np.uint8))["b"]
    assert pair.called and pair.p_joint_adjusted < 0.001 and pair.holds_for_new_images


def test_which_arms_failures_would_outweigh_depends_on_the_verdict():
    """Better: the arm's own; worse: those of the baseline. Either has the smaller error."""
    rng = np.random.default_rng(14)
    low, high = 0.05 + 0.0005 * rng.normal(size=(2, 8)) + np.array([[0], [0.2]])
    few, many = st.Runs(range(8), low), st.Runs(range(8), high)
    for arms, kind in (({"x": few, "base": many}, "better"), ({"x": many, "base": few}, "worse")):
        pair = st.compare_all(arms, [("x", "base")])["x"]
        assert pair.verdict.kind == kind
        # 20 points of the 85 from 5 % to 90 %
        assert "while no run fails (at most 32 % do; 24 % would outweigh it)" in pair.conclusion


def test_a_single_seed_has_shares_without_intervals():
    cells = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    # effects of +-1, +-2 and +-0.5 points on every cell: variances 1, 4 and 0.25
    errors = [[0.05 + 0.01 * (x + 2 * y + 0.5 * x * y)] for x in (-1, 1) for y in (-1, 1)]
    found = {share.factors: share for share in st.variance_shares(cells, errors)}
    assert found["a",].share == pytest.approx(1 / 5.25)
    assert found["b",].share == pytest.approx(4 / 5.25)
    assert found["a", "b"].share == pytest.approx(0.25 / 5.25)
    assert all(share.interval is None for share in found.values())
