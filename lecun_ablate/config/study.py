"""A study: what is searched or repeated, for which arms, read from YAML and strictly validated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lecun_ablate.config.arms import Arm, arm_name, parse_arms
from lecun_ablate.config.base import (
    DEFAULT_DATA,
    ConfigFile,
    Data,
    DataChoice,
    Seeds,
    SomeArms,
    SomeFactors,
    by_name,
    canonical,
    check_overrides,
    check_value,
    make_recipe,
    one_or_list,
    recipe_problems,
)
from lecun_ablate.config.experiment import Experiment, load_experiment
from lecun_ablate.config.recipe import (
    Recipe,
    is_numeric,
    is_parameter,
    merged,
    stored_form,
)
from lecun_ablate.config.source import Overrides, read
from lecun_ablate.config.yaml_file import Keys, YamlFile, find_file, written
from lecun_ablate.data.digits import HOLDOUT_SEED
from lecun_ablate.errors import ConfigError, nearest

PINNED_SEED = 0  # for what a seed study's own seeds do not govern
SEARCH_SEEDS = 1_000_000  # the first seed of repeated searches, and the number of seeds for each
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Range(BaseModel):
    """The range of a numeric recipe field in a search, including both ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Number
    high: Number
    log: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got low {self.low:g} and high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, got low {self.low:g}")
        return self

    def __contains__(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)


Alternatives = tuple[Any, ...]  # the values of a categorical search


class Sampler(BaseModel):
    """How values are proposed: TPE after `startup` random trials, or only random ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["tpe", "random"] = "tpe"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    startup: Annotated[int, Field(strict=True, ge=1)] = 10


class Pruner(BaseModel):
    """Rungs at the epochs first, first * factor, ...: each passes the best 1 / factor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: Count
    factor: Annotated[int, Field(strict=True, ge=2)] = 3

    def next_rung(self, epoch: int) -> int:
        """Return the first rung after an epoch."""
        rung = self.first
        while rung <= epoch:
            rung *= self.factor
        return rung


class Confirm(BaseModel):
    """How many of an arm's best trials are confirmed, and on how many fresh seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: Count = 5
    seeds: Annotated[int, Field(strict=True, ge=2, le=100_000)] = 20


class SearchFile(ConfigFile):
    """The keys of a search study. The search space is validated as recipe fields."""

    data: Data | None = None
    experiment: str | None = None
    arms: SomeArms | None = None
    vary: SomeFactors | None = None
    epochs: Count | None = None
    search: SomeFactors
    trials: Count
    seeds: Seeds = Field(default_factory=lambda: list(range(3)))
    batch: Annotated[int, Field(strict=True, ge=1, le=1000)] = 8
    sampler: Annotated[Sampler, BeforeValidator(by_name)] = Sampler()
    pruner: Pruner | None = None
    confirm: Confirm = Confirm()
    searches: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None


Governed = Literal["weights", "order", "both", "split"]


class SeedFile(ConfigFile):
    """The keys of a study of seeds."""

    data: Data = DEFAULT_DATA
    seeds: Seeds = Field(default_factory=lambda: list(range(200)))
    governs: Annotated[list[Governed], BeforeValidator(one_or_list), Field(min_length=1)]


@dataclass(frozen=True)
class SearchStudy:
    """A search, for each arm, for the recipe values with the smallest validation error."""

    name: str
    question: str
    data: DataChoice
    arms: tuple[Arm, ...]
    search: dict[str, Range | Alternatives]
    trials: int  # of each arm
    seeds: tuple[int, ...]  # of each trial
    batch: int  # trials of one arm that are proposed at once
    sampler: Sampler
    pruner: Pruner | None
    confirm: Confirm
    file: Path
    searches: int | None = None  # repetitions of the whole search; None: one, with ordinary seeds
    repetition: int | None = None  # number of this search, from 0; None: all, or the only one

    def each(self) -> list[SearchStudy]:
        """Return the searches that make up the study, each as a separate study.

        They differ in the sampler's seed, in the split of the training images, and in the seeds of
        their runs, none of which an experiment uses.
        """
        if self.searches is None:
            return [self]
        return [self._repeated(k) for k in range(self.searches)]

    def _repeated(self, k: int) -> SearchStudy:
        sampler = self.sampler.model_copy(update={"seed": self.sampler.seed + k})
        seeds = tuple(SEARCH_SEEDS * (k + 1) + seed for seed in self.seeds)
        return replace(self, searches=None, repetition=k, seeds=seeds, sampler=sampler)

    def label(self, arm: str) -> str:
        """Return the name of an arm's search: the arm's name if there is only one search."""
        return arm if self.repetition is None else f"{arm}, search {self.repetition + 1}"

    @property
    def split_seed(self) -> int:
        """The seed that draws the validation images from the training split."""
        return HOLDOUT_SEED + (self.repetition or 0)

    @property
    def used_seeds(self) -> set[int]:
        """All seeds of the runs in the search and the confirmation."""
        return {seed for one in self.each() for seed in (*one.seeds, *one.confirm_seeds)}

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """The fresh seeds on which the best trials are trained again."""
        first = max(self.seeds) + 1
        return tuple(range(first, first + self.confirm.seeds))

    def own_values(self, arm: Arm) -> dict[str, Any]:
        """Return an arm's own values of the searched fields."""
        return {field: arm.recipe.value(field) for field in self.search}

    def recipe(self, arm: Arm, values: Mapping[str, Any]) -> Recipe:
        """Return an arm's recipe with values for the searched fields."""
        return Recipe.model_validate(merged(arm.recipe.model_dump(), values))

    def most_runs(self, trials: int) -> int:
        """Return the most runs that the next `trials` of a search and its confirmation can need.

        The arm's own values are also confirmed, unless they are among the best.
        """
        return trials * len(self.seeds) + (self.most_confirmed + 1) * self.confirm.seeds

    @property
    def most_confirmed(self) -> int:
        """The largest number of trials of a search that are confirmed: the best on each half."""
        return min(2 * self.confirm.trials, self.trials)

    def definition(self, arm: Arm, data_digest: str) -> dict[str, Any]:
        """Return what must be equal for the trials of an arm to be comparable.

        The budget (trials, confirmations) is left out, since it may grow.
        """
        searched = {
            field: values.model_dump() if isinstance(values, Range) else list(values)
            for field, values in self.search.items()
        }
        components = {
            f"{c.kind}/{c.name}": c.digest
            for values in combinations(self.search)
            for c in self.recipe(arm, values).user_components
        }
        return {
            "search": searched,
            "recipe": stored_form(arm.recipe.without(self.search)),
            "first": self.own_values(arm),
            "components": components,
            "seeds": list(self.seeds),
            "batch": self.batch,
            "sampler": self.sampler.model_dump(),
            "pruner": self.pruner.model_dump() if self.pruner else None,
            "data": data_digest,
        } | ({} if self.repetition is None else {"split": self.split_seed})


@dataclass(frozen=True)
class SeedStudy:
    """The same recipe with many seeds; `governs` says what they determine, one variant for each."""

    name: str
    question: str
    data: DataChoice
    recipe: Recipe
    seeds: tuple[int, ...]
    governs: tuple[Governed, ...]
    file: Path

    def experiment(self) -> Experiment:
        """Return the study as an experiment: an arm for each variant."""
        weights, order = {"init_seed": PINNED_SEED}, {"order_seed": PINNED_SEED}
        pins = {"weights": order, "order": weights, "both": {}, "split": weights | order}
        arms = tuple(
            Arm(
                what,
                pins[what],
                self.recipe.model_copy(update=pins[what]),
                resampled=what == "split",
            )
            for what in self.governs
        )
        return Experiment(
            name=self.name,
            question=self.question,
            data=self.data,
            arms=arms,
            baseline=arms[0].name,
            seeds=self.seeds,
            file=self.file,
        )


def load_study(
    path: str | Path,
    *,
    data: str | None = None,
    components: Sequence[str | Path] = (),
    assignments: Sequence[str] = (),
) -> SearchStudy | SeedStudy:
    """Read and validate a study file; the keyword arguments override its values.

    Raises a ConfigError with all problems, with file and line.
    """
    overrides = Overrides(data=data, components=components, assignments=assignments)
    return parse_study(read(path, overrides))


def parse_study(yaml: YamlFile) -> SearchStudy | SeedStudy:
    """Validate a file that was read; see load_study."""
    kinds = [key for key in ("search", "governs") if key in yaml.content]
    if len(kinds) != 1:
        got = "both" if kinds else "neither"
        raise ConfigError(
            f"{yaml.where()}: a study has either `search` (values to try) or `governs` (what its "
            f"seeds determine), got {got}"
        )
    return _search_study(yaml) if kinds == ["search"] else _seed_study(yaml)


def _seed_study(yaml: YamlFile) -> SeedStudy:
    content = yaml.validate(SeedFile, yaml.content)
    overrides = check_overrides(yaml, yaml.content.get("recipe") or {}, ("recipe",))
    recipe = make_recipe(yaml, overrides, ("recipe",))
    if content and content.data.split != "known":
        yaml.problem(("data", "split"), "in a study of seeds, add split to governs instead")
    governs = list(content.governs) if content else []
    for what in sorted({what for what in governs if governs.count(what) > 1}):
        yaml.problem(("governs",), f"{what} is given twice")
    if recipe and recipe.component("order").arity < 2:
        if "order" in governs:
            yaml.problem(
                ("governs",),
                f"order: the order {recipe.order!r} does not depend on a "
                "seed; set recipe.order to one that does, such as shuffled",
            )
        if {"weights", "both"} <= set(governs):
            yaml.problem(
                ("governs",),
                f"weights and both are the same if the order is {recipe.order!r}: leave one out",
            )
    yaml.check()
    assert content is not None and recipe is not None
    return SeedStudy(
        content.name,
        content.question,
        content.data,
        recipe,
        tuple(content.seeds),
        tuple(governs),
        yaml.path,
    )


def _search_study(yaml: YamlFile) -> SearchStudy:
    content = yaml.validate(SearchFile, yaml.content)
    search = _search(yaml, yaml.content["search"])
    data, arms = _arms(yaml)
    _check_space(yaml, arms, search)
    if content and content.pruner:
        epochs = [arm.recipe.epochs for arm in arms]
        if epochs and content.pruner.first >= max(epochs):
            yaml.problem(
                ("pruner", "first"),
                f"expected a rung before the last epoch "
                f"({max(epochs)}), got {content.pruner.first}",
            )
        if "epochs" in search:
            yaml.problem(("pruner",), "cannot compare trials whose epochs are searched")
    if content and (content.data or data).split != "known":
        where = ("data", "split") if content.data else ("experiment",)
        yaml.problem(
            where,
            "a search holds out images of the known training split, so its values cannot be used "
            "with a resampled split: expected data with the known split",
        )
    if content and content.searches:
        last = max(content.seeds) + content.confirm.seeds
        if last >= SEARCH_SEEDS:
            yaml.problem(
                ("seeds",),
                f"repeated searches renumber their seeds, {SEARCH_SEEDS:,} for each: expected "
                f"seeds of trials and confirmation below that, got {last:,}",
            )
    yaml.check()
    assert content is not None
    return SearchStudy(
        name=content.name,
        question=content.question,
        data=content.data or data,
        arms=tuple(arms),
        search=search,
        trials=content.trials,
        seeds=tuple(content.seeds),
        batch=content.batch,
        sampler=content.sampler,
        pruner=content.pruner,
        confirm=content.confirm,
        file=yaml.path,
        searches=content.searches,
    )


def _arms(yaml: YamlFile) -> tuple[DataChoice, list[Arm]]:
    """Return the arms, and their data set unless the file names one."""
    content = yaml.content
    epochs = content.get("epochs")
    forced = {"epochs": epochs} if isinstance(epochs, int) else {}
    if content.get("experiment") is None:
        return DEFAULT_DATA, parse_arms(yaml, forced)[0]
    for key in ("arms", "vary"):
        if key in content:
            yaml.problem((key,), f"a study has either experiment or {key}, not both")
    try:
        experiment = load_experiment(find_file(str(content["experiment"]), yaml.path))
    except ConfigError as error:
        for problem in error.problems:
            yaml.problem(("experiment",), problem)
        return DEFAULT_DATA, []
    overrides = check_overrides(yaml, content.get("recipe") or {}, ("recipe",)) | forced
    arms = []
    for arm in experiment.arms:
        recipe = make_recipe(yaml, merged(arm.recipe.model_dump(), overrides), ("recipe",))
        if recipe:
            arms.append(Arm(arm.name, arm.overrides, recipe))
    return experiment.data, arms


def _search(yaml: YamlFile, content: Any) -> dict[str, Range | Alternatives]:
    """Return the search space, with every end and choice checked as a value of its recipe field."""
    search: dict[str, Range | Alternatives] = {}
    valid = [field for field in Recipe.model_fields if not field.endswith("_seed")]
    for field, values in content.items() if isinstance(content, dict) else ():
        keys: Keys = ("search", field)
        if field not in valid and not is_parameter(field):
            yaml.problem(keys, f"no searchable field {field!r}: {nearest(str(field), valid)}")
        elif isinstance(values, list):
            problems = len(yaml.problems)
            if len(values) < 2 or any(values.count(value) > 1 for value in values):
                yaml.problem(keys, f"expected two or more different choices, got {written(values)}")
            for i, value in enumerate(values):
                check_value(yaml, (*keys, i), field, value)
            if len(yaml.problems) == problems:
                search[field] = tuple(canonical(field, value) for value in values)
        elif not is_numeric(field):
            yaml.problem(keys, f"expected a list of choices, got {written(values)}")
        elif not isinstance(values, dict):
            yaml.problem(keys, f"expected {{low: ..., high: ...}} or a list, got {written(values)}")
        else:
            bounds = yaml.validate(Range, values, keys)
            if bounds:
                search[field] = bounds
                for end in ("low", "high"):
                    check_value(yaml, (*keys, end), field, values[end])
    return search


def _check_space(
    yaml: YamlFile, arms: list[Arm], search: Mapping[str, Range | Alternatives]
) -> None:
    """Note arms that differ only in searched fields, and values that do not go together."""
    seen: dict[str, str] = {}
    for arm in arms:
        other = seen.setdefault(repr(arm.recipe.without(search)), arm.name)
        if other != arm.name:
            yaml.problem(
                ("search",), f"arms {other!r} and {arm.name!r} differ only in what is searched"
            )
        lowest = {
            field: int(values.low) if is_numeric(field, whole=True) else values.low
            for field, values in search.items()
            if isinstance(values, Range) and is_parameter(field)
        }
        for choices in combinations(search):
            values = choices | lowest
            for _, message in recipe_problems(merged(arm.recipe.model_dump(), values)):
                what = f"arm {arm.name!r} with {arm_name(values)}"
                yaml.problem(("search",), f"{what}: {message}")


def combinations(search: Mapping[str, Range | Alternatives]) -> list[dict[str, Any]]:
    """Return every combination of the categorical values of a search."""
    choices = {field: values for field, values in search.items() if isinstance(values, tuple)}
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
