"""Checks that the user's components keep their contract, before anything is trained.

If a component draws from a global generator, counts its calls or mixes replicas, its numbers depend
on what else is being trained. Nobody could reproduce them, and no error would say so.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Sequence

import numpy as np
import torch

from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import Component
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.torch_trainer import TorchTrainer

PATTERNS = 3  # trained on once
SEEDS = (0, 1)


def refuse_broken(arm: str, recipe: Recipe, split: Split) -> None:
    """Train a few patterns with the user's own components in a recipe.

    Raises ConfigError, naming the component with its file and line, if one fails, touches a global
    generator, gives other numbers the second time, or mixes replicas that are trained together.
    """
    own = recipe.user_components
    if not own:
        return
    few = Split(split.images[:PATTERNS], split.labels[:PATTERNS])
    short = recipe.model_copy(update={"epochs": 1})
    for field in COMPONENT_FIELDS:  # first each by itself, to name the right one
        if not recipe.component(field).builtin:
            alone = _others_built_in(short, field)
            if alone is not None:
                _try(arm, alone, few, [recipe.component(field)])
    _try(arm, short, few, own)


def _others_built_in(recipe: Recipe, field: str) -> Recipe | None:
    """Return a recipe in which only one field has a user's component."""
    plain = Recipe()
    update = {
        other: getattr(plain, other)
        for other in COMPONENT_FIELDS
        if other != field and not recipe.component(other).builtin
    }
    return recipe.model_copy(update=update) if update else None


def _try(arm: str, recipe: Recipe, few: Split, own: Sequence[Component]) -> None:
    before = _global_generators()
    try:
        together = _train(recipe, few, SEEDS)
        again = _train(recipe, few, SEEDS)
        alone = [_train(recipe, few, [seed])[0] for seed in SEEDS]
        start = _start(recipe, few)
    except ConfigError as error:
        raise ConfigError([f"arm {arm!r}: {problem}" for problem in error.problems]) from error
    except Exception as error:
        words = f"{place(error, own)}: {type(error).__name__}: {error}"
        raise ConfigError(f"arm {arm!r}: {_names(own)}: {words}") from error
    problem = None
    if _global_generators() != before:
        problem = (
            "draws from a global random generator: expected draws from the torch.Generator that it "
            "is given, if any"
        )
    elif not _same(together, again):
        problem = (
            "gives other numbers the second time: expected the same from the same arguments "
            "(without its own dropout, noise or counted calls)"
        )
    elif not _same(together, alone):
        problem = (
            "gives a network other numbers when another is trained beside it: expected to work on "
            "each replica, and in an activation on each element, by itself"
        )
    elif "optimizer" in {c.kind for c in own} and _same(together, start):
        problem = (
            "changes no parameter: expected an optimizer to change `parameters` in place, with "
            "parameters.sub_(...) or the like; what it returns is not used"
        )
    if problem:
        raise ConfigError(f"arm {arm!r}: {_names(own)}: {own[0].origin}: {problem}")


def _train(recipe: Recipe, few: Split, seeds: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Return the parameters of each seed after an epoch, and its answers."""
    trainer = TorchTrainer("cpu", threads=1)
    runs = [Run(recipe, seed) for seed in seeds]
    found: dict[int, dict[str, np.ndarray]] = {}
    for report in trainer.train(runs, few, {"train": few}):
        answers = {"answers": report.scores["train"].predictions}
        found[report.index] = dict(report.state.parameters) | answers
    return [found[i] for i in range(len(runs))]


def _start(recipe: Recipe, few: Split) -> list[dict[str, np.ndarray]]:
    """Return the same for networks that have learned nothing."""
    from lecun_ablate.trainers.shared import begin

    answers = [one["answers"] for one in _train(recipe, few, SEEDS)]
    states = [begin(Run(recipe, seed))[1] for seed in SEEDS]
    return [
        {name: value.astype(recipe.dtype) for name, value in state.parameters.items()}
        | {"answers": answer}
        for state, answer in zip(states, answers, strict=True)
    ]


def _same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> bool:
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=_floats(a[k])) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def _floats(array: np.ndarray) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _global_generators() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)
    return (torch.get_rng_state().numpy().tobytes(), str(numpy_state), random.getstate())


def _names(own: Sequence[Component]) -> str:
    return ", ".join(dict.fromkeys(f"{c.kind} {c.name!r}" for c in own))


def place(error: BaseException, own: Sequence[Component]) -> str:
    """Return the line of the user's file that raised an error, or the component's first line."""
    files = {str(c.file) for c in own if c.file}
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f"{lines[-1].filename}:{lines[-1].lineno}" if lines else own[0].origin
