"""Inits: weights uniform in [-bound, bound], where the bound depends on the fan-in F.

All inits here scale the same draws, so that arms with different inits still share their random
numbers.
"""

import math

import torch
from torch import Tensor

from lecun_ablate.registry import register


def _uniform(generator: torch.Generator, shape: tuple[int, ...], bound: Tensor) -> Tensor:
    """Return float64 draws of the given shape, uniform in [-bound, bound)."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (u - 0.5) * 2 * bound


@register("init")
def fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound 2.4 / F, as the paper says. LeCun et al. 1989, Neural Computation 1(4)."""
    return _uniform(generator, shape, 2.4 / fan_in)


@register("init")
def sqrt_fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound 2.4 / sqrt(F), as in the notebook. Cf. LeCun et al. 1998, "Efficient BackProp"."""
    return _uniform(generator, shape, 2.4 / fan_in.sqrt())


@register("init")
def sqrt_gain_fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound sqrt(2.4 / F): a third reading of LeCun et al. 1989, also in use."""
    return _uniform(generator, shape, (2.4 / fan_in).sqrt())


@register("init")
def xavier(
    generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor, fan_out: float
) -> Tensor:
    """Bound sqrt(6 / (fan-in + fan-out)). Glorot and Bengio 2010, AISTATS."""
    return _uniform(generator, shape, (6 / (fan_in + fan_out)).sqrt())


@register("init")
def kaiming(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound sqrt(6 / F), for rectifiers. He, Zhang, Ren, Sun 2015, ICCV."""
    return _uniform(generator, shape, math.sqrt(6) / fan_in.sqrt())
