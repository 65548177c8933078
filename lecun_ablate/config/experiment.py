"""An experiment: a question, its arms and its seeds, read from YAML and strictly validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lecun_ablate.config.arms import Arm, parse_arms, parse_baseline
from lecun_ablate.config.base import (
    DEFAULT_DATA,
    ConfigFile,
    Data,
    DataChoice,
    Name,
    Seeds,
    SomeArms,
    SomeFactors,
    check_overrides,
)
from lecun_ablate.config.command import Command, seeds_option
from lecun_ablate.config.source import Overrides, read
from lecun_ablate.config.yaml_file import Keys, YamlFile
from lecun_ablate.errors import ConfigError, nearest


class Until(BaseModel):
    """When to stop adding seeds: once all seed intervals are narrow, or at a number of seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    halfwidth: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]  # points of error
    at_most: Annotated[int, Field(ge=2, le=100_000, strict=True)]  # seeds


# the options that change what the file says of its recipes
VARIANT_OPTIONS = ("--epochs", "--dtype", "--set")


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
    until: Until | None = None  # `seeds` are then those so far
    command: Command | None = None  # that runs it
    components: list[str] | None = None  # the files that it loads
    stated: dict[str, str] | None = None  # recipe field -> where it is given a value
    without_seeds: tuple[int, ...] = ()  # seeds that are left out, although they have been run

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """The pairs (arm, reference) that the experiment compares."""
        names = [arm.name for arm in self.arms]
        if self.ladder:
            return list(zip(names[1:], names[:-1], strict=True))
        return [(name, self.baseline) for name in names if name != self.baseline]

    @property
    def varied(self) -> list[str]:
        """The recipe fields in which the arms differ."""
        return list(dict.fromkeys(field for arm in self.arms for field in arm.overrides))

    @property
    def variant(self) -> str:
        """The options that change what the file says of the recipes, as one writes them."""
        return self.command.options(*VARIANT_OPTIONS) if self.command else ""

    def arm(self, name: str) -> Arm:
        """Return the arm of a name; raises ConfigError with the valid ones."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(f"no arm {name!r}: {nearest(name, [arm.name for arm in self.arms])}")


def _name_or_fields(value: Any) -> Any:
    if value is not None and not isinstance(value, str | dict):
        raise ValueError(f"expected the name of an arm or its fields, got {value!r}")
    return value


class GrowingSeeds(BaseModel):
    """The mapping that may stand under an experiment's `seeds`."""

    model_config = ConfigDict(extra="forbid")

    until: Until


def _not_studies(name: str) -> str:
    if name == "studies":
        raise ValueError("is where MLflow holds the studies: give the experiment another name")
    return name


class ExperimentFile(ConfigFile):
    """The keys of an experiment's file. Whatever it says of recipe fields is validated as such."""

    name: Annotated[Name, AfterValidator(_not_studies)]
    data: Data = DEFAULT_DATA
    vary: SomeFactors | None = None
    arms: SomeArms | None = None
    ladder: SomeArms | None = None
    baseline: Annotated[Any, AfterValidator(_name_or_fields)] = None
    seeds: Seeds = Field(default_factory=lambda: list(range(10)))
    tuned: str | None = None


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
    """Read and validate an experiment's file; the keyword arguments override what it says.

    `epochs` and `dtype` override every arm; an assignment such as "recipe.lr=0.05" replaces one
    value of the file. Raises a ConfigError that holds every problem, with file and line.
    """
    overrides = Overrides(seeds, epochs, dtype, data, components, assignments)
    return parse_experiment(read(path, overrides), overrides)


def parse_experiment(yaml: YamlFile, overrides: Overrides) -> Experiment:
    """Validate a file that has been read with these overrides; see load_experiment."""
    forced = overrides.forced
    for field, value in forced.items():
        check_overrides(yaml, {field: value}, (), option=f"--{field}")
    until = _until(yaml)
    content = yaml.validate(ExperimentFile, yaml.content)
    arms, factors = parse_arms(yaml, forced)
    baseline = parse_baseline(yaml, arms)
    if until and len(arms) == 1:
        yaml.problem(
            ("seeds", "until"),
            "looks at the intervals of comparisons, and a single arm is compared with nothing: add "
            "an arm (arms, vary or ladder), or give a number of seeds",
        )
    yaml.check()
    assert content is not None
    return Experiment(
        name=content.name,
        question=content.question,
        data=content.data,
        arms=tuple(arms),
        baseline=baseline,
        seeds=_kept(yaml, content.seeds, overrides.without_seeds),
        without_seeds=tuple(sorted(overrides.without_seeds)),
        ladder=content.ladder is not None,
        factors=factors,
        file=yaml.path,
        tuned=Path(content.tuned) if content.tuned else None,
        until=until,
        command=_command(yaml.path, overrides),
        components=[str(file) for file in [*overrides.components, *content.components]],
        stated=_stated(yaml, forced),
    )


def _command(path: Path, overrides: Overrides) -> Command:
    """Return the command that loads the same experiment."""
    seeds = overrides.seeds
    return Command.of("run", path).with_options(
        {
            "--seeds": None if seeds is None else seeds_option(seeds),
            "--without-seed": list(overrides.without_seeds),
            "--epochs": overrides.epochs,
            "--dtype": overrides.dtype,
            "--data": overrides.data,
            "--components": list(overrides.components),
            "--set": list(overrides.assignments),
        }
    )


def _kept(yaml: YamlFile, seeds: Sequence[int], without: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds but for those that are left out."""
    kept = tuple(seed for seed in seeds if seed not in without)
    unknown = sorted(set(without) - set(seeds))
    if unknown:
        have = ", ".join(map(str, seeds))
        raise ConfigError(
            f"--without-seed {unknown[0]}: no seed of the experiment, which has {have}"
        )
    if not kept:
        raise ConfigError(f"--without-seed: no seed of {yaml.path} is left")
    return kept


def _until(yaml: YamlFile) -> Until | None:
    """Return the rule under `seeds: {until: ...}`; the seeds of its first look take its place."""
    seeds = yaml.content.get("seeds")
    if not isinstance(seeds, dict):
        return None
    from lecun_ablate.statistics.stopping import FIRST_LOOK  # heavy

    rule = yaml.validate(GrowingSeeds, seeds, ("seeds",))
    until = rule.until if rule else None
    yaml.content["seeds"] = min(FIRST_LOOK, until.at_most) if until else FIRST_LOOK
    return until


def _stated(yaml: YamlFile, forced: Mapping[str, Any]) -> dict[str, str]:
    """Return the recipe fields that are given a value for any arm, each with the first place."""
    content = yaml.content
    places = {field: f"--{field}" for field in forced}
    given: list[tuple[Keys, Any]] = [((key,), content.get(key)) for key in ("recipe", "vary")]
    for key in ("arms", "ladder"):
        given += [((key, i), item) for i, item in enumerate(content.get(key) or ())]
    for keys, fields in given:
        for field in fields or ():
            places.setdefault(field, yaml.where((*keys, field)))
    return places
