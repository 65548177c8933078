"""A whole experiment: all that its plan lacks, and what its rules ask for beyond that."""

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
    grow, they do so until its rule is met; the arms of a path follow one step after the other.

    A run is written as soon as it has ended: an interruption loses only the runs in training.
    """
    results = train(prepared, plan_run, progress, on_run)
    from lecun_ablate.evidence.weighing import (  # slow: imported during training
        seeds_to_add,
        sets_to_add,
    )

    while True:
        if more := seeds_to_add(results):
            plan_run.add_seeds(more)
        elif sets := sets_to_add(results):
            plan_run.add_sets(sets)
        else:
            return results
        results = train(prepared, plan_run, progress, on_run)
