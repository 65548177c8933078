"""Augmentations: changes to the images that an epoch presents."""

from typing import Annotated

import numpy as np
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

    Pixels that leave on one side enter on the other; with wrap=false, background (-1) enters.
    """
    by = torch.randint(-pixels, pixels + 1, (len(images), 2), generator=generator)
    size, inside = 16 + 2 * pixels, slice(pixels, 16 + pixels)
    padded = images.new_full((len(images), size, size), BACKGROUND)
    padded[:, inside, inside] = images
    if wrap:
        for around in (padded, padded.transpose(1, 2)):  # rows, then columns with the corners
            around[:, :pixels] = around[:, 16 : 16 + pixels]
            around[:, -pixels:] = around[:, pixels : 2 * pixels]
    places = np.lib.stride_tricks.sliding_window_view(padded.numpy(), (16, 16), (1, 2))
    row, column = (pixels - by).T.numpy()
    # NumPy copies a window much faster than PyTorch's indexing
    return torch.from_numpy(places[np.arange(len(images)), row, column])
