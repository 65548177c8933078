"""The arms between two recipes: all combinations of changes, all changes but one, or a path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lecun_ablate.config.base import check_overrides
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.config.yaml_file import YamlFile

BASELINE, WINNER = "baseline", "winner"  # the first and the last arm; the others lie between them
MOST_CHANGES = 5  # up to here every combination is trained: 32 arms
LONGEST_PATH = 8  # the most changes of a path: at most 37 arms

Which = Literal["all", "leave_one_out", "path"]


class AblateFile(BaseModel):
    """The mapping under an experiment's `ablate`; its recipe fields are checked later."""

    model_config = ConfigDict(extra="forbid")

    from_: dict[str, Any] = Field(default={}, alias="from")
    to: dict[str, Any] = Field(min_length=1)
    arms: Which | None = None  # None: "all" up to MOST_CHANGES


@dataclass(frozen=True)
class Ablation:
    """The changes from the baseline to the winner, and the sets of changes that are trained."""

    changes: tuple[str, ...]  # recipe fields
    arms: Which
    sets: dict[str, tuple[str, ...]]  # by arm: the changes that it has

    @property
    def most_arms(self) -> int:
        """How many arms there are at the end, at most."""
        steps = len(self.changes)
        return steps * (steps + 1) // 2 + 1 if self.arms == "path" else len(self.sets)

    def at_first(self) -> Ablation:
        """Return the same with what is trained first: of a path no change, each alone, and all."""
        if self.arms != "path":
            return self
        ends = 0, 1, len(self.changes)
        return replace(self, sets={a: made for a, made in self.sets.items() if len(made) in ends})

    def with_sets(self, more: Iterable[Collection[str]]) -> Ablation:
        """Return the same with more sets of changes trained, all in the order of `all`."""
        wanted = {frozenset(made) for made in (*self.sets.values(), *more)}
        every = combined(self.changes)
        return replace(self, sets={a: made for a, made in every.items() if set(made) in wanted})

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """The pairs (arm, reference): each change alone, or left out, and the whole difference."""
        whole = (WINNER, BASELINE)
        if self.arms == "leave_one_out":
            left = [arm for arm in self.sets if arm not in (BASELINE, WINNER)]
            return [whole, *((arm, WINNER) for arm in left)]
        return [whole, *((arm, BASELINE) for arm, made in self.sets.items() if len(made) == 1)]


def parse_ablation(
    yaml: YamlFile, content: Any, recipe: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], Ablation | None]:
    """Return the overrides of every arm by name, and the ablation; note problems.

    For a path, these are all arms that it could include.
    `recipe` has the fields that the file sets for all arms, and that `from` may omit.
    """
    asked = yaml.validate(AblateFile, content, ("ablate",))
    if asked is None:
        return {}, None
    problems = len(yaml.problems)
    before = check_overrides(yaml, asked.from_, ("ablate", "from"))
    after = check_overrides(yaml, asked.to, ("ablate", "to"))
    if len(yaml.problems) > problems:
        return {}, None
    defaults = {name: field.default for name, field in Recipe.model_fields.items()}
    start = defaults | dict(recipe) | before
    changes = [f for f, value in after.items() if f not in start or start[f] != value]
    if len(changes) < 2:
        yaml.problem(
            ("ablate", "to"),
            f"expected two or more changes against `from`, got {len(changes)}: two arms are "
            "compared under `arms`",
        )
        return {}, None
    for choice, most in (("all", MOST_CHANGES), ("path", LONGEST_PATH)):
        if asked.arms == choice and len(changes) > most:
            others = "path or leave_one_out" if len(changes) <= LONGEST_PATH else "leave_one_out"
            yaml.problem(
                ("ablate", "arms"),
                f"{choice}: {len(changes)} changes have {2 ** len(changes)} combinations: expected "
                f"{most} changes at most, or arms: {others}",
            )
            return {}, None
    which: Which = asked.arms or ("all" if len(changes) <= MOST_CHANGES else "leave_one_out")
    sets = _left_out(changes) if which == "leave_one_out" else combined(changes)
    arms = {
        name: before | {field: after[field] for field in changes if field in made}
        for name, made in sets.items()
    }
    return arms, Ablation(tuple(changes), which, sets)


def combined(changes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return every set of changes by the name of the arm that has it, the smaller sets first."""
    sets: dict[str, tuple[str, ...]] = {BASELINE: ()}
    for size in range(1, len(changes)):
        sets |= {"+".join(made): made for made in combinations(changes, size)}
    return sets | {WINNER: tuple(changes)}


def _left_out(changes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return all changes but one by arm, between none and all."""
    each = {f"without {one}": tuple(c for c in changes if c != one) for one in changes}
    return {BASELINE: (), **each, WINNER: tuple(changes)}


def stored(ablation: Mapping[str, Any] | None) -> Ablation | None:
    """Read an ablation back from plain values."""
    if ablation is None:
        return None
    sets = {arm: tuple(made) for arm, made in ablation["sets"].items()}
    return Ablation(tuple(ablation["changes"]), ablation["arms"], sets)
