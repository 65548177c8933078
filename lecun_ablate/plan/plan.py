"""A plan: an experiment with its data, the trainer of every arm and the key of every run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lecun_ablate.config import ablation
from lecun_ablate.config.arms import Arm, Drawn, Tuning
from lecun_ablate.config.base import DataChoice
from lecun_ablate.config.command import Command
from lecun_ablate.config.experiment import VARIANT_OPTIONS, Experiment, Until
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Digits
from lecun_ablate.plan.keys import plan_key, run_key
from lecun_ablate.system.text import count
from lecun_ablate.trainers.base import Identity

SPLIT = "train/test"  # trained on the whole training split, scored on it and on the test split
RESAMPLED_SPLIT = "resampled train/test"  # the same, for the split drawn by the run's seed


@dataclass(frozen=True)
class Plan:
    """What is to be trained and compared. `keys` maps (arm, seed) to the run's key."""

    experiment: Experiment
    data: str  # the name of the data set that is actually used
    data_digest: str
    notice: str | None  # a notice about the data, such as that a fallback was used
    trainers: dict[str, Identity]  # by arm, including `further` arms
    keys: dict[tuple[str, int], str]
    key: str  # of the plan itself: everything but the seeds, and the arms that a path has come to

    @classmethod
    def make(cls, experiment: Experiment, digits: Digits, trainers: Mapping[str, Identity]) -> Plan:
        """Combine an experiment with data and with the identity of each arm's trainer."""
        return cls(
            experiment,
            digits.name,
            digits.digest,
            digits.notice,
            dict(trainers),
            _keys(experiment, digits.digest, trainers),
            plan_key(experiment, digits.digest, trainers),
        )

    def with_seeds(self, seeds: Sequence[int]) -> Plan:
        """Return the same plan for other seeds."""
        command = self.experiment.command
        if command and self.experiment.until is None:  # a stopping rule determines its own seeds
            command = command.with_seeds(seeds)
        experiment = replace(self.experiment, seeds=tuple(seeds), command=command)
        keys = _keys(experiment, self.data_digest, self.trainers)
        return replace(self, experiment=experiment, keys=keys)

    def with_sets(self, more: Iterable[Collection[str]]) -> Plan:
        """Return the same plan with arms for more sets of the changes that a path makes."""
        experiment = self.experiment.with_sets(more)
        return replace(
            self, experiment=experiment, keys=_keys(experiment, self.data_digest, self.trainers)
        )

    def as_in_the_file(self) -> Plan:
        """Return the same plan without the options of a variant, which change nothing here."""
        command = self.experiment.command
        command = command.without(*VARIANT_OPTIONS) if command else None
        return replace(self, experiment=replace(self.experiment, command=command))

    def pending(self, finished: Container[str]) -> list[tuple[str, int]]:
        """Return the (arm, seed) runs whose keys are not among the finished ones.

        They are ordered by seed, so that arms stay paired if training is interrupted.
        """
        return [run for run, key in self.keys.items() if key not in finished]

    @property
    def tracking_name(self) -> str:
        """The name of the MLflow experiment: results on different data never mix."""
        return f"{self.experiment.name}/{self.data}"

    @property
    def trainer_identities(self) -> str:
        """The trainers in use, for display, with everything that their numbers depend on."""
        each = {
            f"{t.name} on {t.device}, {t.instruction_set}, numerics {t.numerics}"
            for t in (self.trainers[arm.name] for arm in self.experiment.arms)
        }
        return " and ".join(sorted(each))

    def differences(self, other: Plan) -> list[str]:
        """Return how `other`, a plan of the same experiment, differs from this one, in words."""
        mine, theirs = ({a.name: a.described for a in p.experiment.arms} for p in (self, other))
        words = []
        if list(mine) != list(theirs):
            words.append(f"arms {', '.join(theirs)}")
        common = [arm for arm in theirs if arm in mine]
        changed: dict[str, list[str]] = defaultdict(list)  # "lr 0.05" -> arms
        for arm in common:
            for field, value in theirs[arm].items():
                if value != mine[arm].get(field):
                    changed[f"{field} {value}"].append(arm)
        for what, arms in changed.items():
            words.append(what if arms == common else f"{what} ({', '.join(arms)})")
        if other.experiment.comparisons != self.experiment.comparisons:
            theirs_are = other.experiment
            words.append(
                "a ladder"
                if theirs_are.ladder
                else "all arms with one another"
                if theirs_are.compare == "all"
                else f"baseline {theirs_are.baseline}"
            )
        if other.data_digest != self.data_digest:
            words.append(f"data digest {other.data_digest}")
        if any(other.trainers[arm] != self.trainers[arm] for arm in common):
            words.append(f"trained by {other.trainer_identities}")
        if other.experiment.seeds != self.experiment.seeds:
            words.append(count(len(other.experiment.seeds), "seed"))
        return words

    def to_json(self) -> str:
        """Return the plan as JSON, for the artifacts of the experiment's run."""
        content = asdict(self)
        experiment = self.experiment
        content["experiment"] |= {
            "data": experiment.data.model_dump(),
            "arms": [
                {
                    "name": a.name,
                    "overrides": a.overrides,
                    "recipe": a.recipe.model_dump(),
                    "tuning": asdict(a.tuning) if a.tuning else None,
                    "drawn": [
                        {"recipe": one.recipe.model_dump(), "tuning": asdict(one.tuning)}
                        for one in a.drawn
                    ],
                    "resampled": a.resampled,
                }
                for a in experiment.arms
            ],
            "file": str(experiment.file) if experiment.file else None,
            "tuned": str(experiment.tuned) if experiment.tuned else None,
            "until": experiment.until.model_dump() if experiment.until else None,
            "command": str(experiment.command) if experiment.command else None,
        }
        del content["experiment"]["further"]  # the file makes them anew
        content["trainers"] = {arm.name: content["trainers"][arm.name] for arm in experiment.arms}
        content["keys"] = [[arm, seed, key] for (arm, seed), key in self.keys.items()]
        return json.dumps(content, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back. Recipes are not validated: their components may not be loaded here."""
        content = json.loads(text)
        experiment = content["experiment"]
        arms = [
            Arm(
                arm["name"],
                arm["overrides"],
                Recipe.model_construct(**arm["recipe"]),
                Tuning(**arm["tuning"]) if arm.get("tuning") else None,
                tuple(
                    Drawn(Recipe.model_construct(**one["recipe"]), Tuning(**one["tuning"]))
                    for one in arm.get("drawn", ())
                ),
                arm.get("resampled", False),
            )
            for arm in experiment["arms"]
        ]
        experiment |= {
            "arms": tuple(arms),
            "data": DataChoice.model_construct(**experiment["data"]),
            "seeds": tuple(experiment["seeds"]),
            "without_seeds": tuple(experiment.get("without_seeds", ())),
            "ablation": ablation.stored(experiment.get("ablation")),
            "file": Path(file) if (file := experiment.get("file")) else None,
            "tuned": Path(study) if (study := experiment.get("tuned")) else None,
            "until": Until(**until) if (until := experiment.get("until")) else None,
            "command": Command.parse(command) if (command := experiment.get("command")) else None,
        }
        content["experiment"] = Experiment(**experiment)
        content["trainers"] = {
            arm: Identity(**identity) for arm, identity in content["trainers"].items()
        }
        content["keys"] = {(arm, seed): key for arm, seed, key in content["keys"]}
        return cls(**content)


def _keys(
    experiment: Experiment, digest: str, trainers: Mapping[str, Identity]
) -> dict[tuple[str, int], str]:
    return {
        (arm.name, seed): run_key(
            arm.recipe_for(seed),
            seed,
            {"digest": digest, "split": RESAMPLED_SPLIT if arm.resampled else SPLIT},
            trainers[arm.name],
        )
        for seed in experiment.seeds
        for arm in experiment.arms
    }
