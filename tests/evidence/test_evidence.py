"""From results to comparisons, verdicts and the sentence on top."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import IMAGES, results
from scipy import stats

from lecun_ablate.config.arms import Drawn, Tuning
from lecun_ablate.config.experiment import Until
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.evidence.arms import arm_table, tuning_line
from lecun_ablate.evidence.records import arm_summary, comparison_record, effect_record
from lecun_ablate.evidence.sentences import answer, warning
from lecun_ablate.evidence.weighing import seeds_to_add, weigh
from lecun_ablate.statistics import look_level, minimum_detectable_effect, power

BASE = [20, 22, 19, 21, 23, 20, 18, 22, 21, 20, 19, 21]


def evidence(*args, **options):
    return weigh(*results(*args, **options))


def test_each_arm_is_compared_with_the_baseline_paired_by_seed():
    better = [count - 6 + seed % 2 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "good": better})
    (pair,) = found.comparisons.pairs
    record = comparison_record(found, pair)
    differences = (np.array(better) - np.array(BASE)) / IMAGES
    level = 1 - look_level(1)
    low, high = stats.t.interval(level, len(BASE) - 1, differences.mean(), stats.sem(differences))
    assert (record["arm"], record["baseline"], record["seeds"]) == ("good", "base", 12)
    assert record["difference"] == pytest.approx(differences.mean(), abs=1e-12)
    assert record["difference_low"] == pytest.approx(low, abs=1e-12)
    assert record["difference_high"] == pytest.approx(high, abs=1e-12)
    assert record["p"] == 2 / 2**12  # every seed is better: the two extreme sign flips
    assert record["verdict"] == "better"
    assert record["difference_new_images_low"] <= low
    words = answer(found)
    assert words.startswith(
        "On these 200 test images, against base (10.25 % test error): better: good by 2.75 points"
    )
    assert words.endswith(
        "The same holds for new images of this kind. "
        "No run failed, so an arm's failure rate is at most 23 %."
    )


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
    assert "undecided: wild. " in words


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
    assert answer(found).startswith(
        "On these 200 test images, each step against the one before it: better: first by 2.00"
    )


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
    assert alone.effects == (), "one factor is what the arm table shows"


def test_diverged_runs_count_and_are_named():
    found = evidence({"base": BASE, "other": BASE}, status={("other", 3): "diverged"})
    record = comparison_record(found, found.comparisons.pairs[0])
    assert record["arm_diverged"] == 1
    assert record["difference"] == pytest.approx((0.9 - BASE[3] / IMAGES) / 12)
    assert record["difference_sound"] == 0
    assert record["note"].startswith("other failed with 1 of 12: 8 % [0, 39] (1 diverged)")
    assert "another" in record["note"]
    assert (record["arm_failed"], record["baseline_failed"]) == (1, 0)
    assert record["baseline_failure_rate_at_most"] == pytest.approx(1 - 0.05 ** (1 / 12))
    assert record["conclusion"].startswith("over all runs undecided")
    assert answer(found).endswith("Runs failed: other 1 of 12: 8 % [0, 39].")


def test_collapsed_runs_are_failures_with_an_error_of_their_own():
    other = [*BASE[:3], 180, *BASE[4:]]
    found = evidence({"base": BASE, "other": other}, status={("other", 3): "collapsed"})
    record = comparison_record(found, found.comparisons.pairs[0])
    assert record["difference"] == pytest.approx((180 - BASE[3]) / IMAGES / 12)
    assert (record["difference_sound"], record["seeds_sound"]) == (0, 11)
    assert (record["arm_failed"], record["arm_diverged"]) == (1, 0)
    numbers, tags = arm_summary(found, "other")
    assert (numbers["failed_runs"], numbers["diverged_runs"]) == (1, 0)
    assert numbers["failure_rate"] == pytest.approx(1 / 12)
    assert tags["failures"] == "1 of 12: 8 % [0, 39]"


def test_the_difference_among_sound_runs_has_its_numbers_too():
    worse = [count + 2 + seed % 3 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "other": worse}, status={("base", 3): "diverged"})
    (pair,) = found.comparisons.pairs
    record = comparison_record(found, pair)
    kept = [seed for seed in range(12) if seed != 3]
    differences = (np.array(worse) - np.array(BASE))[kept] / IMAGES
    low, high = stats.t.interval(1 - look_level(1), 10, differences.mean(), stats.sem(differences))
    assert record["seeds_sound"] == 11
    assert record["difference_sound"] == pytest.approx(differences.mean())
    assert record["difference_sound_low"] == pytest.approx(low)
    assert record["difference_sound_high"] == pytest.approx(high)
    assert (record["verdict"], record["verdict_sound"]) == ("undecided", "worse")
    assert record["verdict_text_sound"] == pair.verdict_sound.text
    whole = evidence({"base": BASE, "other": worse})
    record = comparison_record(whole, whole.comparisons.pairs[0])
    assert record["difference_sound_low"] == record["difference_low"]


def test_what_an_arm_reached_leaves_diverged_runs_out_everywhere():
    found = evidence({"base": BASE, "other": BASE}, status={("base", 3): "diverged"})
    mean = np.mean(np.delete(BASE, 3)) / IMAGES
    assert arm_table(found.plan, found.results.final).test_error_mean[0] == pytest.approx(mean)
    assert f"against base ({100 * mean:.2f} % test error)" in answer(found)
    numbers, _ = arm_summary(found, "base")
    assert numbers["test_error_low"] < mean < numbers["test_error_high"]
    assert numbers["diverged_runs"] == 1
    other, _ = arm_summary(found, "other")
    assert other["difference"] < -0.05 and other["difference_sound"] == 0
    alone = evidence({"base": BASE}, status={("base", 3): "diverged"})
    assert f"{100 * mean:.2f} % of the test digits on average over 11 seeds" in answer(alone)
    assert answer(alone).endswith("; 1 more run diverged.")


def test_arms_that_diverged_with_every_seed_are_not_called_the_same():
    every = {(arm, seed): "diverged" for arm in ("base", "other") for seed in range(12)}
    found = evidence({"base": BASE, "other": BASE}, status=every)
    assert answer(found) == (
        "On these 200 test images, against base (every run diverged): undecided: other (both "
        "diverged with every seed). Runs failed: other 12 of 12: at least 77 % and base 12 of 12: "
        "at least 77 %."
    )
    numbers, _ = arm_summary(found, "base")
    assert numbers["diverged_runs"] == 12 and "test_error_low" not in numbers
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
    assert relu["effect_sound"] * IMAGES == pytest.approx(4)
    assert (relu["seeds"], relu["seeds_sound"]) == (12, 11)
    assert relu["effect_sound_low"] <= relu["effect_sound"]
    assert relu["p_adjusted_sound"] < 0.05
    assert relu["note"].startswith(
        "with 1 seed a run failed (one that diverged counts as error 0.9); without: "
    )
    assert "a different result, more errors" in relu["note"], "one wild seed hides the effect"
    both = effect_record(effects["activation x padding"])
    assert both["effect_sound"] == pytest.approx(0)
    assert "another" not in both["note"]
    whole = crossed(add)
    relu = effect_record(whole.effects[0])
    assert relu["note"] is None and relu["effect_sound"] == relu["effect"]
    every = crossed(add, status={("relu 0", seed): "diverged" for seed in range(12)})
    assert effect_record(every.effects[0])["effect_sound"] is None
    assert every.effects[0].failure_note.endswith("without, nothing is left")


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
    assert tags["look"] == "first look: level 0.032"
    assert tags["conclusion"].endswith("(at most 23 % do; 3 % would outweigh it)")
    assert "difference" not in baseline and none == {"failures": "0 of 12: at most 23 %"}
    assert baseline["failed_runs"] == baseline["failure_rate"] == 0
    assert baseline["failure_rate_high"] > baseline["failure_rate_at_most"] > 0.22


def test_a_second_look_decides_at_its_own_level():
    misses = {"base": BASE, "good": [count - 5 + seed % 3 for seed, count in enumerate(BASE)]}
    found, store = results(misses)
    first = weigh(found, store)
    again = weigh(replace(found, looks=(8,)), store)
    assert (first.comparisons.look, again.comparisons.look) == (1, 2)
    assert again.comparisons.level_note == "second look: level 0.012"
    widths = [found.comparisons.pairs[0].counted.interval.halfwidth for found in (first, again)]
    ratio = stats.t.isf(look_level(2) / 2, 11) / stats.t.isf(look_level(1) / 2, 11)
    assert widths[1] / widths[0] == pytest.approx(ratio)
    same = weigh(replace(found, looks=(12,)), store)  # as often as one likes at the same seeds
    assert same.comparisons.look == 1


def test_the_margin_of_the_experiment_decides_what_matters():
    better = [count - 1 for count in BASE]  # half a point, with every seed
    found = {
        margin: weigh(*results({"base": BASE, "good": better}, margin=margin))
        for margin in (0.3, 0.6)
    }
    text = {margin: one.comparisons.pairs[0].verdict.text for margin, one in found.items()}
    assert text[0.3].startswith("better by 0.50 points")
    assert text[0.6] == "better, but by less than matters (at most 0.50)"
    assert "good by 0.50 points [-0.50, -0.50], less than matters" in answer(found[0.6])


def test_all_arms_are_ranked_in_groups_that_are_not_told_apart():
    rng = np.random.default_rng(3)
    near = [count + int(rng.integers(-2, 3)) for count in BASE]
    misses = {"base": BASE, "near": near, "good": [count - 9 for count in BASE]}
    found = evidence(misses, compare="all")
    assert [(pair.arm, pair.baseline) for pair in found.comparisons.pairs] == [
        ("near", "base"),
        ("good", "base"),
        ("good", "near"),
    ]
    assert "in groups that cannot be told apart: good; " in answer(found)
    assert arm_summary(found, "good")[1]["compared_with"] == "base"


def test_power_uses_the_spread_of_the_pairs():
    noisy = [count + seed % 3 for seed, count in enumerate(BASE)]
    found = evidence({"base": BASE, "one": noisy, "two": noisy})
    (_, one), _ = found.power(0.005)
    sd = np.std(np.subtract(noisy, BASE) / IMAGES, ddof=1)
    assert one.sd == pytest.approx(sd)
    n = one.paired
    rule = {"alpha": look_level(2), "comparisons": 2}  # more seeds are for the next look
    assert power(0.005, sd, n, **rule) >= 0.8 > power(0.005, sd, n - 1, **rule)
    assert power(0.005, sd, n - 1, alpha=look_level(2)) >= 0.8, "it is corrected for two"
    # and so is the effect that can be detected
    record = comparison_record(found, found.comparisons.pairs[0])
    corrected = minimum_detectable_effect(12, sd, alpha=look_level(1), comparisons=2)
    assert record["detectable"] == one.detectable == pytest.approx(corrected, rel=1e-12)
    assert record["detectable"] > 1.05 * minimum_detectable_effect(12, sd, alpha=look_level(1))
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


def test_a_rule_looks_at_sound_runs_and_never_before_its_least_seeds():
    rng = np.random.default_rng(1)
    base = rng.integers(15, 25, 20)
    misses = {"base": base.tolist(), "other": (base + rng.integers(0, 2, 20)).tolist()}
    misses["other"][4] = 180
    failed = {("other", 4): "collapsed"}
    for at_least, more in ((20, 0), (50, 30)):
        until = Until(halfwidth=1, at_most=100, at_least=at_least)
        assert seeds_to_add(results(misses, until=until, status=failed)[0]) == more
    assert seeds_to_add(results(misses, until=Until(halfwidth=1, at_most=100))[0]) == 10
    every = {("other", seed): "collapsed" for seed in range(20)}
    until = Until(halfwidth=1, at_most=100)
    assert seeds_to_add(results(misses, until=until, status=every)[0]) == 10


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


def test_a_single_arm_is_described_in_words():
    found = evidence({"only": [20, 24, 22]})
    low, high = stats.t.interval(0.95, 2, 0.11, np.std([0.1, 0.12, 0.11], ddof=1) / 3**0.5)
    assert answer(found) == (
        "only misses 11.00 % of the test digits on average over 3 seeds "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f})."
    )
    status = {("only", 0): "diverged", ("only", 2): "diverged"}
    alone = answer(evidence({"only": [20, 24, 22]}, status=status))
    assert alone == ("only misses 12.00 % of the test digits with seed 1; 2 more runs diverged.")


def test_of_many_arms_with_one_verdict_four_are_named():
    rng = np.random.default_rng(1)
    wild = {f"arm{k}": rng.integers(15, 26, 12).tolist() for k in range(7)}
    words = answer(evidence({"base": BASE, **wild}))
    named = words.split("undecided: ")[1].split(".")[0]
    assert named.endswith(" and 3 more") and named.count("arm") == 4


def test_three_arms_are_listed_with_commas_and_one_and():
    worse = {f"arm{k}": [count + 9 + k for count in BASE] for k in range(3)}
    words = answer(evidence({"base": BASE, **worse}))
    names = [words.index(f"arm{k} by") for k in (2, 1, 0)]
    assert names == sorted(names) and "], arm1 by" in words and "] and arm0 by" in words


def test_arms_are_compared_once_they_have_seeds_in_common():
    found, store = results({"base": BASE, "late": BASE})
    frame = found.frame
    apart = ((frame.arm == "base") & (frame.seed < 4)) | ((frame.arm == "late") & (frame.seed >= 4))
    assert weigh(replace(found, frame=frame[apart]), store).comparisons.pairs == ()
    whole = weigh(found, store).comparisons
    assert [(pair.arm, pair.counted.n) for pair in whole.pairs] == [("late", 12)]


def test_the_table_of_arms_and_the_line_on_tuning_name_the_rates():
    def tuned(rate):
        return Tuning("rates.yaml", 1, "digits", {"lr": rate}, 16, 2, 0.03)

    found, store = results({"base": BASE, "other": BASE})
    rates = {"base": (0.01, 0.03), "other": (0.02, 0.02)}
    arms = []
    for arm in found.plan.experiment.arms:
        recipes = [arm.recipe.model_copy(update={"lr": rate}) for rate in rates[arm.name]]
        drawn = tuple(Drawn(one, tuned(one.lr)) for one in recipes)
        arms.append(replace(arm, recipe=recipes[0], tuning=drawn[0].tuning, drawn=drawn))
    once = [replace(arm, drawn=()) for arm in arms]
    for made, expected, line in (
        (
            once,
            [(0.01, "0.01"), (0.02, "0.02")],
            "base at lr 0.01, other at lr 0.02; tuned by rates",
        ),
        (
            arms,
            [(None, "0.01 - 0.03"), (None, "0.02")],
            "base at lr 0.01 to 0.03, other at lr 0.02; tuned by 2 searches of rates.yaml",
        ),
    ):
        experiment = replace(found.plan.experiment, arms=tuple(made))
        plan = replace(found.plan, experiment=experiment)
        table = arm_table(plan, found.final).to_dict("records")
        shown = [(None if pd.isna(row["lr"]) else row["lr"], row["rate"]) for row in table]
        assert shown == expected
        assert tuning_line(plan).startswith(line)
        pair = comparison_record(weigh(replace(found, plan=plan), store), weigh(
            replace(found, plan=plan), store).comparisons.pairs[0])  # fmt: skip
        assert (pair["seeds"], pair["searches"]) == ((12, None) if made is once else (None, 2))
