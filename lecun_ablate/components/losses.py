"""Losses: outputs and targets (..., 10) -> one loss per pattern (...)."""

import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.registry import register


@register("loss")
def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the 10 outputs of (y - t)^2, without 1/2, as in the notebook. LeCun et al. 1989."""
    return ((outputs - targets) ** 2).mean(-1)


@register("loss")
def half_sum_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the sum over the outputs of (y - t)^2; five times mse. Rumelhart et al. 1986."""
    return 0.5 * ((outputs - targets) ** 2).sum(-1)


@register("loss")
def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """-sum t log softmax(outputs): expects raw outputs (logits). Bridle 1990."""
    return -(targets * F.log_softmax(outputs, dim=-1)).sum(-1)
