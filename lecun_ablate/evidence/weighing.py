"""From results to what can be concluded: comparisons, effects of factors, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lecun_ablate import statistics
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.statistics import (
    BOTH_DIVERGED,
    Description,
    Effect,
    ExperimentResult,
    PairResult,
    PowerAnalysis,
    Runs,
    UntilNarrow,
)
from lecun_ablate.statistics.wording import at_most, count, percent, points, span

if TYPE_CHECKING:
    from lecun_ablate.plan.plan import Plan
    from lecun_ablate.running.training import Results
    from lecun_ablate.tracking.store import Store

MOST_NAMED = 5  # arms that the answer names with one verdict


@dataclass(frozen=True)
class Evidence:
    """An experiment's results and what they say."""

    results: Results
    labels: np.ndarray  # (images,) uint8, of the test split
    arms: dict[str, Runs]  # those that have runs, in the order of the experiment
    comparisons: ExperimentResult
    effects: list[Effect]  # of the factors, where the experiment varies several

    @property
    def plan(self) -> Plan:
        """The plan whose results these are."""
        return self.results.plan

    def power(self, effect: float) -> list[tuple[PairResult, PowerAnalysis]]:
        """Return what each comparison's seeds can show of a true `effect`, a fraction.

        Raises LecunAblateError where there is nothing compared over two seeds or more.
        """
        pairs = [pair for pair in self.comparisons.pairs if pair.counted.n > 1]
        if not pairs:
            raise LecunAblateError(
                f"{self.plan.tracking_name}: no two arms have two seeds in common, so their spread "
                "is not known: run it with more seeds"
            )
        return [(pair, self.comparisons.power(pair, effect)) for pair in pairs]


def weigh(results: Results, store: Store) -> Evidence:
    """Return what the results so far say, reading the answers of every run from the store."""
    final = results.final
    predictions = np.array([store.predictions(run_id) for run_id in final.run_id])
    rows = pd.Series(np.arange(len(final)), index=final.index)
    arms = {
        arm: _runs(part, predictions[rows[part.index]])
        for arm, part in final.groupby("arm", sort=False)
    }
    experiment = results.plan.experiment
    labels = store.labels(final.run_id.iloc[0])
    comparisons = statistics.compare_all(arms, _pairs(experiment, arms), labels=labels)
    return Evidence(results, labels, arms, comparisons, _effects(experiment, arms))


def seeds_to_add(results: Results) -> int:
    """Return how many seeds an experiment that lets them grow still wants; 0 for any other."""
    until = results.plan.experiment.until
    if until is None:
        return 0
    experiment = results.plan.experiment
    arms = {arm: _runs(part) for arm, part in results.final.groupby("arm", sort=False)}
    rule = UntilNarrow(until.halfwidth / 100, until.at_most)
    widths = (_halfwidth(*statistics.common(arms[a], arms[b])) for a, b in _pairs(experiment, arms))
    return rule.seeds_to_add(len(experiment.seeds), widths)


def _halfwidth(arm: Runs, baseline: Runs) -> float:
    """Return that of the seed interval of their difference, infinite for a single seed."""
    interval = statistics.difference_interval(arm.errors, baseline.errors)
    return np.inf if interval is None else interval.halfwidth


def _runs(final: pd.DataFrame, predictions: np.ndarray | None = None) -> Runs:
    diverged = (final.status == "diverged").to_numpy(bool)
    return Runs(final.seed.to_numpy(), final.test_error.to_numpy(), diverged, predictions)


def _pairs(experiment: Experiment, arms: dict[str, Runs]) -> list[tuple[str, str]]:
    """Return what the experiment compares, as far as there are common seeds yet."""
    return [
        pair
        for pair in experiment.comparisons
        if all(name in arms for name in pair)
        and np.intersect1d(arms[pair[0]].seeds, arms[pair[1]].seeds).size
    ]


def _effects(experiment: Experiment, arms: dict[str, Runs]) -> list[Effect]:
    """Return the effects of the factors over the seeds that every arm has."""
    factors = [name for name, levels in (experiment.factors or {}).items() if len(levels) > 1]
    if len(factors) < 2 or len(arms) < len(experiment.arms):
        return []
    shared = statistics.common(*(arms[arm.name] for arm in experiment.arms))
    if not len(shared[0]):
        return []
    return statistics.factorial(
        [arm.overrides for arm in experiment.arms],
        [runs.errors for runs in shared],
        baseline=experiment.arm(experiment.baseline).overrides,
        diverged=np.any([runs.diverged for runs in shared], axis=0),
    )


# ---- in words


def answer(evidence: Evidence) -> str:
    """Return what the experiment has found, in one sentence."""
    experiment, pairs = evidence.plan.experiment, evidence.comparisons.pairs
    if not pairs:
        return " ".join(_alone(arm, runs) for arm, runs in evidence.arms.items())
    if _too_few(evidence):
        return "Nothing can be concluded yet: " + _lower(evidence.comparisons.warning or "")
    found = []
    for kind in ("better", "worse", "no difference", "undecided"):
        of_kind = [pair for pair in pairs if pair.verdict.kind == kind]
        if of_kind:
            found.append(_found(kind, of_kind))
    if experiment.ladder:
        return f"Each step against the one before it: {'; '.join(found)}."
    error = ended(evidence.arms[experiment.baseline])
    base = f"{percent(error.mean)} test error" if error else "every run diverged"
    return f"Against {experiment.baseline} ({base}): {'; '.join(found)}."


def warning(evidence: Evidence) -> str | None:
    """Return what else a reader must know of the comparisons, where the answer does not say it."""
    return None if _too_few(evidence) else evidence.comparisons.warning


def _too_few(evidence: Evidence) -> bool:
    """Whether there are too few seeds for any of the comparisons to be decided."""
    return len(evidence.comparisons.too_few) == len(evidence.comparisons.pairs) > 0


def ended(runs: Runs) -> Description | None:
    """Return the distribution of an arm's errors over the runs that did not diverge, if any.

    The one convention for what an arm reached: a diverged run has no error of its own, and counts
    as 0.9 only where arms are compared.
    """
    errors = runs.errors[~runs.diverged]
    return statistics.describe(errors) if errors.size else None


def _alone(arm: str, runs: Runs) -> str:
    error, diverged = ended(runs), int(runs.diverged.sum())
    if error is None:
        return f"{arm} diverged with {'every seed' if len(runs) > 1 else f'seed {runs.seeds[0]}'}."
    apart = f"; {count(diverged, 'more run')} diverged" if diverged else ""
    if error.interval is None:
        seed = runs.seeds[~runs.diverged][0]
        return f"{arm} misses {percent(error.mean)} of the test digits with seed {seed}{apart}."
    ends = f"{100 * error.interval.low:.2f} to {100 * error.interval.high:.2f}"
    return (
        f"{arm} misses {percent(error.mean)} of the test digits on average over "
        f"{count(error.n, 'seed')} (95 % interval {ends}){apart}."
    )


def _found(kind: str, pairs: Sequence[PairResult]) -> str:
    """Return what holds of the arms with one kind of verdict, the largest difference first."""
    pairs = sorted(pairs, key=lambda pair: -abs(pair.counted.difference))
    rest = []
    if len(pairs) > MOST_NAMED:
        rest = [f"{len(pairs) - MOST_NAMED + 1} more"]
        pairs = pairs[: MOST_NAMED - 1]
    if kind in ("better", "worse"):
        each = [
            f"{pair.arm} by {points(abs(pair.counted.difference), sign=False)} "
            f"{span(pair.counted.interval)}"
            for pair in pairs
        ]
        return f"{kind}: {_listed(each + rest)}"
    if kind == "no difference":
        each = [f"{pair.arm} ({_at_most(pair)})" for pair in pairs]
        return f"no difference that matters: {_listed(each + rest)}"
    each = [
        f"{pair.arm} (both diverged with every seed)" if pair.verdict == BOTH_DIVERGED else pair.arm
        for pair in pairs
    ]
    return f"undecided: {_listed(each + rest)}"


def _at_most(pair: PairResult) -> str:
    interval = pair.counted.interval
    if pair.counted.identical or interval is None:
        return "none with any seed"
    return f"at most {at_most(interval.bound)}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


# ---- as numbers


def comparison_record(evidence: Evidence, pair: PairResult) -> dict[str, Any]:
    """Return a comparison as plain values: differences and errors as fractions of the images."""
    one, joint, without, verdict = pair.counted, pair.joint, pair.excluded, pair.verdict_excluded
    return {
        "arm": pair.arm,
        "baseline": pair.baseline,
        "seeds": one.n,
        "difference": one.difference,
        **_ends("difference", one.interval),
        "interval_method": one.interval.method if one.interval else None,
        **_ends("difference_new_images", joint.interval if joint else None),
        **_ends("difference_new_images_widest", joint.widest if joint else None),
        **_ends("difference_bca", one.bca),
        "sd": one.sd,
        "p": one.p,
        "p_is_exact": one.exact,
        "p_adjusted": pair.p_adjusted,
        "probability_better": one.improvement,
        **_ends("probability_better", one.improvement_interval),
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
        **_ends("difference_excluding_diverged", without.interval if without else None),
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
        **_ends("effect", effect.interval),
        "p": effect.p,
        "p_adjusted": effect.p_adjusted,
        "seeds_excluding_diverged": without.n if without else 0,
        "effect_excluding_diverged": without.effect if without else None,
        **_ends("effect_excluding_diverged", without.interval if without else None),
        "p_adjusted_excluding_diverged": without.p_adjusted if without else None,
        "note": effect.divergence_note,
    }


def _ends(name: str, interval: statistics.Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def arm_summary(evidence: Evidence, arm: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return an arm's numbers and words for its MLflow run: (metrics, tags).

    Fractions of the images. The final error leaves diverged runs out, the difference counts them
    as error 0.9; where there are any, their number and the difference without them stand beside.
    """
    runs = evidence.arms[arm]
    error = ended(runs)
    numbers = {
        "final_error_mean": error.mean if error else None,
        **_ends("final_error", error.interval if error else None),
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
