"""Initial weights: uniform in [-bound, bound], the bound set by the number of inputs F.

Every init here makes the same draws from the generator and only scales them, so that arms
which differ in their init still start from paired random numbers.
"""

import math

import torch
from torch import Tensor

from lecun_ablate.registry import register


def _uniform(generator: torch.Generator, shape: tuple[int, ...], bound: Tensor) -> Tensor:
    """Return float64 draws of `shape`, uniform in [-bound, bound)."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (u - 0.5) * 2 * bound


@register("init")
def fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound 2.4 / F: the text of the paper. LeCun et al. 1989, Neural Computation 1(4)."""
    return _uniform(generator, shape, 2.4 / fan_in)


@register("init")
def sqrt_fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound 2.4 / sqrt(F): what the notebook runs. Cf. LeCun et al. 1998, "Efficient BackProp"."""
    return _uniform(generator, shape, 2.4 / fan_in.sqrt())


@register("init")
def sqrt_gain_fan_in(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound sqrt(2.4 / F): a third reading of LeCun et al. 1989 that is in use elsewhere."""
    return _uniform(generator, shape, (2.4 / fan_in).sqrt())


@register("init")
def xavier(
    generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor, fan_out: float
) -> Tensor:
    """Bound sqrt(6 / (fan-in + fan-out)). Glorot and Bengio 2010, AISTATS."""
    return _uniform(generator, shape, (6 / (fan_in + fan_out)).sqrt())


@register("init")
def kaiming(generator: torch.Generator, shape: tuple[int, ...], fan_in: Tensor) -> Tensor:
    """Bound sqrt(6 / F), meant for rectifiers. He, Zhang, Ren, Sun 2015, ICCV."""
    return _uniform(generator, shape, math.sqrt(6) / fan_in.sqrt())
