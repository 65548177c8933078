"""From results to comparisons, verdicts and the sentence on top."""

import numpy as np
import pytest
from made_up import IMAGES, results
from scipy import stats

from lecun_ablate.config.experiment import Until
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.evidence.arms import arm_table
from lecun_ablate.evidence.records import arm_summary, comparison_record, effect_record
from lecun_ablate.evidence.sentences import answer, warning
from lecun_ablate.evidence.weighing import seeds_to_add, weigh
from lecun_ablate.statistics import minimum_detectable_effect, power

BASE = [20, 22, 19, 21, 23, 20, 18, 22, 21, 20, 19, 21]


def evidence(*args, **options):
    return weigh(*results(*args, **options))


def test_each_arm_is_compared_with_the_baseline_paired_by_seed():
    better = [count - 6 + seed % 2 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "good": better})
    (pair,) = found.comparisons.pairs
    record = comparison_record(found, pair)
    differences = (np.array(better) - np.array(BASE)) / IMAGES
    low, high = stats.t.interval(0.95, len(BASE) - 1, differences.mean(), stats.sem(differences))
    assert (record["arm"], record["baseline"], record["seeds"]) == ("good", "base", 12)
    assert record["difference"] == pytest.approx(differences.mean(), abs=1e-12)
    assert record["difference_low"] == pytest.approx(low, abs=1e-12)
    assert record["difference_high"] == pytest.approx(high, abs=1e-12)
    assert record["p"] == 2 / 2**12  # every seed is better: the two extreme sign flips
    assert record["verdict"] == "better"
    assert record["difference_new_images_low"] <= low
    words = answer(found)
    assert words.startswith("Against base (10.25 % test error): better: good by 2.75 points")


def test_the_answer_sorts_the_arms_by_verdict():
    rng = np.random.default_rng(0)
    wild = [max(0, count + int(rng.normal(0, 9))) for count in BASE]
    found = evidence(
        {
            "base": BASE,
            "good": [count - 5 for count in BASE],
            "best": [count - 9 + seed % 2 for seed, count in enumerate(BASE)],
            "bad": [count + 7 for count in BASE],
            "same": BASE,
            "wild": wild,
        }
    )
    kinds = {pair.arm: pair.verdict.kind for pair in found.comparisons.pairs}
    assert kinds == {
        "good": "better",
        "best": "better",
        "bad": "worse",
        "same": "no difference",
        "wild": "undecided",
    }
    words = answer(found)
    assert words.index("better: best by 4.25") < words.index("and good by 2.50")
    assert words.index("worse: bad by 3.50") > words.index("good by")
    assert "no difference that matters: same (none with any seed)" in words
    assert words.endswith("undecided: wild.")


def test_too_few_seeds_are_no_evidence_and_the_answer_says_so():
    found = evidence({"base": BASE[:3], "good": [count - 9 for count in BASE[:3]]})
    assert answer(found).startswith("Nothing can be concluded yet: with 3 seeds and 1 comparison")
    assert warning(found) is None, "said once"


def test_a_single_arm_has_an_answer_too():
    assert answer(evidence({"base": [20]})) == "base misses 10.00 % of the test digits with seed 0."
    several = answer(evidence({"base": BASE}))
    assert several.startswith("base misses 10.25 % of the test digits on average over 12 seeds")


def test_a_ladder_compares_each_step_with_the_one_before():
    steps = {"1989": BASE, "first": [c - 4 for c in BASE], "second": [c - 4 for c in BASE]}
    found = evidence(steps, ladder=True)
    assert [(p.arm, p.baseline, p.verdict.kind) for p in found.comparisons.pairs] == [
        ("first", "1989", "better"),
        ("second", "first", "no difference"),
    ]
    assert answer(found).startswith("Each step against the one before it: better: first by 2.00")


def test_factors_have_main_effects_and_an_interaction():
    shown = crossed({"tanh -1": 0, "tanh 0": 2, "relu -1": 4, "relu 0": 12})  # 6 above the sum
    effects = [effect_record(effect) for effect in shown.effects]
    found = {f"{e['factors']} {e['levels']}": e["effect"] * IMAGES for e in effects}
    assert found == pytest.approx(
        {"activation relu": 7, "padding 0.0": 5, "activation x padding relu x 0.0": 6}
    )
    one = {"activation": ["tanh", "relu"], "padding": [-1.0]}
    arms = {name: {"activation": name, "padding": -1.0} for name in one["activation"]}
    alone = evidence(dict.fromkeys(arms, BASE), overrides=arms, factors=one)
    assert alone.effects == [], "one factor is what the arm table shows"


def test_diverged_runs_count_and_are_named():
    found = evidence({"base": BASE, "other": BASE}, status={("other", 3): "diverged"})
    record = comparison_record(found, found.comparisons.pairs[0])
    assert record["arm_diverged"] == 1
    assert record["difference"] == pytest.approx((0.9 - BASE[3] / IMAGES) / 12)
    assert record["difference_excluding_diverged"] == 0
    assert "1 run of other" in record["note"] and "another" in record["note"]


def test_the_excluded_variant_has_its_numbers_too():
    worse = [count + 2 + seed % 3 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "other": worse}, status={("base", 3): "diverged"})
    (pair,) = found.comparisons.pairs
    record = comparison_record(found, pair)
    kept = [seed for seed in range(12) if seed != 3]
    differences = (np.array(worse) - np.array(BASE))[kept] / IMAGES
    low, high = stats.t.interval(0.95, 10, differences.mean(), stats.sem(differences))
    assert record["seeds_excluding_diverged"] == 11
    assert record["difference_excluding_diverged"] == pytest.approx(differences.mean())
    assert record["difference_excluding_diverged_low"] == pytest.approx(low)
    assert record["difference_excluding_diverged_high"] == pytest.approx(high)
    assert (record["verdict"], record["verdict_excluding_diverged"]) == ("undecided", "worse")
    assert record["verdict_text_excluding_diverged"] == pair.verdict_excluded.text
    whole = evidence({"base": BASE, "other": worse})
    record = comparison_record(whole, whole.comparisons.pairs[0])
    assert record["difference_excluding_diverged_low"] == record["difference_low"]


def test_what_an_arm_reached_leaves_diverged_runs_out_everywhere():
    found = evidence({"base": BASE, "other": BASE}, status={("base", 3): "diverged"})
    mean = np.mean(np.delete(BASE, 3)) / IMAGES
    assert arm_table(found.plan, found.results.final).test_error_mean[0] == pytest.approx(mean)
    assert f"Against base ({100 * mean:.2f} % test error)" in answer(found)
    numbers, _ = arm_summary(found, "base")
    assert numbers["test_error_low"] < mean < numbers["test_error_high"]
    assert numbers["diverged_runs"] == 1
    other, _ = arm_summary(found, "other")
    assert other["difference"] < -0.05 and other["difference_excluding_diverged"] == 0
    alone = evidence({"base": BASE}, status={("base", 3): "diverged"})
    assert f"{100 * mean:.2f} % of the test digits on average over 11 seeds" in answer(alone)
    assert answer(alone).endswith("; 1 more run diverged.")


def test_arms_that_diverged_with_every_seed_are_not_called_the_same():
    every = {(arm, seed): "diverged" for arm in ("base", "other") for seed in range(12)}
    found = evidence({"base": BASE, "other": BASE}, status=every)
    assert answer(found) == (
        "Against base (every run diverged): undecided: other (both diverged with every seed)."
    )
    assert arm_summary(found, "base")[0] == {"diverged_runs": 12}
    alone = evidence({"base": BASE}, status=every)
    assert answer(alone) == "base diverged with every seed."


def crossed(add, **options):
    """Return the evidence of activation x padding, misses of 200 images added to BASE."""
    factors = {"activation": ["tanh", "relu"], "padding": [-1.0, 0.0]}
    overrides = {
        f"{a} {p:g}": {"activation": a, "padding": p}
        for a in factors["activation"]
        for p in factors["padding"]
    }
    misses = {arm: [count + add[arm] for count in BASE] for arm in overrides}
    return evidence(misses, overrides=overrides, factors=factors, **options)


def test_effects_of_factors_are_shown_without_diverged_runs_as_well():
    add = {"tanh -1": 0, "tanh 0": 2, "relu -1": 4, "relu 0": 6}
    found = crossed(add, status={("relu 0", 5): "diverged"})
    effects = {" x ".join(effect.factors): effect for effect in found.effects}
    relu = effect_record(effects["activation"])
    assert relu["effect"] * IMAGES == pytest.approx(4 + (180 - BASE[5] - 6) / 2 / 12)
    assert relu["effect_excluding_diverged"] * IMAGES == pytest.approx(4)
    assert (relu["seeds"], relu["seeds_excluding_diverged"]) == (12, 11)
    assert relu["effect_excluding_diverged_low"] <= relu["effect_excluding_diverged"]
    assert relu["p_adjusted_excluding_diverged"] < 0.05
    assert relu["note"].startswith("with 1 seed a run diverged and counts as error 0.9; without: ")
    assert "another finding, more errors" in relu["note"], "one wild seed hides the effect"
    both = effect_record(effects["activation x padding"])
    assert both["effect_excluding_diverged"] == pytest.approx(0)
    assert "another" not in both["note"]
    whole = crossed(add)
    relu = effect_record(whole.effects[0])
    assert relu["note"] is None and relu["effect_excluding_diverged"] == relu["effect"]
    every = crossed(add, status={("relu 0", seed): "diverged" for seed in range(12)})
    assert effect_record(every.effects[0])["effect_excluding_diverged"] is None
    assert every.effects[0].divergence_note.endswith("without, nothing is left")


def test_arms_without_runs_are_not_compared_yet():
    found = evidence({"base": BASE, "good": BASE}, absent=("later",))
    assert [pair.arm for pair in found.comparisons.pairs] == ["good"]


def test_what_an_arm_run_is_told():
    found = evidence({"base": BASE, "good": [count - 5 for count in BASE]})
    numbers, tags = arm_summary(found, "good")
    assert numbers["difference"] == pytest.approx(-0.025)
    assert numbers["difference_low"] <= numbers["difference"] <= numbers["difference_high"]
    mean = (np.mean(BASE) - 5) / IMAGES
    assert numbers["test_error_low"] < mean < numbers["test_error_high"]
    assert numbers["p_adjusted"] <= 0.05
    assert tags["verdict"] == "better" and tags["compared_with"] == "base"
    baseline, none = arm_summary(found, "base")
    assert "difference" not in baseline and none == {}


def test_power_uses_the_spread_of_the_pairs():
    noisy = [count + seed % 3 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "one": noisy, "two": noisy})
    (_, one), _ = found.power(0.005)
    sd = np.std(np.subtract(noisy, BASE) / IMAGES, ddof=1)
    assert one.sd == pytest.approx(sd)
    n = one.paired
    assert power(0.005, sd, n, comparisons=2) >= 0.8 > power(0.005, sd, n - 1, comparisons=2)
    assert power(0.005, sd, n - 1) >= 0.8, "it is corrected for two comparisons"
    # and so is the effect that can be detected
    record = comparison_record(found, found.comparisons.pairs[0])
    corrected = minimum_detectable_effect(12, sd, comparisons=2)
    assert record["detectable"] == one.detectable == pytest.approx(corrected, rel=1e-12)
    assert record["detectable"] > 1.05 * minimum_detectable_effect(12, sd)
    with pytest.raises(LecunAblateError, match="more seeds"):
        evidence({"base": BASE[:1], "one": BASE[:1]}).power(0.005)


@pytest.mark.parametrize(
    ("halfwidth", "at_most", "seeds", "more"),
    [
        (0.01, 100, 20, 10),
        (0.01, 26, 20, 6),
        (0.01, 20, 20, 0),
        (50, 100, 20, 0),
        (0.01, 100, 30, 10),
    ],
)
def test_seeds_are_added_while_an_interval_is_wide(halfwidth, at_most, seeds, more):
    rng = np.random.default_rng(1)
    misses = {arm: rng.integers(15, 25, seeds).tolist() for arm in ("base", "other")}
    found, _ = results(misses, until=Until(halfwidth=halfwidth, at_most=at_most))
    assert seeds_to_add(found) == more


def test_every_comparison_must_be_narrow():
    """The narrow one comes first and the wide one last, and the other way round."""
    rng = np.random.default_rng(2)
    base = rng.integers(15, 25, 20)
    narrow, wide = base + rng.integers(0, 2, 20), rng.integers(5, 60, 20)
    until = Until(halfwidth=1, at_most=100)
    for others, more in (((narrow,), 0), ((narrow, wide), 10), ((wide, narrow), 10)):
        misses = {str(k): counts.tolist() for k, counts in enumerate((base, *others))}
        assert seeds_to_add(results(misses, until=until)[0]) == more


def test_other_experiments_add_no_seeds():
    assert seeds_to_add(results({"base": BASE, "other": BASE})[0]) == 0
