"""What the YAML files of experiments and studies have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lecun_ablate.config.recipe import (
    COMPONENT_FIELDS,
    Recipe,
    Seed,
    check_parameter,
    is_parameter,
    registered,
)
from lecun_ablate.config.yaml_file import Keys, YamlFile, explain, written
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import registry


class DataChoice(BaseModel):
    """A data set by name, and the fallback if it is not available."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, registered("data")]
    fallback: Annotated[str, registered("data")] | None = None
    # resampled: training and test images are pooled, and each run's seed draws a new split
    split: Literal["known", "resampled"] = "known"


DEFAULT_DATA = DataChoice(name="usps", fallback="digits")


def one_or_list(value: Any) -> Any:
    """Turn a single string into a list of one; pydantic validates the rest."""
    return [value] if isinstance(value, str) else value


def by_name(value: Any) -> Any:
    """Turn a single string into a mapping with it as `name`; pydantic validates the rest."""
    return {"name": value} if isinstance(value, str) else value


def _seed_list(value: Any) -> Any:
    """Turn a number of seeds n into 0..n-1; pydantic validates the list itself."""
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise ValueError(f"expected a number of seeds or a list of seeds, got {written(value)}")
    if isinstance(value, int):
        if not 1 <= value <= 100_000:
            raise ValueError(f"expected 1 to 100000 seeds, got {value}")
        return list(range(value))
    if not value:
        raise ValueError("expected at least one seed, got an empty list")
    repeated = sorted({str(seed) for seed in value if value.count(seed) > 1})
    if repeated:
        raise ValueError(f"seed {repeated[0]} is given twice")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
Data = Annotated[DataChoice, BeforeValidator(by_name)]
Files = Annotated[list[str], BeforeValidator(one_or_list)]
Seeds = Annotated[list[Seed], BeforeValidator(_seed_list)]
SomeArms = Annotated[list[dict[str, Any]], Field(min_length=1)]
SomeFactors = Annotated[dict[str, Any], Field(min_length=1)]


class ConfigFile(BaseModel):
    """The keys of every file. The fields under `recipe` are validated as recipe fields."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    question: str = ""
    components: Files = []
    recipe: dict[str, Any] = {}


# ---- the fields of recipes


def recipe_problems(fields: Any) -> list[tuple[Keys, str]]:
    """Return what is wrong with values for recipe fields: (the field's key, message).

    The key is () if each field is valid, but they do not go together.
    """
    try:
        Recipe.model_validate(fields)
    except ValidationError as error:
        return list(explain(error, Recipe))
    return []


def check_value(yaml: YamlFile, keys: Keys, field: str, value: Any) -> bool:
    """Return whether a value is valid for a recipe field, and note why if it is not."""
    messages = [message for _, message in _problems_by_key({field: value})]
    for message in messages:
        yaml.problem(keys, message)
    return not messages


def _problems_by_key(fields: dict[str, Any]) -> list[tuple[Keys, str]]:
    """Return what is wrong with recipe fields, each checked by itself: (its key, message)."""
    problems: list[tuple[Keys, str]] = []
    for key, value in fields.items():
        if is_parameter(key):
            try:
                check_parameter(key, value)
            except ConfigError as error:
                problems.append(((key,), str(error)))
    plain = {key: value for key, value in fields.items() if not is_parameter(key)}
    return problems + [(where, message) for where, message in recipe_problems(plain) if where]


def canonical(field: str, value: Any) -> Any:
    """Return a valid value of a recipe field in its canonical form, which is shown and stored."""
    if field in COMPONENT_FIELDS:
        return registry.canonical(COMPONENT_FIELDS[field], value)
    return check_parameter(field, value) if is_parameter(field) else value


def check_overrides(
    yaml: YamlFile, overrides: Any, keys: Keys, option: str | None = None
) -> dict[str, Any]:
    """Return the overrides that are valid recipe fields; note problems with the others.

    `keys` is their place in the file, `option` the command-line option that sets them. Each field
    is checked by itself: whether fields go together depends on the whole arm.
    """
    if not isinstance(overrides, dict):
        return {}
    bad = set()
    for where, message in _problems_by_key(overrides):
        bad.add(where[0])
        if option:
            yaml.problems.append((0, f"{option}: {message}"))
        else:
            yaml.problem(keys + where, message)
    return {key: canonical(key, value) for key, value in overrides.items() if key not in bad}


def make_recipe(
    yaml: YamlFile, fields: dict[str, Any], keys: Keys, whose: str = ""
) -> Recipe | None:
    """Return a recipe from fields that are valid one by one; note it if they do not go together."""
    known = {k: v for k, v in fields.items() if k in Recipe.model_fields or is_parameter(k)}
    problems = recipe_problems(known)
    for where, message in problems:
        if not where:
            yaml.problem(keys, f"{whose}{message}")
    return None if problems else Recipe.model_validate(known)
