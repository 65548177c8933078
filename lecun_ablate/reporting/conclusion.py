"""The conclusions of an experiment, written to its runs in MLflow."""

from __future__ import annotations

from lecun_ablate.config.experiment import Experiment
from lecun_ablate.evidence.records import arm_summary
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Answers, Evidence, weigh
from lecun_ablate.network.initial import connectivity
from lecun_ablate.plan.results import Results, RunStatus
from lecun_ablate.reporting.description import description
from lecun_ablate.tracking.plan_run import ArmSummary, Conclusion, PlanRun


def conclude(results: Results, answers: Answers, plan_run: PlanRun) -> Evidence:
    """Weigh results, write the conclusions to the plan's runs, and return the evidence."""
    evidence = weigh(results, answers)
    plan_run.conclude(results, _conclusion(evidence))
    return evidence


def _conclusion(evidence: Evidence) -> Conclusion:
    results = evidence.results
    numbers = {
        "arms": len(evidence.arms),
        "seeds": len(evidence.plan.experiment.seeds),
        "runs": len(results.final),
        "training_seconds": float(results.frame.epoch_seconds.sum()),
        "diverged_runs": int((results.final.status == RunStatus.DIVERGED).sum()),
        "collapsed_runs": int((results.final.status == RunStatus.COLLAPSED).sum()),
    }
    return Conclusion(answer(evidence), description(evidence), numbers, _summaries(evidence))


def _summaries(evidence: Evidence) -> dict[str, ArmSummary]:
    """Return the conclusion about every arm that has runs."""
    pictures = _connectivity_pictures(evidence.plan.experiment)
    return {
        arm: ArmSummary(*arm_summary(evidence, arm), {"connectivity.png": pictures[arm]})
        for arm in evidence.arms
    }


def _connectivity_pictures(experiment: Experiment) -> dict[str, bytes]:
    """Return a picture (PNG) of what each arm's H2 planes see with the first seed."""
    from lecun_ablate.reporting.figures import connectivity_matrix, png

    drawn: dict[bytes, bytes] = {}  # most arms share a picture
    pictures = {}
    for arm in experiment.arms:
        seen = connectivity(arm.recipe, experiment.seeds[0])
        key = arm.recipe.connectivity.encode() + seen.tobytes()
        if key not in drawn:
            drawn[key] = png(connectivity_matrix(seen, arm.recipe.connectivity))
        pictures[arm.name] = drawn[key]
    return pictures
