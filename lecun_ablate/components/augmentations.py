"""Augmentations: how an epoch changes the images that it presents."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lecun_ablate.registry import register

BACKGROUND = -1.0


@register("augmentation")
def none(images: Tensor) -> Tensor:
    """The images as they are. LeCun et al. 1989."""
    return images


@register("augmentation")
def shift(
    images: Tensor,
    generator: torch.Generator,
    *,
    pixels: Annotated[int, Field(ge=1, le=8)] = 1,
    wrap: bool = True,
) -> Tensor:
    """By up to `pixels` rows and columns, each number of them equally likely. Karpathy 2022.

    What leaves on one side comes in on the other; with wrap=false, background (-1) comes in.
    """
    by = torch.randint(-pixels, pixels + 1, (len(images), 2), generator=generator)
    shifted = images.clone()
    for down in range(-pixels, pixels + 1):
        for right in range(-pixels, pixels + 1):
            here = torch.nonzero((by[:, 0] == down) & (by[:, 1] == right))[:, 0]
            moved = images[here].roll((down, right), (1, 2))
            if not wrap:
                for axis, places in ((1, down), (2, right)):
                    side = slice(0, places) if places > 0 else slice(16 + places, 16)
                    moved.narrow(axis, side.start, side.stop - side.start).fill_(BACKGROUND)
            shifted[here] = moved
    return shifted
