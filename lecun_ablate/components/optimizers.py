"""Optimizers: one on-line step of all replicas at once.

Parameters and gradients are (replicas, weights): each row is the whole network of one replica. An
optimizer works elementwise or reduces over the last axis, so that replicas do not mix.
"""

import torch
from torch import Tensor

from lecun_ablate.registry import register


@register("optimizer")
def sgd(
    parameters: Tensor, gradients: Tensor, state: dict[str, Tensor], lr: Tensor, momentum: float
) -> None:
    """v = momentum v + gradient; w -= lr v. Robbins, Monro 1951; Polyak 1964 (momentum)."""
    if momentum:
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameters)
        gradients = state["velocity"].mul_(momentum).add_(gradients)
    parameters.addcmul_(gradients, lr, value=-1)
