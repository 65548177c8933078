"""Evidence as plain values, for JSON, CSV and MLflow. Errors are fractions of the images."""

from __future__ import annotations

from typing import Any

from lecun_ablate import statistics
from lecun_ablate.evidence.arms import arm_table, tuning_line
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.statistics import Effect, PairResult


def evidence_record(evidence: Evidence, link: str) -> dict[str, Any]:
    """Return the table of arms and what it shows as plain values; None stands for no number."""
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
        "arms": records,
        "comparisons": [comparison_record(evidence, pair) for pair in pairs],
        "effects": [effect_record(effect) for effect in evidence.effects],
        "run_id": evidence.results.run_id,
        "link": link,
    }


def comparison_record(evidence: Evidence, pair: PairResult) -> dict[str, Any]:
    """Return a comparison as plain values: differences and errors as fractions of the images."""
    one, joint, without, verdict = pair.counted, pair.joint, pair.excluded, pair.verdict_excluded
    return {
        "arm": pair.arm,
        "baseline": pair.baseline,
        "seeds": one.n,
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
        "verdict_new_images": statistics.second_sentence(pair.verdict, joint) if joint else None,
        "more_seeds": pair.verdict.more_seeds,
        "arm_diverged": pair.arm_diverged,
        "baseline_diverged": pair.baseline_diverged,
        "seeds_excluding_diverged": without.n if without else 0,
        "difference_excluding_diverged": without.difference if without else None,
        **ends("difference_excluding_diverged", without.interval if without else None),
        "p_adjusted_excluding_diverged": pair.p_adjusted_excluded,
        "verdict_excluding_diverged": verdict.kind if verdict else None,
        "verdict_text_excluding_diverged": verdict.text if verdict else None,
        "note": pair.divergence_note or one.note,
    }


def effect_record(effect: Effect) -> dict[str, Any]:
    """Return a factor's effect as plain values, `effect` being a fraction of the images."""
    without = effect.excluded if effect.diverged else effect
    return {
        "factors": " x ".join(effect.factors),
        "levels": " x ".join(map(str, effect.levels)),
        "baseline": " x ".join(map(str, effect.baseline)),
        "seeds": effect.n,
        "effect": effect.effect,
        **ends("effect", effect.interval),
        "p": effect.p,
        "p_adjusted": effect.p_adjusted,
        "seeds_excluding_diverged": without.n if without else 0,
        "effect_excluding_diverged": without.effect if without else None,
        **ends("effect_excluding_diverged", without.interval if without else None),
        "p_adjusted_excluding_diverged": without.p_adjusted if without else None,
        "note": effect.divergence_note,
    }


def ends(name: str, interval: statistics.Interval | None) -> dict[str, float | None]:
    """Return both ends of an interval as NAME_low and NAME_high."""
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def arm_summary(evidence: Evidence, arm: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return an arm's numbers and words for its MLflow run: (metrics, tags).

    Fractions of the images. The interval is that of the mean test error after the last epoch, which
    leaves diverged runs out; the difference counts them as error 0.9, and where there are any, the
    difference without them stands beside.
    """
    runs = evidence.arms[arm]
    error = ended(runs)
    numbers = {
        **ends("test_error", error.interval if error else None),
        "diverged_runs": int(runs.diverged.sum()),
    }
    tags = {}
    for pair in evidence.comparisons.pairs:
        if pair.arm == arm:
            record = comparison_record(evidence, pair)
            names = ["difference", "difference_low", "difference_high", "p_adjusted"]
            if pair.divergence_note:
                names.append("difference_excluding_diverged")
            numbers |= {name: record[name] for name in names}
            tags = {
                "verdict": record["verdict"],
                "conclusion": pair.verdict.text,
                "compared_with": pair.baseline,
            }
    return {name: value for name, value in numbers.items() if value is not None}, tags
