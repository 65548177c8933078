"""A whole experiment: train what is missing, weigh what has come of it, write the conclusions."""

from __future__ import annotations

from collections.abc import Callable

from lecun_ablate.config.experiment import Experiment
from lecun_ablate.evidence.records import arm_summary
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence, seeds_to_add, weigh
from lecun_ablate.network.initial import connectivity
from lecun_ablate.plan.results import RunStatus
from lecun_ablate.running.progress import Progress
from lecun_ablate.running.training import OnRun, Prepared, train
from lecun_ablate.tracking.plan_run import ArmSummary, Conclusion, PlanRun
from lecun_ablate.tracking.writer import Writer


def run_experiment(
    prepared: Prepared,
    writer: Writer,
    notice: Callable[[str], None],
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> Evidence:
    """Train what is missing of a plan, write it to the store, and return everything it shows.

    That includes the seeds that the plan has been run with before. If the experiment lets its seeds
    grow, they do so until its rule is met. `notice` is told what a user must know of either, and of
    runs that have lost their files.

    A run is written as soon as it has ended: an interruption loses only the runs in training.
    """
    with PlanRun.opened(writer, prepared.plan, notice) as plan_run:
        results = train(prepared, plan_run, progress, on_run)
        while more := seeds_to_add(results):
            plan_run.add_seeds(more)
            results = train(prepared, plan_run, progress, on_run)
        evidence = weigh(results, writer.files)
        plan_run.conclude(results, _conclusion(evidence))
    return evidence


def _conclusion(evidence: Evidence) -> Conclusion:
    from lecun_ablate.reporting.description import description

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
    """Return what is concluded about every arm that has runs."""
    pictures = _connectivity_pictures(evidence.plan.experiment)
    return {
        arm: ArmSummary(*arm_summary(evidence, arm), {"connectivity.png": pictures[arm]})
        for arm in evidence.arms
    }


def _connectivity_pictures(experiment: Experiment) -> dict[str, bytes]:
    """Return a picture (PNG) of what each arm's H2 planes see with the first seed."""
    from lecun_ablate.reporting.figures import connectivity_matrix, png

    drawn: dict[bytes, bytes] = {}  # most arms share theirs
    pictures = {}
    for arm in experiment.arms:
        seen = connectivity(arm.recipe, experiment.seeds[0])
        key = arm.recipe.connectivity.encode() + seen.tobytes()
        if key not in drawn:
            drawn[key] = png(connectivity_matrix(seen, arm.recipe.connectivity))
        pictures[arm.name] = drawn[key]
    return pictures
