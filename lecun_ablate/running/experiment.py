"""A whole experiment: all that its plan lacks, and the seeds that its rule asks for."""

from __future__ import annotations

from lecun_ablate.plan.results import Results
from lecun_ablate.running.progress import Progress
from lecun_ablate.running.training import OnRun, Prepared, train
from lecun_ablate.tracking.plan_run import PlanRun


def run_experiment(
    prepared: Prepared,
    plan_run: PlanRun,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> Results:
    """Train what is missing of a plan, and return all its results.

    They include the seeds that the plan has been run with before. If the experiment lets its seeds
    grow, they do so until its rule is met.

    A run is written as soon as it has ended: an interruption loses only the runs in training.
    """
    results = train(prepared, plan_run, progress, on_run)
    from lecun_ablate.evidence.weighing import seeds_to_add  # slow: imported during training

    while more := seeds_to_add(results):
        plan_run.add_seeds(more)
        results = train(prepared, plan_run, progress, on_run)
    return results
