"""Tuned experiments: every arm gets the values that a study found for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lecun_ablate.config.arms import Arm, Drawn, Tuning
from lecun_ablate.config.command import Command
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.config.study import SearchStudy, load_study
from lecun_ablate.config.yaml_file import find_file
from lecun_ablate.data.digits import Digits
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.studies.arm_search import ArmSearch, searches
from lecun_ablate.studies.optuna_storage import explained, open_storage
from lecun_ablate.studies.outcome import winning_values
from lecun_ablate.studies.versions import differences, latest
from lecun_ablate.system.text import count


class NotStudied(LecunAblateError):
    """The study that tunes an experiment has not found its arms' values yet."""


def study_of(experiment: Experiment) -> SearchStudy:
    """Return the study that tunes an experiment.

    Raises ConfigError if there is none, or if it searches nothing or a field that the experiment
    itself sets, whose value would be ignored.
    """
    assert experiment.tuned
    try:
        file = find_file(experiment.tuned, experiment.file)
    except ConfigError as error:
        raise ConfigError(f"{experiment.file}: tuned: {error}") from None
    study = load_study(file)
    if not isinstance(study, SearchStudy):
        raise ConfigError(f"{experiment.file}: tuned: {study.file} searches nothing")
    ignored = [
        f"{place}: {field}: {study.file} searches it, so this value would be ignored: leave it "
        "out, or leave out `tuned`"
        for field, place in (experiment.stated or {}).items()
        if field in study.search
    ]
    if ignored:
        raise ConfigError(ignored)
    return study


def apply(
    experiment: Experiment, digits: Digits, storage: str, options: Mapping[str, object]
) -> Experiment:
    """Return an experiment whose arms have the values that its study found for them.

    `storage` is the address of Optuna's storage. `options` are those of the command that runs the
    study, for the message that says to run it. Raises ConfigError if the study does not have one of
    the arms, NotStudied if it is unfinished on these data.
    """
    study = study_of(experiment)
    _refuse_unfair(experiment, study)
    partners = _partners(experiment, study)
    command = Command.of("study", study.file).with_options({"--data": digits.name, **options})
    opened = open_storage(storage)
    done: dict[str, list[ArmSearch]] = {}
    version = 0
    if opened is not None:
        with explained(storage):
            # the values are valid for any trainer, whichever found them
            definitions = {
                one.label(arm.name): one.definition(arm, digits.digest)
                for arm in study.arms
                for one in study.each()
            }
            held = latest(opened, study.name, digits.name, definitions)
            version = held.version
            if held.changes:
                raise NotStudied(
                    "\n".join(
                        [
                            f"{study.file} has changed since it was run:",
                            *held.changes,
                            f"run it again first: {command} --fresh",
                        ]
                    )
                )
            for search in searches(study, held.records):
                if not search.missing():
                    done.setdefault(search.arm.name, []).append(search)
    whole = len(study.each())
    waiting = [name for name, partner in partners.items() if len(done.get(partner, ())) < whole]
    if waiting:
        raise NotStudied(
            f"{study.file} has not been run to its end on {digits.name}: it has no values yet for "
            f"{', '.join(waiting)}; run it first ({command}), or let `run --tune` do so"
        )
    guessing = {one.split_seed: digits.holdout(seed=one.split_seed)[1].guessing
                for one in study.each()}  # fmt: skip
    arms = []
    for arm in experiment.arms:
        found = [
            _drawn(arm, search, guessing[search.study.split_seed], study, version, digits)
            for search in done[partners[arm.name]]
        ]
        first = found[0]
        several = tuple(found) if whole > 1 else ()
        arms.append(replace(arm, recipe=first.recipe, tuning=first.tuning, drawn=several))
    return replace(experiment, arms=tuple(arms))


def _refuse_unfair(experiment: Experiment, study: SearchStudy) -> None:
    """Raise ConfigError if the seeds cannot be divided among a study's searches."""
    if study.searches is None:
        return
    used = sorted(study.used_seeds.intersection(experiment.seeds))
    if used:
        raise ConfigError(
            f"{experiment.file}: seeds: {used[0]} has searched or confirmed values in "
            f"{study.file}: expected other seeds, such as 0 to {len(experiment.seeds) - 1}"
        )
    if study.searches > 1 and experiment.until:
        raise ConfigError(
            f"{experiment.file}: seeds.until: more seeds do not reduce the variation between "
            f"the {study.searches} searches of {study.file}: expected a number of seeds"
        )
    of_each = Counter(seed % study.searches for seed in experiment.seeds)
    if not experiment.without_seeds and len({of_each[k] for k in range(study.searches)}) > 1:
        number = -(-len(experiment.seeds) // study.searches) * study.searches
        raise ConfigError(
            f"{experiment.file}: seeds: the {study.searches} searches of {study.file} share the "
            f"seeds (seed s trains with the values of search s modulo {study.searches}): expected "
            f"the same number for each, such as {number} seeds, got "
            f"{', '.join(str(of_each[k]) for k in range(study.searches))}"
        )


def shared_seeds(experiment: Experiment) -> str | None:
    """Return the notice about seeds that played a part in choosing the arms' values, if any."""
    study = study_of(experiment)
    used = sorted(study.used_seeds.intersection(experiment.seeds))
    if not used:
        return None
    return (
        f"{count(len(used), 'seed')} of this experiment ({', '.join(map(str, used[:5]))}"
        f"{', ...' if len(used) > 5 else ''}) played a part in choosing its values: "
        f"with `searches: 1`, {study.file} searches and confirms with seeds that no experiment has"
    )


def _partners(experiment: Experiment, study: SearchStudy) -> dict[str, str]:
    """Return for every arm of an experiment the study's arm that finds its values."""
    partners: dict[str, str] = {}
    for arm in experiment.arms:
        partner = _partner(experiment, study, arm)
        for other, taken in partners.items():
            if taken == partner:
                raise ConfigError(
                    f"{experiment.file}: tuned: the arms {other!r} and {arm.name!r} differ only in "
                    f"what {study.file} searches, so both would get the same values: leave one out"
                )
        partners[arm.name] = partner
    return partners


def _partner(experiment: Experiment, study: SearchStudy, arm: Arm) -> str:
    """Return the study's arm that has the experiment's arm's recipe, except for searched fields."""

    def fixed(candidate: Arm) -> dict[str, Any]:
        return candidate.recipe.without(study.search)

    for candidate in study.arms:
        if fixed(candidate) == fixed(arm):
            return candidate.name
    nearest = min(study.arms, key=lambda c: len(differences(fixed(c), fixed(arm))))
    lines = [
        f"{field}={value!r} (its arm {nearest.name!r}: {fixed(nearest)[field]!r})"
        for field, value in fixed(arm).items()
        if fixed(nearest)[field] != value
    ]
    raise ConfigError(
        f"{experiment.file}: tuned: {study.file} does not study the arm {arm.name!r} with "
        f"{', '.join(lines)}"
    )


def _drawn(
    arm: Arm, search: ArmSearch, guessing: float, study: SearchStudy, version: int, digits: Digits
) -> Drawn:
    """Return an arm's recipe with the values that one search found."""
    values, error = winning_values(search, guessing)
    tuning = Tuning(
        study=str(study.file),
        version=version,
        data=digits.name,
        values=values,
        trials=study.trials,
        seeds=len(study.seeds),
        validation_error=error,
    )
    return Drawn(study.recipe(arm, values), tuning)
