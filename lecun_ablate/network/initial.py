"""The initial state of a run: connectivity, weights, and streams of random numbers.

Paired comparisons rest on common random numbers: the same seed gives every arm the same draws. The
four weight tensors of the notebook's net are drawn first from the seed's own stream, in the
notebook's order. Everything that only some arms need has a separate stream, so it does not affect
the others.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import Component

PLANES = 12  # feature planes of H1 and of H2
TAPS = 25  # a 5x5 kernel
DRAWN = 8  # H1 planes per H2 plane whose weights come from the seed's first stream

# every trainable tensor of the net, in canonical order; H2 is dense, unconnected weights are 0
SHAPES = {
    "h1_weight": (12, 1, 5, 5),
    "h1_bias": (12, 8, 8),
    "h2_weight": (12, 12, 5, 5),
    "h2_bias": (12, 4, 4),
    "h3_weight": (192, 30),
    "h3_bias": (30,),
    "out_weight": (30, 10),
    "out_bias": (10,),
}


PARAMETERS = sum(math.prod(shape) for shape in SHAPES.values())  # 10,960: H2 dense


@dataclass(frozen=True)
class Start:
    """A network before its first step."""

    connectivity: np.ndarray  # (12, 12) bool, [H2 plane, H1 plane]
    parameters: dict[str, np.ndarray]  # SHAPES, float64


def stream(seed: int, *name: str | int) -> torch.Generator:
    """Return the generator of a named stream of `seed`; without a name, the seed's own stream."""
    if name:
        digest = hashlib.sha256("/".join(map(str, (seed, *name))).encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)


def pattern_order(recipe: Recipe, seed: int, epoch: int, n: int) -> Tensor:
    """Return the order, (n,) int64, in which an epoch (from 1) presents the n patterns."""
    order_seed = seed if recipe.order_seed is None else recipe.order_seed
    order = torch.as_tensor(recipe.component("order")(n, stream(order_seed, "order", epoch)))
    if not _is_permutation(order, n):
        raise ConfigError(
            f"order {recipe.order!r}: expected a permutation of 0..{n - 1} as int64, "
            f"got {order.dtype} of shape {tuple(order.shape)}"
        )
    return order


def _is_permutation(order: Tensor, n: int) -> bool:
    if order.shape != (n,) or order.dtype != torch.int64:
        return False
    values, seen = order.numpy(), np.zeros(n, bool)
    if not ((values >= 0) & (values < n)).all():
        return False
    seen[values] = True  # ten times as fast as sorting, which matters for every run and epoch
    return bool(seen.all())


def connectivity(recipe: Recipe, seed: int) -> np.ndarray:
    """Return which H1 planes each H2 plane sees: (12, 12) bool, every row with a True."""
    weight_seed = seed if recipe.init_seed is None else recipe.init_seed
    matrix = np.asarray(recipe.component("connectivity")(stream(weight_seed, "connectivity")))
    if matrix.shape != (PLANES, PLANES) or not np.isin(matrix, (0, 1)).all():
        raise ConfigError(
            f"connectivity {recipe.connectivity!r}: expected a 12x12 boolean matrix, "
            f"got {matrix.dtype} of shape {matrix.shape}"
        )
    blind = np.flatnonzero(~matrix.astype(bool).any(axis=1))
    if blind.size:
        raise ConfigError(
            f"connectivity {recipe.connectivity!r}: H2 plane {blind[0]} sees no plane of H1"
        )
    return matrix.astype(bool)


def start(recipe: Recipe, seed: int) -> Start:
    """Draw a run's connectivity and initial parameters, always in float64."""
    seen = connectivity(recipe, seed)
    init = recipe.component("init")
    weight_seed = seed if recipe.init_seed is None else recipe.init_seed
    first = stream(weight_seed)
    per_plane = torch.from_numpy(seen.sum(1).astype(np.float64)).view(PLANES, 1, 1, 1)
    h2_fan_in = TAPS * per_plane
    h2_fan_out = TAPS * float(seen.sum()) / PLANES  # the mean over the planes of H1

    h1 = _draw(init, first, (PLANES, 1, 5, 5), TAPS, TAPS * PLANES)
    h2_drawn = _draw(init, first, (PLANES, DRAWN, 5, 5), h2_fan_in, h2_fan_out)
    h3 = _draw(init, first, (192, 30), 192, 30)
    out = _draw(init, first, (30, 10), 30, 10)
    if seen.sum(1).max() > DRAWN:
        more = (PLANES, PLANES - DRAWN, 5, 5)
        beyond = _draw(init, stream(weight_seed, "h2"), more, h2_fan_in, h2_fan_out)
        h2_drawn = torch.cat([h2_drawn, beyond], dim=1)
    h2 = torch.zeros(PLANES, PLANES, 5, 5, dtype=torch.float64)
    for plane, row in enumerate(seen):  # the k-th connected plane gets the k-th draw
        h2[plane, row] = h2_drawn[plane, : row.sum()]

    parameters = {
        "h1_weight": h1,
        "h1_bias": torch.zeros(12, 8, 8),
        "h2_weight": h2,
        "h2_bias": torch.zeros(12, 4, 4),
        "h3_weight": h3,
        "h3_bias": torch.zeros(30),
        "out_weight": out,
        "out_bias": torch.full((10,), recipe.output_bias, dtype=torch.float64),
    }
    return Start(seen, {name: value.double().numpy() for name, value in parameters.items()})


def _draw(
    init: Component,
    generator: torch.Generator,
    shape: tuple[int, ...],
    fan_in: Tensor | float,
    fan_out: float,
) -> Tensor:
    fan_in = torch.as_tensor(fan_in, dtype=torch.float64)
    weights = torch.as_tensor(init(generator, shape, fan_in, float(fan_out)))
    if tuple(weights.shape) != shape or weights.dtype != torch.float64:
        raise ConfigError(
            f"init {init.name!r}: expected a float64 tensor of shape {shape}, "
            f"got {weights.dtype} of shape {tuple(weights.shape)}"
        )
    return weights


def parameter_count(seen: np.ndarray) -> int:
    """Return the number of trainable parameters under a connectivity; 9,760 for 8 planes each."""
    return PARAMETERS - TAPS * int((~seen).sum())


def mac_count(seen: np.ndarray) -> int:
    """Return the multiply-accumulates of one forward pass; 63,660 for 8 planes each."""
    h1 = TAPS * 8 * 8 * PLANES
    h2 = TAPS * 4 * 4 * int(seen.sum())
    return h1 + h2 + 192 * 30 + 30 * 10
