"""What tuning adds: choices judged by what had no part in them, prudent ones, repeated searches."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statistics_rates import assert_rate

from lecun_ablate import statistics as st


@pytest.fixture
def tuning(monkeypatch):
    """The benchmark whose table stands in docs/statistics.md."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import tuning

    return tuning


def test_finalists_are_the_best_on_each_half_of_the_images():
    scores = np.zeros((4, 2, 6))
    scores[:, :, ::2] = np.array([3, 1, 2, 0])[:, None, None]  # the even images prefer 3, 1
    scores[:, :, 1::2] = np.array([0, 1, 2, 3])[:, None, None]  # the odd ones 0, 1
    assert st.finalists(scores, 2) == [3, 0, 1]
    assert st.finalists(scores, 1) == [3, 0]


def test_a_choice_is_judged_by_the_other_half_of_seeds_and_images():
    rng = np.random.default_rng(0)
    search = rng.random((3, 2, 8))
    confirmed = {k: rng.random((4, 8)) for k in (0, 2)}
    own = rng.random((4, 8))
    differences, errors = [], []
    for half in (0, 1):
        # trial 1 has not been confirmed, so it cannot be chosen
        best = min((0, 2), key=lambda k, half=half: search[k][:, half::2].mean())
        for part in (0, 1):
            tables = {"own": own, best: confirmed[best]}
            chosen = min(tables, key=lambda k, h=half, p=part: tables[k][p::2, h::2].mean())
            judge = (slice(1 - part, None, 2), slice(1 - half, None, 2))
            differences.append(tables[chosen][judge].mean() - own[judge].mean())
            errors.append(tables[chosen][judge].mean())
    found = st.judge_choice(search, confirmed, own, 1, resamples=20)
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.error == pytest.approx(np.mean(errors))
    reach = stats.t.ppf(0.975, 3) * found.standard_error
    assert found.interval.high - found.difference == pytest.approx(reach)


def test_the_best_of_equal_trials_gains_nothing(tuning):
    rng = np.random.default_rng(1)
    now, judged, covered = [], [], []
    for _ in range(60):
        search, fresh = tuning.trials(rng, 0.03)
        now.append(tuning.other_seeds(search, fresh)[0])
        difference, held = tuning.other_images(search, fresh, whole=True)
        judged.append(difference)
        covered.append(held)
    error = np.std(judged, ddof=1) / np.sqrt(60)
    assert abs(np.mean(judged)) < 3.3 * error
    assert np.mean(covered) >= 0.93
    assert np.mean(now) < -0.001, "seeds alone carry the images' luck into the judgement"


def test_a_trial_that_is_better_is_found_and_its_gain_is_not_shrunk():
    rng = np.random.default_rng(2)
    search, fresh = (0.3 + 0.1 * rng.normal(size=(4, n, 200)) for n in (3, 10))
    search[2] -= 0.1
    fresh[2] -= 0.1
    found = st.judge_choice(search[:3], {1: fresh[1], 2: fresh[2]}, fresh[3], 2)
    assert found.difference == pytest.approx(-0.1, abs=0.02)
    assert found.interval.high < 0


def test_among_equals_the_candidate_far_from_failures_is_taken():
    places, errors = [0, 1, 2, 3], [3.05, 3.0, 2.98, 2.9]
    assert st.prudent_choice(places, errors, [0.1] * 4, [0, 0, 0, 2]) == 0
    assert st.prudent_choice(places, errors, [0.04] * 4, [0, 0, 0, 2]) == 1
    assert st.prudent_choice(places, errors, [0.01] * 4, [0, 0, 0, 2]) == 2
    assert st.prudent_choice(places, errors, [0.1] * 4, [0, 0, 0, 0]) == 3  # nothing to shun
    assert st.prudent_choice(places, errors, [0.1] * 4, [3, 1, 1, 2]) == 2  # fails least
    assert st.prudent_choice([0, 2, 1], [3, 3, 1], [0.1] * 3, [0, 0, 1]) == 0  # as far: the first


def test_prudence_halves_how_often_a_failing_rate_is_chosen(tuning):
    rng = np.random.default_rng(3)
    places = np.linspace(-3, 0, 16)
    errors = 3 + 0.6 * (places + 0.6) ** 2
    risk = np.clip((places + 0.75) / 0.75, 0, 1) ** 2 * 0.5
    failing = {"mean": 0, "prudent": 0}
    for _ in range(400):
        failed = rng.binomial(20, risk)
        sound = errors + rng.normal(0, 0.3, 16) / np.sqrt(20)
        mean = int((sound + failed / 20 * (80 - sound)).argmin())
        prudent = st.prudent_choice(places, sound, np.full(16, 0.3 / np.sqrt(20)), failed)
        failing["mean"] += risk[mean] > 0.02
        failing["prudent"] += risk[prudent] > 0.02
    assert failing["prudent"] < 0.6 * failing["mean"]


def test_the_expected_best_is_the_mean_over_all_subsets():
    errors = np.array([5.0, 1.0, 4.0, 1.0, 3.0, 9.0])
    found = st.expected_best(errors)
    for n in range(1, 7):
        by_hand = np.mean([min(subset) for subset in combinations(errors, n)])
        assert found[n - 1] == pytest.approx(by_hand)
    assert st.expected_best(np.arange(200.0))[[0, -1]] == pytest.approx([99.5, 0])


def test_intervals_over_searches_count_what_a_search_happens_to_find():
    rng = np.random.default_rng(4)
    held, seeds_only = [], []
    for _ in range(1500):
        found = rng.normal(0, 0.2, (5, 1)) + rng.normal(0, 0.3, (5, 10))
        held.append(not st.interval_over_searches(found).excludes(0))
        seeds_only.append(not st.t_interval(found.ravel()).excludes(0))
    assert_rate(held, 0.95)
    assert np.mean(seeds_only) < 0.85
    assert st.interval_over_searches(found[:1]) is None
    assert st.interval_over_searches(found, 0.8).method == "t over searches"


def test_the_benchmark_of_searches_uses_them(tuning, capsys):
    tuning.searches(200)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    covered = {(int(r[0]), float(r[2])): float(r[3].strip(" %")) for r in rows if int(r[1]) != 4}
    assert covered[1, 0.2] < 85 < 90 < covered[5, 0.2]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: st.judge_choice(
                np.zeros((2, 3, 8)), {0: np.zeros((4, 6))}, np.zeros((4, 6)), 1
            ),
            "with the same images",
        ),
        (
            lambda: st.judge_choice(
                np.zeros((2, 3, 8)), {2: np.zeros((4, 8))}, np.zeros((4, 8)), 1
            ),
            r"confirmed trials are \[2\]; expected some of 0 to 1",
        ),
        (
            lambda: st.judge_choice(
                np.zeros((2, 3, 8)), {0: np.zeros((1, 8))}, np.zeros((1, 8)), 1
            ),
            "1 fresh seeds and 8 images",
        ),
        (lambda: st.prudent_choice([1, 2], [0.1], [0.1], [0]), "2 places, 1 errors"),
        (lambda: st.expected_best([0.1, np.inf]), "row 1 is inf"),
        (lambda: st.interval_over_searches([0.1, 0.2]), r"shape \(2,\)"),
    ],
)
def test_arrays_that_make_no_sense_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def tuned(rng, spread, searches=5, of_each=4, arms=2):
    """Return runs of equal arms, each tuned by searches that find values of other quality."""
    seeds = np.arange(searches * of_each)
    found = np.abs(rng.normal(0, spread, (arms, searches)))[:, seeds % searches]
    runs = 0.05 + found + rng.normal(0, 0.002, (arms, len(seeds)))
    labels = {int(seed): int(seed % searches) for seed in seeds}
    return {f"arm{k}": st.Runs(seeds, row) for k, row in enumerate(runs)}, labels


def test_an_arm_tuned_by_several_searches_is_compared_over_their_means():
    arms, labels = tuned(np.random.default_rng(5), 0.003)
    pair = st.compare_all(arms, [("arm1", "arm0")], searches=labels)["arm1"]
    differences = arms["arm1"].errors - arms["arm0"].errors
    means = [differences[k::5].mean() for k in range(5)]
    expected = st.interval_over_searches(np.reshape([differences[k::5] for k in range(5)], (5, 4)))
    assert (pair.counted.n, pair.counted.unit) == (5, "search")
    assert pair.counted.difference == pytest.approx(differences.mean())
    assert pair.counted.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert pair.counted.interval.low == pytest.approx(expected.low)
    assert pair.counted.interval.high == pytest.approx(expected.high)
    assert pair.over_all is None
    assert pair.failures.arm.runs == 20  # failures are counted over the runs


def test_five_searches_can_decide_and_one_cannot():
    """Sign flips of five means could never reach 0.05."""
    arms, labels = tuned(np.random.default_rng(6), 0.0)
    better = {"arm0": arms["arm0"], "arm1": st.Runs(range(20), arms["arm1"].errors - 0.02)}
    pair = st.compare_all(better, [("arm1", "arm0")], searches=labels)["arm1"]
    assert pair.verdict.kind == "better" and pair.p_adjusted < 0.01
    one = st.compare_all(better, [("arm1", "arm0")], searches=dict.fromkeys(range(20), 0))
    assert one["arm1"].verdict.text.startswith("undecided: one search does not show the spread")
    assert "2 searches" in one.warning


def test_undecided_arms_are_told_how_many_more_searches_would_tell():
    arms, labels = tuned(np.random.default_rng(7), 0.01)
    pair = st.compare_all(arms, [("arm1", "arm0")], searches=labels)["arm1"]
    assert pair.verdict.kind == "undecided"
    more = pair.verdict.more_seeds
    one = pair.counted
    enough = [st.t_power(abs(one.difference), one.sd, n) >= 0.8 for n in (4 + more, 5 + more)]
    assert enough == [False, True]
    assert f"{more} more searches would probably decide it" in pair.verdict.text


def test_equal_arms_that_searches_tune_are_called_in_one_of_twenty_experiments():
    rng = np.random.default_rng(8)
    wrong = {True: [], False: []}
    pairs = [(f"arm{k}", "arm0") for k in (1, 2, 3)]
    for k in range(300):
        arms, labels = tuned(rng, 0.004, arms=4)
        for counted in (True, False) if k < 40 else (True,):
            found = st.compare_all(arms, pairs, searches=labels if counted else None)
            wrong[counted].append(any(pair.called for pair in found.pairs))
    assert np.mean(wrong[True]) <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(wrong[False]) > 0.25, "seeds alone take what a search found for the arm's worth"


def test_factors_of_arms_that_searches_tune_are_judged_over_the_searches():
    arms, labels = tuned(np.random.default_rng(9), 0.003, arms=4)
    cells = {f"arm{k}": {"a": k // 2, "b": k % 2} for k in range(4)}
    pairs = [(f"arm{k}", "arm0") for k in (1, 2, 3)]
    found = st.compare_all(arms, pairs, cells=cells, searches=labels)
    main = next(effect for effect in found.effects if effect.factors == ("a",))
    errors = np.array([arms[f"arm{k}"].errors for k in range(4)])
    by_seed = errors[2:].mean(axis=0) - errors[:2].mean(axis=0)
    means = [by_seed[k::5].mean() for k in range(5)]
    assert main.n == 5 and main.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert found.correction == "Holm" and found.family == 6


def test_new_images_are_weighed_with_searches_in_the_place_of_seeds():
    rng = np.random.default_rng(10)
    labels_of_images = np.zeros(50, dtype=np.uint8)
    arms = {}
    for name, rate in (("a", 0.1), ("b", 0.3)):
        answers = (rng.random((10, 50)) < rate).astype(np.uint8)
        arms[name] = st.Runs(range(10), answers.mean(axis=1), predictions=answers)
    searches = {seed: seed % 5 for seed in range(10)}
    pair = st.compare_all(arms, [("b", "a")], labels=labels_of_images, searches=searches)["b"]
    tables = [
        np.array([arms[name].predictions[k::5].mean(axis=0) for k in range(5)]) for name in "ba"
    ]
    expected = st.compare_jointly(*tables, seeds=pair.counted.interval)
    assert pair.joint.seeds == 5
    assert pair.joint.interval == expected.interval


def test_places_may_have_several_axes_and_failures_of_no_candidate():
    places, errors = [[0, 0], [0.5, 0], [0, 1]], [3.0, 2.99, 3.01]
    assert st.prudent_choice(places, errors, [0.1] * 3, [0, 0, 0]) == 1
    assert st.prudent_choice(places, errors, [0.1] * 3, [0, 0, 0], [[0.6, 0]]) == 2
    assert st.prudent_choice(places, errors, [0.001] * 3, [0, 0, 0], [[0.6, 0]]) == 1


def test_failed_runs_are_left_out_of_what_makes_a_candidate_good():
    errors = [[0.05, 0.05, 0.05, 0.05], [0.03, 0.03, 0.03, 0.9], [0.052, 0.05, 0.05, 0.05]]
    # the second fails; of the other two, the third is as good within its error and lies farther
    assert st.choose_prudently(errors, [1, 2, 0], 0.8) == 0  # its spread is 0: no one is as good
    errors[0] = [0.049, 0.051, 0.05, 0.05]
    assert st.choose_prudently(errors, [1, 2, 0], 0.8) == 0
    errors[2] = [0.0502] * 4
    assert st.choose_prudently(errors, [1, 2, 0], 0.8) == 2
    # seeds that are not drawn count for nothing
    assert st.choose_prudently(errors, [1, 2, 0], 0.8, weights=[2, 1, 1, 0]) == 1
