"""Corrections for several comparisons: known answers, independent counts, and their rates."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats
from statistics_rates import highest_rate

from lecun_ablate import statistics as st


def by_definition(differences):
    """Return the step-down p-values by going through all flips, as the books define them."""

    def t(signs):
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.abs(stats.ttest_1samp(differences * signs, 0, axis=1).statistic)
        return np.nan_to_num(found, nan=0.0, posinf=1e9)

    flips = np.array([t(signs) for signs in product((1, -1), repeat=differences.shape[1])])
    observed = flips[0]
    left, adjusted, last = list(range(len(observed))), np.empty(len(observed)), 0.0
    for k in np.argsort(-observed, kind="stable"):
        last = max(last, np.mean(flips[:, left].max(axis=1) >= observed[k] * (1 - 1e-9)))
        adjusted[k] = last
        left.remove(k)
    return adjusted


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_step_down_is_its_definition():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=7)
    differences = rng.normal([[0.0], [1.0], [2.0]], 1, (3, 7)) - shared
    assert st.step_down(differences) == pytest.approx(by_definition(differences))
    whole = rng.integers(-2, 4, (4, 7)) / 2007  # many ties
    assert st.step_down(whole) == pytest.approx(by_definition(whole))


@settings(max_examples=50, deadline=None)
@given(some.lists(some.integers(-6, 6), min_size=1, max_size=14))
def test_one_comparison_has_the_p_of_the_sign_flip_test(misses):
    differences = np.array(misses) / 2007
    assert st.step_down([differences])[0] == pytest.approx(st.sign_flip_test(differences)[0])


@settings(max_examples=30, deadline=None)
@given(some.integers(1, 5), some.integers(1, 9), some.integers(0, 2**32 - 1))
def test_step_down_lies_between_the_plain_p_and_1(comparisons, seeds, rng_seed):
    rng = np.random.default_rng(rng_seed)
    differences = rng.integers(-5, 6, (comparisons, seeds)) / 2007
    plain = np.array([st.sign_flip_test(row)[0] for row in differences])
    adjusted = st.step_down(differences)
    assert (adjusted >= plain - 1e-12).all() and (adjusted <= 1).all()
    order = rng.permutation(comparisons)
    assert st.step_down(differences[order]) == pytest.approx(adjusted[order])


def test_random_flips_give_what_all_of_them_do():
    rng = np.random.default_rng(1)
    differences = rng.normal([[0.2], [0.5], [0.8]], 1, (3, 17)) + rng.normal(size=17)
    exact = st.step_down(differences)
    # one more seed, so small that it changes no ordering that matters, forces random flips
    sampled = st.step_down(np.hstack([differences, np.full((3, 1), 1e-9)]))
    assert sampled == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(99_999) + 0.01 * exact.max())
    assert st.step_down(np.full((2, 30), 0.1), permutations=999) == pytest.approx([1 / 1000] * 2)


def test_arms_that_are_the_same_are_not_told_apart():
    zeros = np.zeros((2, 8))
    assert st.step_down(zeros).tolist() == [1, 1]
    zeros[1] = 0.1
    assert st.step_down(zeros).tolist() == [1, 2 / 2**8]


def errors(rng, kind, arms, seeds):
    """Return (arms + 1, seeds) errors, of the baseline first, none with an effect."""
    if kind == "normal":
        return rng.normal(size=(arms + 1, seeds)) + rng.normal(size=seeds)
    if kind == "skewed":
        return rng.exponential(size=(arms + 1, seeds))
    spread = np.where(np.arange(arms + 1) % 2, 4.0, 1.0)[:, None]  # arms that differ in spread
    return spread * rng.normal(size=(arms + 1, seeds))


@pytest.mark.parametrize("true", [0, 2])
@pytest.mark.parametrize("kind", ["normal", "skewed", "unequal"])
def test_step_down_keeps_the_level_whichever_arms_have_an_effect(kind, true):
    """Strong control: 4 arms against one baseline, 8 seeds; true effects do not help the others."""
    rng = np.random.default_rng(2)
    wrong = []
    for _ in range(1000):
        found = errors(rng, kind, 4, 8)
        found[1 : 1 + true] -= 3
        adjusted = st.step_down(found[1:] - found[0])
        wrong.append((adjusted[true:] <= 0.05).any())
    assert np.mean(wrong) <= highest_rate(1000, 0.05)
    assert np.mean(wrong) > 0.01


@pytest.mark.parametrize(("arms", "seeds"), [(4, 8), (10, 10)])
def test_step_down_sees_more_than_holm(arms, seeds):
    """Half of the arms are better; the rate at which they are found."""
    rng = np.random.default_rng(3)
    power = {"step-down": [], "holm": []}
    for _ in range(300):
        found = errors(rng, "normal", arms, seeds)
        found[1 : 1 + arms // 2] -= 2.2
        differences = found[1:] - found[0]
        plain = [st.sign_flip_test(row)[0] for row in differences]
        power["step-down"].append((st.step_down(differences) <= 0.05)[: arms // 2])
        power["holm"].append((st.holm(plain) <= 0.05)[: arms // 2])
    assert np.mean(power["step-down"]) > np.mean(power["holm"]) + 0.05


def test_holm_sees_more_where_runs_collapse():
    """The reason why experiments with failures are corrected by Holm."""
    rng = np.random.default_rng(4)
    power = {"step-down": [], "holm": []}
    for _ in range(200):
        found = 0.3 * rng.normal(size=(9, 12)) + 75 * (rng.random((9, 12)) < 0.05)
        found[1:5] -= 1.5
        differences = found[1:] - found[0]
        plain = [st.sign_flip_test(row)[0] for row in differences]
        power["step-down"].append((st.step_down(differences) <= 0.05)[:4])
        power["holm"].append((st.holm(plain) <= 0.05)[:4])
    assert np.mean(power["holm"]) > np.mean(power["step-down"]) + 0.1


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.1, 0.2], r"shape \(2,\)"),
        ([[0.1, np.inf]], "expected finite"),
        ([[0.1, np.nan]], "expected finite"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
    ],
)
def test_differences_that_make_no_sense_are_refused_in_words(differences, words):
    with pytest.raises(ValueError, match=words):
        st.step_down(differences)
