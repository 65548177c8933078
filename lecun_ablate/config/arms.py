"""Arms: the recipes that are compared, built from a file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lecun_ablate.config.ablation import Ablation, parse_ablation
from lecun_ablate.config.base import canonical, check_overrides, check_value, make_recipe
from lecun_ablate.config.recipe import Recipe, is_parameter, merged
from lecun_ablate.config.yaml_file import Keys, YamlFile, written
from lecun_ablate.errors import nearest
from lecun_ablate.system.text import is_invisible


@dataclass(frozen=True)
class Tuning:
    """The origin of an arm's tuned values."""

    study: str  # the YAML file
    version: int
    data: str
    values: dict[str, Any]  # recipe field -> value
    trials: int
    seeds: int  # of each trial
    validation_error: float  # of these values, over the confirming seeds


@dataclass(frozen=True)
class Drawn:
    """The recipe that one of several searches found for an arm."""

    recipe: Recipe
    tuning: Tuning


@dataclass(frozen=True)
class Arm:
    """A named recipe; `overrides` are its differences from the experiment's recipe.

    An arm tuned by several searches has a recipe from each of them: in every arm, the run with seed
    s uses the recipe with number s modulo the number of searches.
    """

    name: str
    overrides: dict[str, Any]
    recipe: Recipe  # the first of `drawn`, if there are several
    tuning: Tuning | None = None  # None: it has not been tuned
    drawn: tuple[Drawn, ...] = ()
    resampled: bool = False  # whether a run's seed draws its training and test images

    def recipe_for(self, seed: int) -> Recipe:
        """Return the recipe of the run with a seed."""
        return self.drawn[seed % len(self.drawn)].recipe if self.drawn else self.recipe

    def tuning_for(self, seed: int) -> Tuning | None:
        """Return the origin of the values of the run with a seed."""
        return self.drawn[seed % len(self.drawn)].tuning if self.drawn else self.tuning

    @property
    def recipes(self) -> list[Recipe]:
        """All recipes of the arm's runs."""
        return [one.recipe for one in self.drawn] or [self.recipe]

    @property
    def described(self) -> dict[str, Any]:
        """The recipe's fields as plain values; where recipes differ, a list in words."""
        fields = self.recipe.model_dump()
        for field in fields:
            values = list(dict.fromkeys(getattr(recipe, field) for recipe in self.recipes))
            if len(values) > 1:
                fields[field] = ", ".join(map(_short, values))
        return fields

    @property
    def rate(self) -> str:
        """The learning rate for display, or the smallest and the largest of several."""
        rates = sorted({recipe.lr for recipe in self.recipes})
        return " - ".join(dict.fromkeys(f"{lr:.4g}" for lr in (rates[0], rates[-1])))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse_arms(
    yaml: YamlFile, forced: dict[str, Any]
) -> tuple[list[Arm], dict[str, list[Any]] | None, Ablation | None]:
    """Return the valid arms of a file; note problems with the others.

    Also returns the factors of a full product, and the ablation between two recipes. If a
    combination under `ablate` is invalid, larger ones that contain it are left out unreported.
    """
    content = yaml.content
    kinds = ("vary", "arms", "ladder", "ablate")
    given = [key for key in kinds if content.get(key) is not None]
    for key in kinds:
        if key in content and content[key] is None:
            yaml.problem((key,), "expected something to compare, got nothing")
    if len(given) > 1:
        yaml.problem((given[1],), f"an experiment has either {given[0]} or {given[1]}, not both")
        return [], None, None
    recipe = check_overrides(yaml, content.get("recipe") or {}, ("recipe",))
    rows: list[tuple[Keys, str, dict[str, Any]]] = []
    factors = ablation = None
    if not given:
        rows = [((), str(content.get("name")), {})]
    elif given == ["vary"] and isinstance(content["vary"], dict):
        factors = _factors(yaml, content["vary"])
        for values in itertools.product(*factors.values()) if factors else ():
            overrides = dict(zip(factors, values, strict=True))
            rows.append((("vary",), arm_name(overrides), overrides))
    elif given == ["ablate"]:
        ablated, ablation = parse_ablation(yaml, content["ablate"], recipe)
        rows = [(("ablate",), name, overrides) for name, overrides in ablated.items()]
    elif isinstance(content[given[0]], list):
        rows = _listed(yaml, given[0], content[given[0]])
    arms: list[Arm] = []
    sets = {arm: set(made) for arm, made in ablation.sets.items()} if ablation else {}
    refused: list[set[str]] = []
    for keys, name, overrides in rows:
        if any(sets[name] >= less for less in refused):
            continue
        fields = merged(recipe, overrides) | forced
        made = make_recipe(yaml, fields, keys or ("recipe",), f"arm {name!r}: ")
        if made is None and sets:
            refused.append(sets[name])
        arm = Arm(name, overrides, made) if made else None
        if arm and not any(_same(yaml, keys, arm, other) for other in arms):
            arms.append(arm)
    return arms, factors, ablation


def _factors(yaml: YamlFile, vary: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists under `vary`, each value checked as a value of its recipe field."""
    factors = {}
    for field, values in vary.items():
        if field not in Recipe.model_fields and not is_parameter(field):
            yaml.problem(
                ("vary", field),
                f"unknown recipe field {field!r}: {nearest(field, Recipe.model_fields)}",
            )
        elif not isinstance(values, list) or not values:
            yaml.problem(("vary", field), f"expected a list of values, got {written(values)}")
        else:
            factors[field] = [
                canonical(field, value)
                for i, value in enumerate(values)
                if check_value(yaml, ("vary", field, i), field, value)
            ]
    return factors


def _listed(yaml: YamlFile, key: str, items: list[Any]) -> list[tuple[Keys, str, dict[str, Any]]]:
    """Return the arms of `arms:` or `ladder:`; a ladder's overrides add up from step to step."""
    rows = []
    climbed: dict[str, Any] = {}
    for i, item in enumerate(items):
        keys: Keys = (key, i)
        if not isinstance(item, dict):
            continue  # the schema has reported it
        overrides = {field: value for field, value in item.items() if field != "name"}
        given = item.get("name", "-")
        if not isinstance(given, str) or not given.strip():
            yaml.problem((*keys, "name"), f"expected a name, got {written(given)}")
        elif any(map(is_invisible, given)):
            yaml.problem((*keys, "name"), f"expected a name on one line, got {given!r}")
        name = str(item.get("name", arm_name(overrides)))
        overrides = check_overrides(yaml, overrides, keys)
        if key == "ladder":
            overrides = climbed = merged(climbed, overrides)
        rows.append((keys, name, overrides))
    return rows


def arm_name(overrides: Mapping[str, Any]) -> str:
    """Return the name of an unnamed arm: its value, or field=value if it has several."""
    if not overrides:
        return "unchanged"
    if len(overrides) == 1:
        return str(next(iter(overrides.values())))
    return " ".join(f"{field}={value}" for field, value in overrides.items())


def _same(yaml: YamlFile, keys: Keys, arm: Arm, other: Arm) -> bool:
    if arm.name == other.name:
        yaml.problem(keys, f"duplicate arm: {arm.name!r} is given twice")
        return True
    if arm.recipe == other.recipe and not yaml.problems:  # invalid arms may look alike
        yaml.problem(keys, f"duplicate arm: {arm.name!r} is the same recipe as {other.name!r}")
        return True
    return False


def parse_baseline(yaml: YamlFile, arms: list[Arm]) -> str:
    """Return the name of the baseline arm: the one the file names, or the first."""
    if not arms:
        return ""
    wanted = yaml.content.get("baseline")
    if wanted is None:
        return arms[0].name
    if yaml.content.get("ablate") is not None:
        yaml.problem(
            ("baseline",), "the recipe under `ablate: from` is the baseline: leave this out"
        )
    if yaml.content.get("ladder") is not None:
        yaml.problem(("baseline",), "a ladder has no baseline: each step is compared with the last")
    if isinstance(wanted, str):
        found = [arm.name for arm in arms if arm.name == wanted]
    elif isinstance(wanted, dict):
        problems = len(yaml.problems)
        wanted = check_overrides(yaml, wanted, ("baseline",))
        if len(yaml.problems) > problems:
            return ""
        found = [
            arm.name
            for arm in arms
            if wanted and all(arm.recipe.value(field) == v for field, v in wanted.items())
        ]
    else:
        return ""
    if not found:
        names = [arm.name for arm in arms]
        label = wanted if isinstance(wanted, str) else arm_name(wanted)
        yaml.problem(("baseline",), f"no arm is {label!r}: {nearest(str(label), names)}")
    elif len(found) > 1:
        yaml.problem(("baseline",), f"fits {len(found)} arms ({', '.join(found)}): name one")
    return found[0] if found else ""
