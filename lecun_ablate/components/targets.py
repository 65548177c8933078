"""Targets: the desired values of the ten outputs for each label."""

import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.registry import register


@register("target")
def one_hot(labels: Tensor) -> Tensor:
    """1 for the label, 0 elsewhere, as in the notebook. Bridle 1990 (class probabilities)."""
    return F.one_hot(labels, 10).double()


@register("target")
def bipolar(labels: Tensor) -> Tensor:
    """+1 for the label, -1 elsewhere, as in the paper. LeCun et al. 1989."""
    return 2 * F.one_hot(labels, 10).double() - 1
