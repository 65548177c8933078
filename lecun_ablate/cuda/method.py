"""The host's side of method.hpp: what the kernel is told of a recipe's method, and its rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda.compiler import OWN
from lecun_ablate.network.epoch import learning_rates, steps_of

_NUMBERS = ("weight_decay", "beta1", "rest1", "beta2", "rest2", "eps", "decay", "mu", "gamma",
            "average", "rest_average", "kept_scale")  # fmt: skip


def method_of(recipe: Recipe) -> str | None:
    """Return the optimizer by whose steps a recipe is trained; None for plain gradient descent.

    Plain are steps of one pattern at a rate that stays the same throughout an epoch.
    """
    component = recipe.component("optimizer")
    optimizer = component.name if component.builtin else OWN
    plain = (
        optimizer == "sgd"
        and recipe.batch_size == 1
        and not (recipe.dropout or recipe.weight_decay or recipe.average)
        and (recipe.schedule == "constant" or recipe.schedule_per == "epoch")
    )
    return None if plain else optimizer


def method_type(dtype: str) -> np.dtype:
    """Return the layout of Method in method.hpp."""
    numbers = [(name, dtype) for name in _NUMBERS]
    return np.dtype(
        [*numbers, *((n, "i4") for n in ("batch", "estimated", "running", "fresh"))], align=True
    )


def method_values(
    recipe: Recipe, patterns: int, estimate: bool, fresh: bool = False
) -> tuple[Any, ...]:
    """Return a Method of method.hpp for epochs of `patterns` patterns.

    `estimate`: whether the curvature, if the optimizer takes it, is estimated before the epoch;
    `fresh`: whether the epoch's first step is the first of the run.
    """
    optimizer = recipe.component("optimizer")
    p: dict[str, Any] = optimizer.values if optimizer.builtin else {}
    beta1, beta2 = p.get("beta1", 0.0), p.get("beta2", p.get("alpha", 0.0))
    return (
        recipe.weight_decay,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        p.get("eps", 0.0),
        p.get("weight_decay", 0.0),
        p.get("mu", 0.0),
        p.get("gamma", 0.0),
        recipe.average,
        1 - recipe.average,
        1 / (1 - recipe.dropout),
        min(recipe.batch_size, max(1, patterns)),
        min(int(p["patterns"]), patterns) if estimate and "patterns" in p else 0,
        p.get("estimate") == "running",
        fresh,
    )


def rates(recipe: Recipe, epoch: int, patterns: int, powers: Sequence[float]) -> np.ndarray:
    """Return the Rates of method.hpp of an epoch's steps, (steps, 3) in the recipe's dtype.

    `powers` are beta1^t and beta2^t after the t steps so far: see `powers_after`.
    """
    steps = steps_of(recipe, patterns)
    plain = learning_rates(recipe, epoch, steps)
    corrected, per_root = plain, np.ones(steps)
    if recipe.component("optimizer").name in ("adam", "adamw"):
        beta1, beta2 = (_powers(recipe, i, steps, powers[i])[1:] for i in range(2))
        corrected, per_root = plain / (1 - beta1), 1 / np.sqrt(1 - beta2)
    return np.stack([plain, corrected, per_root], 1).astype(recipe.dtype)


def powers_after(recipe: Recipe, patterns: int, powers: Sequence[float]) -> list[float]:
    """Return what `powers`, beta1^t and beta2^t, are after another epoch."""
    steps = steps_of(recipe, patterns)
    return [float(_powers(recipe, i, steps, powers[i])[-1]) for i in range(2)]


def _powers(recipe: Recipe, which: int, steps: int, start: float) -> np.ndarray:
    """Return beta^t before and after each step, (steps + 1,): running products, as torch's."""
    beta = float(recipe.component("optimizer").values[f"beta{which + 1}"])
    return np.multiply.accumulate(np.concatenate([[start], np.full(steps, beta)]))
