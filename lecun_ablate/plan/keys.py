"""The keys of runs, plans and studies: hashes of everything that determines their numbers.

Stored keys must never change: with a different key, every store would train its runs again. So
neither the hashed values nor their form may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.trainers.base import Identity


def content_hash(content: Mapping[str, Any]) -> str:
    """Return a SHA-256 of a mapping of plain values, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def run_key(recipe: Recipe, seed: int, data: Mapping[str, str], trainer: Identity) -> str:
    """Return the hash of everything that determines a run's numbers: equal key, equal result.

    `data` holds the data set's "digest" and the "split" that the run is trained and scored on.
    """
    return content_hash(
        {
            "recipe": recipe.stored,
            "components": {f"{c.kind}/{c.name}": c.digest for c in recipe.user_components},
            "seed": seed,
            "data": dict(data),
            "trainer": trainer.stored,
        }
    )


def plan_key(experiment: Experiment, digest: str, trainers: Mapping[str, Identity]) -> str:
    """Return the hash that identifies an experiment's plan: everything but the seeds.

    `digest` is that of the data; `trainers` maps each arm to the identity of its trainer. Of a path
    it has the arms that the path begins with: the file decides the key, not the results.
    """
    ablation = experiment.ablation
    resampled = [arm.name for arm in experiment.arms if arm.resampled]
    return content_hash(
        {
            "name": experiment.name,
            "arms": {
                arm.name: [recipe.stored for recipe in arm.recipes]
                if arm.drawn
                else arm.recipe.stored
                for arm in experiment.arms
            },
            "components": {
                f"{component.kind}/{component.name}": component.digest
                for arm in experiment.arms
                for recipe in arm.recipes
                for component in recipe.user_components
            },
            "comparisons": experiment.comparisons,
            "data": digest,
            "trainers": {arm.name: trainers[arm.name].stored for arm in experiment.arms},
        }
        | ({"resampled": resampled} if resampled else {})
        | ({"path": ablation.changes} if ablation and ablation.arms == "path" else {})
    )


def study_key(name: str, digest: str, version_id: str) -> str:
    """Return the hash that identifies one version of a search study.

    `digest` is that of the data; `version_id` distinguishes versions in different storages.
    """
    return content_hash({"study": name, "data": digest, "id": version_id})
