"""What every trainer does in the same way: refuse a recipe, begin a run, report an epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.network import initial
from lecun_ablate.trainers.base import EpochReport, Run, Scores, State, Trainer

# what an optimizer keeps of each weight, as a state names it: first and second moments
SLOTS = {
    "sgd": ("velocity", None),
    "nesterov": ("velocity", None),
    "sdlm": ("velocity", None),
    "adam": ("mean", "square"),
    "adamw": ("mean", "square"),
    "rmsprop": (None, "square"),
    "lion": ("mean", None),
}
POWERS = ("beta1_power", "beta2_power")  # what adam and adamw keep beside them


def slots(recipe: Recipe) -> tuple[str | None, str | None]:
    """Return the names of the first and second moments that a recipe's optimizer keeps."""
    first, second = SLOTS[recipe.component("optimizer").name]
    return (None if first == "velocity" and not recipe.momentum else first), second


def unknown_component(
    trainer: str,
    recipe: Recipe,
    known: Mapping[str, Collection[str]],
) -> str | None:
    """Return the component of a recipe that a trainer does not know, in words; None if it has all.

    `known` maps recipe fields to the built-in components that the trainer has.
    """
    for field, names in known.items():
        component = recipe.component(field)
        if not component.builtin or component.name not in names:
            return f"the {trainer} trainer has no {component.kind} {component.name!r}"
    return None


def refuse_unsupported(trainer: Trainer, recipes: Iterable[Recipe]) -> None:
    """Raise ConfigError for the first recipe that a trainer cannot train."""
    for recipe in recipes:
        if reason := trainer.unsupported(recipe):
            raise ConfigError(reason)


def begin(run: Run) -> tuple[np.ndarray, State]:
    """Return a run's connectivity, (12, 12) bool, and the state from which it is trained."""
    if run.state is not None:
        return initial.connectivity(run.recipe, run.seed), run.state
    start = initial.start(run.recipe, run.seed)
    return start.connectivity, State(0, start.parameters)


def targets(recipe: Recipe) -> np.ndarray:
    """Return the outputs that a recipe wants for each digit, (10 labels, 10 outputs) float64."""
    wanted: torch.Tensor = recipe.component("target")(torch.arange(10))
    return wanted.double().numpy()


def leak(recipe: Recipe, field: str) -> float:
    """Return the slope below 0 of the activation that a field names, if it is a leaky_relu."""
    component = recipe.component(field)
    return float(component.values.get("slope", 0.0)) if component.builtin else 0.0


def epoch_report(
    index: int, run: Run, state: State, scores: dict[str, Scores], seconds: float
) -> EpochReport:
    """Return the report of an epoch; a run diverges if a parameter or a loss is not finite."""
    finite = all(np.isfinite(values).all() for values in state.parameters.values())
    diverged = not (finite and all(np.isfinite(score.loss) for score in scores.values()))
    last = diverged or state.epoch == run.last_epoch
    return EpochReport(index, state.epoch, scores, seconds, diverged, last, state)
