"""An experiment: a question, its arms and its seeds, read from YAML and strictly validated."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lecun_ablate.config.recipe import Recipe, Seed, content_hash, registered
from lecun_ablate.config.yaml_file import Keys, YamlFile, explain, parse_scalar
from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.registry import registry


class DataChoice(BaseModel):
    """A data set by name, and what stands in where the first cannot be had."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: registered("data")
    fallback: registered("data") | None = None


@dataclass(frozen=True)
class Tuning:
    """Where an arm's tuned values come from."""

    study: str  # the YAML file
    version: int
    data: str
    values: dict[str, Any]  # recipe field -> value
    trials: int
    seeds: int  # of each trial
    validation_error: float  # of these values, over the seeds that confirmed them


@dataclass(frozen=True)
class Arm:
    """A named recipe; `overrides` is what it changes against the experiment's own."""

    name: str
    overrides: dict[str, Any]
    recipe: Recipe
    tuning: Tuning | None = None  # None: nobody has tuned it


class Until(BaseModel):
    """When seeds are enough: every comparison's seed interval is narrow, or there are many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    halfwidth: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]  # points of error
    at_most: Annotated[int, Field(ge=2, le=100_000, strict=True)]  # seeds


@dataclass(frozen=True)
class Experiment:
    """What is asked: arms x seeds, each arm compared with the baseline or the step before."""

    name: str
    question: str
    data: DataChoice
    arms: tuple[Arm, ...]
    baseline: str  # the name of an arm
    seeds: tuple[int, ...]
    ladder: bool = False  # each arm is compared with the one before it
    factors: dict[str, list[Any]] | None = None  # the lists under `vary`
    file: Path | None = None
    tuned: Path | None = None  # the study whose winners the arms train with
    until: Until | None = None  # then `seeds` are those so far
    command: str | None = None  # that runs it
    components: list[str] | None = None  # the files that it loads
    stated: dict[str, str] | None = None  # recipe field -> where it has been given a value

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """The pairs (arm, reference) that the experiment compares."""
        names = [arm.name for arm in self.arms]
        if self.ladder:
            return list(zip(names[1:], names[:-1], strict=True))
        return [(name, self.baseline) for name in names if name != self.baseline]

    def arm(self, name: str) -> Arm:
        """Return the arm of a name; raises ConfigError with the valid ones."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(f"no arm {name!r}: {nearest(name, [arm.name for arm in self.arms])}")


def _one_or_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _data_by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _name_or_fields(value: Any) -> Any:
    if value is not None and not isinstance(value, str | dict):
        raise ValueError(f"expected the name of an arm or its fields, came {value!r}")
    return value


def _seed_list(value: Any) -> Any:
    """Turn a number of seeds n into 0..n-1; the list itself is validated by pydantic."""
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise ValueError(f"expected a number of seeds or a list of seeds, came {value!r}")
    if isinstance(value, int):
        if not 1 <= value <= 100_000:
            raise ValueError(f"expected 1 to 100000 seeds, came {value}")
        return list(range(value))
    if not value:
        raise ValueError("expected at least one seed, came an empty list")
    repeated = sorted({str(seed) for seed in value if value.count(seed) > 1})
    if repeated:
        raise ValueError(f"seed {repeated[0]} stands twice")
    return value


# the types of keys that experiments and studies share
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
Data = Annotated[DataChoice, BeforeValidator(_data_by_name)]
DEFAULT_DATA = DataChoice(name="usps", fallback="digits")
Files = Annotated[list[str], BeforeValidator(_one_or_list)]
Seeds = Annotated[list[Seed], BeforeValidator(_seed_list)]


class GrowingSeeds(BaseModel):
    """The mapping that may stand under an experiment's `seeds`."""

    model_config = ConfigDict(extra="forbid")

    until: Until


def _not_studies(name: str) -> str:
    if name == "studies":
        raise ValueError("is where MLflow holds the studies: give the experiment another name")
    return name


class ExperimentFile(BaseModel):
    """The keys of an experiment YAML. The overrides in it are validated as recipes."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name, AfterValidator(_not_studies)]
    question: str = ""
    data: Data = DEFAULT_DATA
    components: Files = []
    recipe: dict[str, Any] = {}
    vary: Annotated[dict[str, Any], Field(min_length=1)] | None = None  # its lists: _factors
    arms: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    ladder: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    baseline: Annotated[Any, AfterValidator(_name_or_fields)] = None
    seeds: Seeds = list(range(10))
    tuned: str | None = None


def data_asked(
    path: str | Path,
    data: str | None,
    components: Sequence[str | Path],
    assignments: Sequence[str],
) -> DataChoice | None:
    """Return the data set that a file asks for, None if it leaves that to another or says it badly.

    The rest of the file is not looked at: judging recipes takes the slow import of PyTorch.
    """
    content = read_yaml(path, data, components, assignments).content
    if "data" not in content and "experiment" in content:  # a study of that experiment
        return None
    try:
        return DataChoice.model_validate(_data_by_name(content.get("data", DEFAULT_DATA)))
    except ValidationError:
        return None


def load_experiment(
    path: str | Path,
    *,
    seeds: int | Sequence[int] | None = None,
    epochs: int | None = None,
    dtype: str | None = None,
    data: str | None = None,
    components: Sequence[str | Path] = (),
    assignments: Sequence[str] = (),
) -> Experiment:
    """Read and validate an experiment file; the keyword arguments override what it says.

    `epochs` and `dtype` override every arm; an assignment such as "recipe.lr=0.05" replaces one
    value of the file. Raises a ConfigError that holds every problem, with file and line.
    """
    yaml = read_yaml(path, data, components, assignments)
    if seeds is not None:
        yaml.set(("seeds",), seeds if isinstance(seeds, int) else list(seeds), "--seeds")
    forced = {"epochs": epochs, "dtype": dtype}
    forced = {field: value for field, value in forced.items() if value is not None}

    for field, value in forced.items():
        check_overrides(yaml, {field: value}, (), option=f"--{field}")
    until = _until(yaml)
    content = yaml.validate(ExperimentFile, yaml.content)
    arms, factors = parse_arms(yaml, forced)
    baseline = _baseline(yaml, arms)
    if until and len(arms) == 1:
        yaml.problem(
            ("seeds", "until"),
            "looks at the intervals of comparisons, and a single arm is "
            "compared with nothing: add an arm (arms, vary or ladder), or give a number of seeds",
        )
    yaml.check()
    assert isinstance(content, ExperimentFile)
    return Experiment(
        name=content.name,
        question=content.question,
        data=content.data,
        arms=tuple(arms),
        baseline=baseline,
        seeds=tuple(content.seeds),
        ladder=content.ladder is not None,
        factors=factors,
        file=Path(path),
        tuned=Path(content.tuned) if content.tuned else None,
        until=until,
        command=_command(path, seeds, epochs, dtype, data, components, assignments),
        components=[str(file) for file in [*components, *content.components]],
        stated=_stated(yaml, forced),
    )


def _until(yaml: YamlFile) -> Until | None:
    """Return the rule under `seeds: {until: ...}`; the seeds of its first look take its place."""
    seeds = yaml.content.get("seeds")
    if not isinstance(seeds, dict):
        return None
    from lecun_ablate.statistics.stopping import FIRST_LOOK  # heavy

    rule = yaml.validate(GrowingSeeds, seeds, ("seeds",))
    until = rule.until if isinstance(rule, GrowingSeeds) else None
    yaml.content["seeds"] = min(FIRST_LOOK, until.at_most) if until else FIRST_LOOK
    return until


def _stated(yaml: YamlFile, forced: Mapping[str, Any]) -> dict[str, str]:
    """Return which recipe fields are given values, for any arm, and the first place of each."""
    content = yaml.content
    places = {field: f"--{field}" for field in forced}
    given: list[tuple[Keys, Any]] = [((key,), content.get(key)) for key in ("recipe", "vary")]
    for key in ("arms", "ladder"):
        given += [((key, i), item) for i, item in enumerate(content.get(key) or ())]
    for keys, fields in given:
        for field in fields or ():
            places.setdefault(field, yaml.where((*keys, field)))
    return places


def _command(
    path: str | Path,
    seeds: int | Sequence[int] | None,
    epochs: int | None,
    dtype: str | None,
    data: str | None,
    components: Sequence[str | Path],
    assignments: Sequence[str],
) -> str:
    """Return the command line that loads the same experiment."""
    words = ["python", "-m", "lecun_ablate", "run", str(path)]
    if seeds is not None:
        if not isinstance(seeds, int):  # the comma tells a list of one from a number
            seeds = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
        words += ["--seeds", str(seeds)]
    for option, value in (("--epochs", epochs), ("--dtype", dtype), ("--data", data)):
        words += [option, str(value)] if value is not None else []
    for option, values in (("--components", components), ("--set", assignments)):
        words += [word for value in values for word in (option, str(value))]
    return shlex.join(words)


def read_yaml(
    path: str | Path,
    data: str | None,
    components: Sequence[str | Path],
    assignments: Sequence[str],
) -> YamlFile:
    """Read a YAML file with what the command line overrides, and load the components it names."""
    yaml = YamlFile(path)
    for assignment in assignments:
        keys, equals, value = assignment.partition("=")
        if not equals or not all(keys.split(".")):
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as recipe.lr=0.05")
        yaml.set(tuple(keys.split(".")), parse_scalar(value), f"--set {assignment}")
    if data is not None:
        yaml.set(("data",), {"name": data}, "--data")
    for file in components:
        try:
            registry.load(file)
        except ConfigError as error:
            yaml.problems += [(0, f"--components: {problem}") for problem in error.problems]
    for keys, file in _component_files(yaml.content):
        try:
            registry.load(file)
        except ConfigError as error:
            for problem in error.problems:
                yaml.problem(keys, problem)
    return yaml


def _component_files(content: Mapping[str, Any]) -> list[tuple[Keys, str]]:
    """Return the files of components that a YAML file names, each with its keys."""
    files = content.get("components")
    if isinstance(files, str):
        return [(("components",), files)]
    listed = enumerate(files) if isinstance(files, list) else ()
    return [(("components", i), file) for i, file in listed if isinstance(file, str)]


def check_overrides(
    yaml: YamlFile, overrides: Any, keys: Keys, option: str | None = None
) -> dict[str, Any]:
    """Return the overrides that are valid as recipe fields; note problems with the others.

    Only single fields are judged here: whether fields go together is a matter of the whole arm.
    """
    if not isinstance(overrides, dict):
        return {}
    bad = set()
    try:
        Recipe.model_validate(overrides)
    except ValidationError as error:
        for where, message in explain(error, Recipe):
            if where:
                bad.add(where[0])
                if option:
                    yaml.problems.append((0, f"{option}: {message}"))
                else:
                    yaml.problem(keys + where, message)
    return {key: value for key, value in overrides.items() if key not in bad}


def parse_arms(
    yaml: YamlFile, forced: dict[str, Any]
) -> tuple[list[Arm], dict[str, list[Any]] | None]:
    """Return the arms of whatever in the file can be understood, noting problems on the way."""
    content = yaml.content
    given = [key for key in ("vary", "arms", "ladder") if content.get(key) is not None]
    for key in ("vary", "arms", "ladder"):
        if key in content and content[key] is None:
            yaml.problem((key,), "expected something to compare, came nothing")
    if len(given) > 1:
        yaml.problem((given[1],), f"an experiment has either {given[0]} or {given[1]}, not both")
        return [], None
    recipe = check_overrides(yaml, content.get("recipe") or {}, ("recipe",))
    rows: list[tuple[Keys, str, dict[str, Any]]] = []
    factors = None
    if not given:
        rows = [((), str(content.get("name")), {})]
    elif given == ["vary"] and isinstance(content["vary"], dict):
        factors = _factors(yaml, content["vary"])
        for values in itertools.product(*factors.values()) if factors else ():
            overrides = dict(zip(factors, values, strict=True))
            rows.append((("vary",), arm_name(overrides), overrides))
    elif isinstance(content[given[0]], list):
        rows = _listed(yaml, given[0], content[given[0]])
    arms = []
    for keys, name, overrides in rows:
        arm = _arm(yaml, keys, name, overrides, recipe, forced)
        if arm and not any(_same(yaml, keys, arm, other) for other in arms):
            arms.append(arm)
    return arms, factors


def _factors(yaml: YamlFile, vary: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists under `vary`, each value checked as the recipe field it varies."""
    factors = {}
    for field, values in vary.items():
        if field not in Recipe.model_fields:
            yaml.problem(
                ("vary", field),
                f"unknown recipe field {field!r}: {nearest(field, Recipe.model_fields)}",
            )
        elif not isinstance(values, list) or not values:
            yaml.problem(("vary", field), f"expected a list of values, came {values!r}")
        else:
            factors[field] = [
                value
                for i, value in enumerate(values)
                if _check_one(yaml, field, value, ("vary", field, i))
            ]
    return factors


def _check_one(yaml: YamlFile, field: str, value: Any, keys: Keys) -> bool:
    try:
        Recipe.model_validate({field: value})
    except ValidationError as error:
        messages = [message for where, message in explain(error, Recipe) if where]
        for message in messages:
            yaml.problem(keys, message)
        return not messages
    return True


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
            yaml.problem((*keys, "name"), f"expected a name, came {given!r}")
        name = str(item.get("name", arm_name(overrides)))
        overrides = check_overrides(yaml, overrides, keys)
        if key == "ladder":
            overrides = climbed = climbed | overrides
        rows.append((keys, name, overrides))
    return rows


def arm_name(overrides: Mapping[str, Any]) -> str:
    """Return the name of an arm that gives none: its value, or field=value where it has several."""
    if not overrides:
        return "unchanged"
    if len(overrides) == 1:
        return str(next(iter(overrides.values())))
    return " ".join(f"{field}={value}" for field, value in overrides.items())


def _arm(
    yaml: YamlFile,
    keys: Keys,
    name: str,
    overrides: dict[str, Any],
    recipe: dict[str, Any],
    forced: dict[str, Any],
) -> Arm | None:
    fields = {
        field: value
        for field, value in (recipe | overrides | forced).items()
        if field in Recipe.model_fields
    }
    try:
        return Arm(name, overrides, Recipe.model_validate(fields))
    except ValidationError as error:
        for where, message in explain(error, Recipe):
            if not where:
                yaml.problem(keys or ("recipe",), f"arm {name!r}: {message}")
        return None


def _same(yaml: YamlFile, keys: Keys, arm: Arm, other: Arm) -> bool:
    if arm.name == other.name:
        yaml.problem(keys, f"duplicate arm: {arm.name!r} stands twice")
        return True
    if arm.recipe == other.recipe:
        yaml.problem(keys, f"duplicate arm: {arm.name!r} is the same recipe as {other.name!r}")
        return True
    return False


def _baseline(yaml: YamlFile, arms: list[Arm]) -> str:
    """Return the name of the baseline arm: the one the file names, or the first."""
    if not arms:
        return ""
    wanted = yaml.content.get("baseline")
    if wanted is None:
        return arms[0].name
    if yaml.content.get("ladder") is not None:
        yaml.problem(("baseline",), "a ladder has no baseline: each step is compared with the last")
    if isinstance(wanted, str):
        found = [arm.name for arm in arms if arm.name == wanted]
    elif isinstance(wanted, dict):
        wanted = check_overrides(yaml, wanted, ("baseline",))
        found = [
            arm.name
            for arm in arms
            if wanted and all(getattr(arm.recipe, field) == v for field, v in wanted.items())
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


def plan_key(experiment: Experiment, digest: str, trainers: Mapping[str, Any]) -> str:
    """Return the hash that identifies an experiment's plan: everything but the seeds.

    `trainers` maps each arm to the identity of the trainer that runs it.
    """
    return content_hash(
        {
            "name": experiment.name,
            "arms": {arm.name: arm.recipe.model_dump() for arm in experiment.arms},
            "components": {
                f"{component.kind}/{component.name}": component.digest
                for arm in experiment.arms
                for component in arm.recipe.user_components
            },
            "comparisons": experiment.comparisons,
            "data": digest,
            "trainers": dict(trainers),
        }
    )
