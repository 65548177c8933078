"""Evidence as plain values, for JSON, CSV and MLflow. Errors are fractions of the images."""

from __future__ import annotations

from typing import Any

from lecun_ablate import statistics
from lecun_ablate.evidence.arms import arm_table, tuning_line
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.statistics import (
    Effect,
    FailureRate,
    PairResult,
    failure_rate,
    second_sentence,
)


def evidence_record(evidence: Evidence, link: str) -> dict[str, Any]:
    """Return the table of arms and its conclusions as plain values; None means no number."""
    plan, pairs = evidence.plan, evidence.comparisons.pairs
    table = arm_table(plan, evidence.results.final)
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return {
        "experiment": plan.experiment.name,
        "question": plan.experiment.question,
        "data": plan.data,
        "data_digest": plan.data_digest,
        "notice": plan.notice,
        "baseline": plan.experiment.baseline,
        "seeds": list(plan.experiment.seeds),
        "tuning": tuning_line(plan),
        "answer": answer(evidence),
        "warning": evidence.comparisons.warning,
        "level": evidence.comparisons.alpha,
        "look": evidence.comparisons.look,
        "correction": evidence.comparisons.correction,
        "arms": records,
        "comparisons": [comparison_record(evidence, pair) for pair in pairs],
        "effects": [effect_record(effect) for effect in evidence.effects],
        "worth": worth_records(evidence),
        "run_id": evidence.results.run_id,
        "link": link,
    }


def comparison_record(evidence: Evidence, pair: PairResult) -> dict[str, Any]:
    """Return a comparison as plain values: differences and errors as fractions of the images."""
    one, joint, sound, verdict = pair.counted, pair.joint, pair.sound, pair.verdict_sound
    return {
        "arm": pair.arm,
        "baseline": pair.baseline,
        "seeds": one.n if one.unit == "seed" else None,
        "searches": one.n if one.unit == "search" else None,
        "difference": one.difference,
        **ends("difference", one.interval),
        "interval_method": one.interval.method if one.interval else None,
        **ends("difference_new_images", joint.interval if joint else None),
        **ends("difference_new_images_widest", joint.widest if joint else None),
        **ends("difference_bca", one.bca),
        "sd": one.sd,
        "p": one.p,
        "p_is_exact": one.exact,
        "p_adjusted": pair.p_adjusted,
        "probability_better": one.improvement,
        **ends("probability_better", one.improvement_interval),
        "effect_size": one.effect_size,
        "correlation": one.correlation,
        "pairing_gain": one.pairing_gain,
        "detectable": evidence.comparisons.detectable(pair),
        "fewest_seeds": evidence.comparisons.fewest_seeds,
        "verdict": pair.verdict.kind,
        "verdict_text": pair.verdict.text,
        "conclusion": pair.conclusion,
        "level": evidence.comparisons.alpha,
        "look": evidence.comparisons.look,
        "correction": evidence.comparisons.correction,
        "margin": pair.margin,
        **ends("difference_simultaneous", pair.simultaneous),
        "difference_corrected": pair.corrected,
        "p_new_images_adjusted": pair.p_joint_adjusted,
        "holds_for_new_images": pair.holds_for_new_images,
        "verdict_new_images": second_sentence(pair.verdict, joint, pair.holds_for_new_images)
        if joint
        else None,
        "more_seeds": pair.verdict.more_seeds,
        "arm_diverged": pair.arm_diverged,
        "baseline_diverged": pair.baseline_diverged,
        **_failures("arm", pair.failures.arm),
        **_failures("baseline", pair.failures.baseline),
        "p_equal_failure_rates": pair.failures.p,
        "seeds_sound": sound.n if sound else 0,
        "difference_sound": sound.difference if sound else None,
        **ends("difference_sound", sound.interval if sound else None),
        "p_adjusted_sound": pair.p_adjusted_sound,
        "verdict_sound": verdict.kind if verdict else None,
        "verdict_text_sound": verdict.text if verdict else None,
        **ends("difference_with_failures", pair.over_all),
        "note": pair.failure_note or one.note,
    }


def _failures(name: str, rate: FailureRate) -> dict[str, float | int]:
    """Return an arm's failed runs, failure rate and its bounds, as NAME_..."""
    return {
        f"{name}_failed": rate.failed,
        f"{name}_failure_rate": rate.rate,
        f"{name}_failure_rate_low": rate.interval.low,
        f"{name}_failure_rate_high": rate.interval.high,
        f"{name}_failure_rate_at_most": rate.at_most,
    }


def effect_record(effect: Effect) -> dict[str, Any]:
    """Return a factor's effect as plain values; `effect` is a fraction of the images."""
    sound = effect.sound if effect.failed else effect
    return {
        "factors": " x ".join(effect.factors),
        "levels": " x ".join(map(str, effect.levels)),
        "baseline": " x ".join(map(str, effect.baseline)),
        "seeds": effect.n,
        "effect": effect.effect,
        **ends("effect", effect.interval),
        "p": effect.p,
        "p_adjusted": effect.p_adjusted,
        "seeds_sound": sound.n if sound else 0,
        "effect_sound": sound.effect if sound else None,
        **ends("effect_sound", sound.interval if sound else None),
        "p_adjusted_sound": sound.p_adjusted if sound else None,
        "note": effect.failure_note,
    }


def worth_records(evidence: Evidence) -> list[dict[str, Any]]:
    """Return what each choice contributes as plain values, a mapping per number.

    `what` is "share" (of the variance, 0 to 1), "contribution" or "step" (fractions of the images;
    the steps in the order of the path).
    """
    worth = evidence.worth
    rows: list[tuple[str, str, float, statistics.Interval | None]] = [
        ("share", " x ".join(one.factors), one.share, one.interval) for one in worth.shares
    ]
    rows += [("contribution", one.change, one.effect, one.interval) for one in worth.contributions]
    rows += [("step", one.change, one.effect, one.interval) for one in worth.path]
    return [
        {"what": what, "choice": choice, "value": value, **ends("value", interval)}
        for what, choice, value, interval in rows
    ]


def ends(name: str, interval: statistics.Interval | None) -> dict[str, float | None]:
    """Return both ends of an interval as NAME_low and NAME_high."""
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def arm_summary(evidence: Evidence, arm: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return an arm's numbers and words for its MLflow run: (metrics, tags).

    Fractions of the images, or of the runs. The interval is that of the mean test error after the
    last epoch, which leaves out diverged runs; the difference counts them as error 0.9. The failure
    rate and the difference among sound runs are always included, even if no run failed. If all arms
    are compared with each other, the comparison with the baseline is used.
    """
    runs = evidence.arms[arm]
    error = ended(runs)
    rate = failure_rate(int(runs.failed.sum()), len(runs))
    numbers = {
        **ends("test_error", error.interval if error else None),
        "diverged_runs": int(runs.diverged.sum()),
        "failed_runs": rate.failed,
        "failure_rate": rate.rate,
        **ends("failure_rate", rate.interval),
        "failure_rate_at_most": rate.at_most,
    }
    tags = {"failures": rate.text}
    for pair in evidence.comparisons.pairs:
        if pair.arm == arm and "verdict" not in tags:  # the one with the baseline comes first
            record = comparison_record(evidence, pair)
            names = [
                "difference",
                "difference_low",
                "difference_high",
                "p_adjusted",
                "difference_sound",
                "difference_sound_low",
                "difference_sound_high",
            ]
            numbers |= {name: record[name] for name in names}
            tags |= {
                "verdict": record["verdict"],
                "conclusion": pair.conclusion,
                "compared_with": pair.baseline,
                "look": evidence.comparisons.level_note,
            }
    return {name: value for name, value in numbers.items() if value is not None}, tags
