"""Schedules: the factor of the learning rate as training progresses from 0 to 1.

A factor of 1 means the full rate. Progress goes from the first epoch or step (0) to the last (1),
as set by the recipe's `schedule_per`.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lecun_ablate.registry import register

Share = Annotated[float, Field(ge=0, le=1)]


@register("schedule")
def constant(progress: Tensor) -> Tensor:
    """1 throughout. Robbins and Monro 1951 discuss when a rate may stay constant."""
    return torch.ones_like(progress)


@register("schedule")
def linear(progress: Tensor, *, to: Share = 0.0) -> Tensor:
    """From 1 to `to` in a straight line. Karpathy 2022 decays 3e-4 to 1e-4: to=1/3."""
    return (1 - progress) + progress * to


@register("schedule")
def cosine(progress: Tensor, *, to: Share = 0.0, warmup: Share = 0.0) -> Tensor:
    """From 1 to `to` along half a cosine, after a linear rise. Loshchilov, Hutter 2017, "SGDR".

    `warmup` is the share of training in which the factor rises from 0 to 1.
    """
    left = max(1 - warmup, 1e-12)
    fall = to + (1 - to) * (1 + torch.cos(math.pi * (progress - warmup) / left)) / 2
    return torch.where(progress < warmup, progress / max(warmup, 1e-12), fall)


@register("schedule")
def step(
    progress: Tensor,
    *,
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    every: Annotated[float, Field(gt=0, le=1)] = 1 / 3,
) -> Tensor:
    """Times `factor` after each `every` of training. He, Zhang, Ren, Sun 2016, CVPR."""
    return factor ** torch.floor(progress / every + 1e-9)


@register("schedule")
def one_cycle(
    progress: Tensor,
    *,
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    start: Share = 0.04,
    end: Share = 0.0,
) -> Tensor:
    """From `start` to 1 at progress `peak`, then to `end`, along cosines. Smith, Topin 2018."""
    rise = start + (1 - start) * (1 - torch.cos(math.pi * progress / peak)) / 2
    fall = end + (1 - end) * (1 + torch.cos(math.pi * (progress - peak) / (1 - peak))) / 2
    return torch.where(progress < peak, rise, fall)
