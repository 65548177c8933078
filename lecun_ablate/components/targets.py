"""Targets: what the ten outputs should be for a label."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lecun_ablate.registry import register


@register("target")
def one_hot(labels: Tensor) -> Tensor:
    """1 for the label, 0 elsewhere, as in the notebook. Bridle 1990 (class probabilities)."""
    return F.one_hot(labels, 10).double()


@register("target")
def bipolar(labels: Tensor, *, value: Annotated[float, Field(gt=0)] = 1.0) -> Tensor:
    """+`value` for the label, -`value` elsewhere; the paper's are +1 and -1. LeCun et al. 1989.

    Targets inside the range of the output activation can be reached with finite weights.
    """
    return value * (2 * F.one_hot(labels, 10).double() - 1)
