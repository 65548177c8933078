"""Optimizers: one on-line step, for all replicas at once.

Parameters and gradients are (replicas, weights): a replica's whole network lies along the last
axis, so that a step is element by element, or reduces over that axis only.
"""

import torch
from torch import Tensor

from lecun_ablate.registry import register


@register("optimizer")
def sgd(
    parameters: Tensor, gradients: Tensor, state: dict[str, Tensor], lr: Tensor, momentum: float
) -> None:
    """w -= lr v with v = momentum v + gradient. Robbins, Monro 1951; Polyak 1964 (momentum)."""
    if momentum:
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameters)
        gradients = state["velocity"].mul_(momentum).add_(gradients)
    parameters.addcmul_(gradients, lr, value=-1)
