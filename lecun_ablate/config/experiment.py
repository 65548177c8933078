"""An experiment: a question, its arms and its seeds, read from YAML and strictly validated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lecun_ablate.config.ablation import Ablation
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
from lecun_ablate.config.yaml_file import Keys, YamlFile, written
from lecun_ablate.errors import ConfigError, nearest


class Until(BaseModel):
    """When to stop adding seeds: once all seed intervals are narrow, or at a number of seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    halfwidth: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]  # points of error
    at_most: Annotated[int, Field(ge=2, le=100_000, strict=True)]  # seeds
    # seeds before the first look; None: 20. n seeds without a failure bound the failure rate at
    # about # 3 / n
    at_least: Annotated[int, Field(ge=20, strict=True)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Until:
        if self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least}, above at_most, {self.at_most}")
        return self

    @property
    def first(self) -> int:
        """The seeds before the first look at the intervals."""
        from lecun_ablate.statistics.stopping import FIRST_LOOK  # heavy

        return min(self.at_least or FIRST_LOOK, self.at_most)


# the options that change the file's recipes
VARIANT_OPTIONS = ("--epochs", "--dtype", "--set", "--all-pairs")


@dataclass(frozen=True)
class Experiment:
    """An experiment: arms x seeds, each arm compared with the baseline or the step before."""

    name: str
    question: str
    data: DataChoice
    arms: tuple[Arm, ...]
    baseline: str  # the name of an arm
    seeds: tuple[int, ...]
    ladder: bool = False  # each arm is compared with the one before it
    compare: Literal["baseline", "all"] = "baseline"  # all: every arm with every other
    margin: float = 0.5  # points of test error; a difference below it does not matter
    factors: dict[str, list[Any]] | None = None  # the lists under `vary`
    ablation: Ablation | None = None  # under `ablate`
    further: tuple[Arm, ...] = ()  # arms that could still be added to a path
    file: Path | None = None
    tuned: Path | None = None  # the study whose winners the arms are trained with
    until: Until | None = None  # then `seeds` are the seeds so far
    command: Command | None = None  # the command that runs it
    components: list[str] | None = None  # the files that it loads
    stated: dict[str, str] | None = None  # recipe field -> where it is set
    without_seeds: tuple[int, ...] = ()  # seeds left out of the results

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """The pairs (arm, reference) that the experiment compares."""
        names = [arm.name for arm in self.arms]
        if self.ladder:
            return list(zip(names[1:], names[:-1], strict=True))
        others = [name for name in names if name != self.baseline]
        if self.compare == "all":
            return [(arm, first) for first, arm in combinations([self.baseline, *others], 2)]
        if self.ablation:
            return self.ablation.comparisons
        return [(name, self.baseline) for name in others]

    @property
    def varied(self) -> list[str]:
        """The recipe fields in which the arms differ."""
        return list(dict.fromkeys(field for arm in self.arms for field in arm.overrides))

    @property
    def variant(self) -> str:
        """The options that change the file's recipes, as on the command line."""
        return self.command.options(*VARIANT_OPTIONS) if self.command else ""

    @property
    def searches(self) -> dict[int, int] | None:
        """The search whose values each seed's runs use; None unless there are several searches."""
        number = max(len(arm.drawn) for arm in self.arms)
        return {seed: seed % number for seed in self.seeds} if number > 1 else None

    @property
    def possible_arms(self) -> tuple[Arm, ...]:
        """The arms, and those that a path may still come to."""
        return (*self.arms, *self.further)

    @property
    def most_arms(self) -> int:
        """How many arms there are once a path is at its end, at most."""
        return self.ablation.most_arms if self.ablation else len(self.arms)

    def with_sets(self, more: Iterable[Collection[str]]) -> Experiment:
        """Return the same experiment with arms for more sets of the changes under `ablate`."""
        assert self.ablation
        ablation = self.ablation.with_sets(more)
        arms = {arm.name: arm for arm in self.possible_arms}
        return replace(
            self,
            ablation=ablation,
            arms=tuple(arms[name] for name in ablation.sets),
            further=tuple(arm for name, arm in arms.items() if name not in ablation.sets),
        )

    def arm(self, name: str) -> Arm:
        """Return the arm of a name; raises ConfigError with the valid ones."""
        arms = {arm.name: arm for arm in self.possible_arms}
        if name not in arms:
            raise ConfigError(f"no arm {name!r}: {nearest(name, arms)}")
        return arms[name]


def _name_or_fields(value: Any) -> Any:
    if value is not None and not isinstance(value, str | dict):
        raise ValueError(f"expected the name of an arm or its fields, got {written(value)}")
    return value


class GrowingSeeds(BaseModel):
    """The mapping that an experiment's `seeds` may be."""

    model_config = ConfigDict(extra="forbid")

    until: Until


def _not_studies(name: str) -> str:
    if name == "studies":
        raise ValueError("is reserved for studies in MLflow: give the experiment another name")
    return name


class ExperimentFile(ConfigFile):
    """The keys of an experiment's file. Recipe fields in it are validated as such."""

    name: Annotated[Name, AfterValidator(_not_studies)]
    data: Data = DEFAULT_DATA
    vary: SomeFactors | None = None
    arms: SomeArms | None = None
    ladder: SomeArms | None = None
    ablate: dict[str, Any] | None = None
    baseline: Annotated[Any, AfterValidator(_name_or_fields)] = None
    seeds: Seeds = Field(default_factory=lambda: list(range(10)))
    tuned: str | None = None
    compare: Literal["baseline", "all"] = "baseline"
    margin: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, strict=True)] = 0.5  # points


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
    """Read and validate an experiment's file; the keyword arguments override its values.

    `epochs` and `dtype` override every arm; an assignment such as "recipe.lr=0.05" replaces one
    value of the file. Raises a ConfigError with all problems, with file and line.
    """
    overrides = Overrides(seeds, epochs, dtype, data, components, assignments)
    return parse_experiment(read(path, overrides), overrides)


def parse_experiment(yaml: YamlFile, overrides: Overrides) -> Experiment:
    """Validate a file that was read with these overrides; see load_experiment."""
    forced = overrides.forced
    for field, value in forced.items():
        check_overrides(yaml, {field: value}, (), option=f"--{field}")
    until = _until(yaml)
    content = yaml.validate(ExperimentFile, yaml.content)
    arms, factors, ablation = parse_arms(yaml, forced)
    baseline = parse_baseline(yaml, arms)
    if until and len(arms) == 1:
        yaml.problem(
            ("seeds", "until"),
            "looks at the intervals of comparisons, and a single arm has no comparison: add "
            "an arm (arms, vary or ladder), or give a number of seeds",
        )
    resampled = content is not None and content.data.split == "resampled"
    if content and resampled and content.tuned:
        yaml.problem(
            ("data", "split"),
            "tuned values were chosen on images that a resampled split may use as test images: "
            "expected the known split, or arms without `tuned`",
        )
    arms = [replace(arm, resampled=resampled) for arm in arms]
    if content and content.compare == "all" and content.ladder is not None:
        yaml.problem(
            ("compare",),
            "a ladder compares each step with the one before: leave out compare, or list the "
            "arms under `arms`",
        )
    if ablation and ablation.arms == "path":
        _check_path(yaml, content)
    yaml.check()
    assert content is not None
    ablation = ablation.at_first() if ablation else None
    begun = [arm for arm in arms if not ablation or arm.name in ablation.sets]
    return Experiment(
        name=content.name,
        question=content.question,
        data=content.data,
        arms=tuple(begun),
        further=tuple(arm for arm in arms if arm not in begun),
        baseline=baseline,
        seeds=_kept(yaml, content.seeds, overrides.without_seeds),
        without_seeds=tuple(sorted(overrides.without_seeds)),
        ladder=content.ladder is not None,
        compare=content.compare,
        margin=content.margin,
        factors=factors,
        ablation=ablation,
        file=yaml.path,
        tuned=Path(content.tuned) if content.tuned else None,
        until=until,
        command=_command(yaml.path, overrides),
        components=[str(file) for file in [*overrides.components, *content.components]],
        stated=_stated(yaml, forced),
    )


def _check_path(yaml: YamlFile, content: ExperimentFile | None) -> None:
    """Note what does not go with a path, whose arms are not known beforehand."""
    if content and content.compare == "all":
        yaml.problem(
            ("compare",),
            "the results choose the arms of a path, and all comparisons of chosen arms cannot be "
            "corrected for: leave out compare, or ablate with arms: all",
        )
    if content and content.tuned:
        yaml.problem(
            ("tuned",),
            "the results choose the arms of a path, which no study can tune beforehand: leave out "
            "tuned, or ablate with arms: all",
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
        },
        ["--all-pairs"] if overrides.all_pairs else [],
    )


def _kept(yaml: YamlFile, seeds: Sequence[int], without: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds without those that are left out."""
    kept = tuple(seed for seed in seeds if seed not in without)
    unknown = sorted(set(without) - set(seeds))
    if unknown:
        have = ", ".join(map(str, seeds))
        raise ConfigError(
            f"--without-seed {unknown[0]}: not a seed of the experiment, which has {have}"
        )
    if not kept:
        raise ConfigError(f"--without-seed: no seed of {yaml.path} is left")
    return kept


def _until(yaml: YamlFile) -> Until | None:
    """Return the rule under `seeds: {until: ...}` and replace it by the seeds of its first look."""
    seeds = yaml.content.get("seeds")
    if not isinstance(seeds, dict):
        return None
    rule = yaml.validate(GrowingSeeds, seeds, ("seeds",))
    until = rule.until if rule else None
    yaml.content["seeds"] = until.first if until else 1
    return until


def _stated(yaml: YamlFile, forced: Mapping[str, Any]) -> dict[str, str]:
    """Return the recipe fields that are set for any arm, each with the first place."""
    content = yaml.content
    places = {field: f"--{field}" for field in forced}
    given: list[tuple[Keys, Any]] = [((key,), content.get(key)) for key in ("recipe", "vary")]
    ablated = content.get("ablate") or {}
    given += [(("ablate", key), ablated.get(key)) for key in ("from", "to")]
    for key in ("arms", "ladder"):
        given += [((key, i), item) for i, item in enumerate(content.get(key) or ())]
    for keys, fields in given:
        for field in fields or ():
            places.setdefault(field, yaml.where((*keys, field)))
    return places
