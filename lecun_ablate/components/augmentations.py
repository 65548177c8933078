"""Augmentations: how an epoch changes the images that it presents."""

from typing import Annotated

import torch
import torch.nn.functional as F
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
    margins = (pixels,) * 4
    if wrap:
        padded = F.pad(images[:, None], margins, mode="circular")[:, 0]
    else:
        padded = F.pad(images, margins, value=BACKGROUND)
    places = padded.unfold(1, 16, 1).unfold(2, 16, 1)  # (n, row, column, 16, 16)
    row, column = (pixels - by).T
    return places[torch.arange(len(images)), row, column]
