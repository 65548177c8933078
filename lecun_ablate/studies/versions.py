"""Versions of a study in Optuna's storage: an Optuna study for each arm, and its definition.

A version is continued as long as the trials that the study's file asks for are comparable with the
existing ones.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from lecun_ablate.errors import ConfigError
from lecun_ablate.system.interrupts import held_back

# attributes of the Optuna studies
DEFINITION = "definition"  # what must stay the same
ID = "id"  # of the version; version 1 in another storage has a different one
TRAINER = "trainer"  # the key of a definition that holds the identities of trainers

Records = dict[str, optuna.Study]  # by arm
Definitions = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Held:
    """The latest version of a study in a storage, compared with what is requested now."""

    version: int  # 0: none yet
    records: Records  # of the requested arms
    changes: list[str]  # a line for each difference, except those of the trainer
    trainer_changes: list[str]

    def refuse_changes(self, file: Path, data: str, finished: bool) -> None:
        """Raise ConfigError with the differences if incomparable trials would be mixed.

        A finished study gets no more trials, so a different trainer does not matter.
        """
        changes = self.changes + ([] if finished else self.trainer_changes)
        if changes:
            raise ConfigError(
                [
                    f"{file}: version {self.version} of this study on {data} was different; "
                    "its trials are not comparable with those requested now:",
                    *changes,
                    "--fresh starts a new version, beside the old one",
                ]
            )


def latest(storage: BaseStorage, study: str, data: str, definitions: Definitions) -> Held:
    """Return what a storage has of a study, and how that differs from `definitions`.

    Only keys that are in the definitions are compared.
    """
    names = set(optuna.get_all_study_names(storage))
    pattern = re.compile(re.escape(study) + r" v(\d+) on " + re.escape(data) + ": ")
    version = max((int(m[1]) for m in map(pattern.match, names) if m), default=0)
    held = Held(version, {}, [], [])
    for arm, now in definitions.items():
        name = _name(study, version, data, arm)
        if name not in names:
            continue
        record = held.records[arm] = optuna.load_study(study_name=name, storage=storage)
        then = record.user_attrs.get(DEFINITION, now)
        for key in now:
            lines = held.trainer_changes if key == TRAINER else held.changes
            found = differences(then.get(key), now[key], key)
            lines += [f"arm {arm!r}: {line}" for line in found]
    return held


@held_back()
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
    """Return the version to work on, with an Optuna study for every arm, created if necessary.

    `fresh` starts a new one. Raises ConfigError if the latest one was different.
    """
    held = latest(storage, study, data, definitions)
    version, records = held.version, held.records
    if fresh:
        version, records = version + 1, {}
    else:
        held.refuse_changes(file, data, finished(records))
    version = max(version, 1)
    identity = _identity(storage, _name(study, version, data, ""))
    for arm, definition in definitions.items():
        if arm not in records:
            name = _name(study, version, data, arm)
            records[arm] = optuna.create_study(
                study_name=name, storage=storage, direction="minimize"
            )
        if ID not in records[arm].user_attrs:
            records[arm].set_user_attr(ID, identity)
        if DEFINITION not in records[arm].user_attrs:
            records[arm].set_metric_names([metric])
            records[arm].set_user_attr(DEFINITION, definition)
    return version, records


def _identity(storage: BaseStorage, prefix: str) -> str:
    """Return the id of a version, which all of its arms share: a new one if none has it yet."""
    for name in sorted(optuna.get_all_study_names(storage)):
        if name.startswith(prefix):
            attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
            if ID in attributes:
                return str(attributes[ID])
    return uuid.uuid4().hex


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
