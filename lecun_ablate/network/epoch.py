"""The images, masks and learning rates of an epoch: the same bits for every trainer.

Random numbers come from named streams of the seed, one per epoch and purpose. They belong to the
patterns, not to their positions in the order, so that arms with different orders stay paired.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.network.initial import stream

H3_INPUTS = 192
DRAWS = 1 << 16  # a dropout mask compares whole numbers below this with the rate


def augmented(recipe: Recipe, seed: int, epoch: int, images: Tensor) -> Tensor:
    """Return the images, (n, 16, 16), that an epoch (from 1) presents."""
    if recipe.augmentation == "none":
        return images
    generator = stream(_order_seed(recipe, seed), "augmentation", epoch)
    augmentation = recipe.component("augmentation")
    own = images if augmentation.builtin else images.clone()  # a user's may change it in place
    changed = torch.as_tensor(augmentation(own, generator))
    if changed.shape != images.shape or changed.dtype != images.dtype:
        raise ConfigError(
            f"augmentation {recipe.augmentation!r}: expected {images.dtype} images of shape "
            f"{tuple(images.shape)}, got {changed.dtype} of shape {tuple(changed.shape)}"
        )
    return changed


def dropout_masks(recipe: Recipe, seed: int, epoch: int, n: int) -> np.ndarray | None:
    """Return which inputs of H3 each pattern keeps, (n, 192) bool; None without dropout.

    The rate is rounded to a multiple of 2^-16.
    """
    if not recipe.dropout:
        return None
    generator = stream(_order_seed(recipe, seed), "dropout", epoch)
    words = torch.empty(n, H3_INPUTS // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)  # four draws of 16 bits in each
    draws = words.numpy().astype("<i8", copy=False).view("<u2")
    return draws >= round(recipe.dropout * DRAWS)


def learning_rates(recipe: Recipe, epoch: int, steps: int) -> np.ndarray:
    """Return the learning rate of each of the `steps` steps of an epoch (from 1), (steps,)."""
    if recipe.schedule == "constant":
        return np.full(steps, recipe.lr)
    if recipe.schedule_per == "epoch":
        progress = torch.tensor([(epoch - 1) / max(1, recipe.epochs - 1)], dtype=torch.float64)
    else:
        done = torch.arange(steps, dtype=torch.float64) + (epoch - 1) * steps
        progress = done / max(1, recipe.epochs * steps - 1)
    factors = torch.as_tensor(recipe.component("schedule")(progress)).double()
    if factors.shape != progress.shape or not bool(((factors >= 0) & factors.isfinite()).all()):
        raise ConfigError(
            f"schedule {recipe.schedule!r}: expected {len(progress)} finite factors of at least 0, "
            f"got {factors.tolist()[:5] if factors.ndim else factors.item()}"
        )
    return recipe.lr * np.broadcast_to(factors.numpy(), steps)


def batches(recipe: Recipe, n: int) -> list[slice]:
    """Return the positions in an epoch's order that each step takes; the last may take fewer."""
    size = min(recipe.batch_size, n)
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def steps_of(recipe: Recipe, n: int) -> int:
    """Return how many steps an epoch of n patterns has."""
    return -(-n // min(recipe.batch_size, n)) if n else 0


def smoothed(recipe: Recipe, targets: Tensor) -> Tensor:
    """Return the targets, (..., 10), that training uses."""
    s = recipe.label_smoothing
    return (1 - s) * targets + s * targets.mean(-1, keepdim=True) if s else targets


def _order_seed(recipe: Recipe, seed: int) -> int:
    return seed if recipe.order_seed is None else recipe.order_seed
