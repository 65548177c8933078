"""A YAML file with the command line's overrides: read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lecun_ablate.config.base import DEFAULT_DATA, DataChoice, by_name
from lecun_ablate.config.recipe import COMPONENT_FIELDS
from lecun_ablate.config.yaml_file import Keys, YamlFile, find_file, parse_scalar
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import registry


@dataclass(frozen=True)
class Overrides:
    """Values that override those of a file, as given by command-line options."""

    seeds: int | Sequence[int] | None = None  # of an experiment
    epochs: int | None = None  # of every arm of an experiment
    dtype: str | None = None  # of every arm of an experiment
    data: str | None = None  # a data set; disables the fallback
    components: Sequence[str | Path] = ()  # loaded before the files that the YAML names
    assignments: Sequence[str] = ()  # such as "recipe.lr=0.05"
    without_seeds: Sequence[int] = ()  # of an experiment
    all_pairs: bool = False  # of an experiment: every arm is compared with every other

    @property
    def forced(self) -> dict[str, Any]:
        """The recipe fields that every arm gets."""
        fields = {"epochs": self.epochs, "dtype": self.dtype}
        return {field: value for field, value in fields.items() if value is not None}


def read(path: str | Path, overrides: Overrides) -> YamlFile:
    """Read a file, apply the overrides, and load the components that either names.

    Raises ConfigError if the file is not YAML; other problems are noted in it.
    """
    yaml = YamlFile(path)
    for assignment in overrides.assignments:
        keys, equals, value = assignment.partition("=")
        if not equals or not all(keys.split(".")):
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as recipe.lr=0.05")
        yaml.set(_keys(keys), parse_scalar(value), f"--set {assignment}")
    yaml.check()
    if overrides.data is not None:
        said = yaml.content.get("data")
        split = {"split": said["split"]} if isinstance(said, dict) and "split" in said else {}
        yaml.set(("data",), {"name": overrides.data} | split, "--data")
    if overrides.seeds is not None:
        seeds = overrides.seeds if isinstance(overrides.seeds, int) else list(overrides.seeds)
        yaml.set(("seeds",), seeds, "--seeds")
    if overrides.all_pairs:
        yaml.set(("compare",), "all", "--all-pairs")
    for file in overrides.components:
        try:
            registry.load(file)
        except ConfigError as error:
            yaml.problems += [(0, f"--components: {problem}") for problem in error.problems]
    for place, named in _component_files(yaml.content):
        try:
            registry.load(find_file(named, yaml.path))
        except ConfigError as error:
            for problem in error.problems:
                yaml.problem(place, problem)
    return yaml


def command_of(yaml: YamlFile) -> str | None:
    """Return the command for a file, by keys that only such files have; None if unclear."""
    keys = set(yaml.content)
    if keys & {"search", "governs"}:
        return "study"
    if keys & {"trials", "experiment", "confirm", "sampler", "pruner", "batch"}:
        return None
    return "run" if keys & {"vary", "arms", "ladder", "ablate", "baseline", "tuned"} else None


def _keys(text: str) -> Keys:
    """Return the keys of an assignment; a parameter's key (`optimizer.mu`) is a single key."""
    keys = text.split(".")
    for i, key in enumerate(keys[:-1]):
        if i and key in COMPONENT_FIELDS:
            keys[i : i + 2] = [f"{key}.{keys[i + 1]}"]
            break
    return tuple(keys)


def data_asked(yaml: YamlFile) -> DataChoice | None:
    """Return the data set that a file asks for.

    None if the file leaves that to another file, or is not valid there. The rest of the file is
    ignored, because validating recipes requires the slow import of PyTorch.
    """
    content = yaml.content
    if "data" not in content and "experiment" in content:  # a study of that experiment
        return None
    try:
        return DataChoice.model_validate(by_name(content.get("data", DEFAULT_DATA)))
    except ValidationError:
        return None


def _component_files(content: Mapping[str, Any]) -> list[tuple[Keys, str]]:
    """Return the component files that a YAML file names, each with its keys."""
    files = content.get("components")
    if isinstance(files, str):
        return [(("components",), files)]
    listed = enumerate(files) if isinstance(files, list) else ()
    return [(("components", i), file) for i, file in listed if isinstance(file, str)]
