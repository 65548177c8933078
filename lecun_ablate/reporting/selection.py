"""Which arms a report shows first if an experiment has many."""

from __future__ import annotations

from lecun_ablate.evidence.weighing import Evidence, ended

MOST = 12  # arms that tables and figures show; with more, the best, the worst and the baseline
EACH = 5  # of the best and of the worst
CURVE_FROM = 9  # values of a single numeric factor that are drawn as a curve


def shown_arms(evidence: Evidence) -> list[str]:
    """Return the arms that are shown first, in the order of the experiment.

    All of them, unless there are more than MOST: then the EACH best, the EACH worst and the
    baseline. Arms whose runs all diverged are the worst.
    """
    names = [arm.name for arm in evidence.plan.experiment.arms]
    if len(names) <= MOST:
        return names
    errors = {arm: ended(runs) for arm, runs in evidence.arms.items()}
    ranked = sorted(errors, key=lambda arm: found.mean if (found := errors[arm]) else 1.0)
    chosen = {*ranked[:EACH], *ranked[-EACH:], evidence.plan.experiment.baseline}
    return [name for name in names if name in chosen]


def curve_factor(evidence: Evidence) -> str | None:
    """Return the numeric factor with enough values for a curve; None if there is none."""
    factors = evidence.plan.experiment.factors or {}
    varied = {name: levels for name, levels in factors.items() if len(levels) > 1}
    if len(varied) != 1:
        return None
    ((name, levels),) = varied.items()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in levels)
    return name if numbers and len(levels) >= CURVE_FROM else None
