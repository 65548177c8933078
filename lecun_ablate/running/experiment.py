"""A whole experiment: the missing runs of its plan, and the seeds and arms its rules ask for."""

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
    """Train the missing runs of a plan, and return all its results.

    They include seeds that the plan was run with before. If the experiment has a stopping rule,
    seeds are added until it is met. Then the arms of a path are added, one step at a time.

    A run is written as soon as it ends, so an interruption loses only the runs in training.
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
