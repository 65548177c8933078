"""Versions of a study in Optuna's storage: an Optuna study for each arm, and what it was about.

A version goes on as long as the study's file asks for trials that compare with those it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from lecun_ablate.errors import ConfigError

DEFINITION = "definition"  # the attribute that holds what must stay the same

Records = dict[str, optuna.Study]  # by arm
Definitions = Mapping[str, dict[str, Any]]


def latest_version(storage: BaseStorage, study: str, data: str) -> int:
    """Return the latest version of a study on a data set, 0 where there is none."""
    pattern = re.compile(re.escape(study) + r" v(\d+) on " + re.escape(data) + ": ")
    found = map(pattern.match, optuna.get_all_study_names(storage))
    return max((int(match[1]) for match in found if match), default=0)


def existing(
    storage: BaseStorage, study: str, version: int, data: str, definitions: Definitions
) -> tuple[Records, list[str]]:
    """Return what a version holds of the arms, and how their definitions differ from its own.

    Only what `definitions` speaks of is compared.
    """
    names = set(optuna.get_all_study_names(storage))
    records: Records = {}
    changes = []
    for arm, now in definitions.items():
        name = _name(study, version, data, arm)
        if name in names:
            records[arm] = optuna.load_study(study_name=name, storage=storage)
            held = records[arm].user_attrs.get(DEFINITION, now)
            before = {key: held.get(key) for key in now}
            changes += [f"arm {arm!r}: {line}" for line in differences(before, now)]
    return records, changes


def open_version(
    storage: BaseStorage,
    file: Path,
    study: str,
    data: str,
    definitions: Definitions,
    metric: str,
    fresh: bool,
    finished: Callable[[Records], bool],
) -> tuple[int, Records]:
    """Return the version to work on, with an Optuna study for every arm, created if need be.

    Raises ConfigError where the latest version was about something else. `fresh` then starts a new
    one; so it does where the latest is finished, but not where it is this very study, unfinished:
    to begin that again would give the same trials, and so a killed `fresh` goes on.
    """
    version = latest_version(storage, study, data)
    records, changes = existing(storage, study, version, data, definitions)
    if changes and not fresh:
        raise ConfigError(
            [
                f"{file}: version {version} of this study on {data} was about something else; its "
                "trials do not compare with those asked for now:",
                *changes,
                "--fresh starts a new version, beside the old one",
            ]
        )
    if fresh and (changes or (records and finished(records))):
        version, records = version + 1, {}
    version = max(version, 1)
    for arm, definition in definitions.items():
        if arm not in records:
            name = _name(study, version, data, arm)
            records[arm] = optuna.create_study(
                study_name=name, storage=storage, direction="minimize"
            )
        if DEFINITION not in records[arm].user_attrs:
            records[arm].set_metric_names([metric])
            records[arm].set_user_attr(DEFINITION, definition)
    return version, records


def _name(study: str, version: int, data: str, arm: str) -> str:
    return f"{study} v{version} on {data}: {arm}"


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Return a line for each value that differs in two nested dictionaries."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for key in dict.fromkeys([*before, *now]):
            inner = f"{where}.{key}" if where else str(key)
            lines += differences(before.get(key), now.get(key), inner)
        return lines
    return [] if before == now else [f"{where} was {before!r}, is now {now!r}"]
