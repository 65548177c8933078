"""The arms between two recipes: every combination of changes, or all changes but one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lecun_ablate.config.base import check_overrides
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.config.yaml_file import YamlFile

BASELINE, WINNER = "baseline", "winner"  # the first and the last arm; the others lie between them
MOST_CHANGES = 5  # up to here every combination is trained: 32 arms

Which = Literal["all", "leave_one_out"]


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
    if asked.arms == "all" and len(changes) > MOST_CHANGES:
        yaml.problem(
            ("ablate", "arms"),
            f"all: {len(changes)} changes have {2 ** len(changes)} combinations: expected "
            f"{MOST_CHANGES} changes at most, or arms: leave_one_out",
        )
        return {}, None
    which: Which = asked.arms or ("all" if len(changes) <= MOST_CHANGES else "leave_one_out")
    sets = _sets(changes, which)
    arms = {
        name: before | {field: after[field] for field in changes if field in made}
        for name, made in sets.items()
    }
    return arms, Ablation(tuple(changes), which, sets)


def _sets(changes: list[str], which: Which) -> dict[str, tuple[str, ...]]:
    """Return the changes of every arm by its name."""
    sets: dict[str, tuple[str, ...]] = {BASELINE: ()}
    if which == "all":
        for size in range(1, len(changes)):
            sets |= {"+".join(made): made for made in combinations(changes, size)}
    else:
        sets |= {f"without {one}": tuple(c for c in changes if c != one) for one in changes}
    return sets | {WINNER: tuple(changes)}


def stored(ablation: Mapping[str, Any] | None) -> Ablation | None:
    """Read an ablation back from plain values."""
    if ablation is None:
        return None
    sets = {arm: tuple(made) for arm, made in ablation["sets"].items()}
    return Ablation(tuple(ablation["changes"]), ablation["arms"], sets)
