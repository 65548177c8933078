"""Orders: the sequence in which an epoch presents the patterns."""

import torch
from torch import Tensor

from lecun_ablate.registry import register


@register("order")
def fixed(n: int) -> Tensor:
    """The same order in every epoch. LeCun et al. 1989: "presented in a constant order"."""
    return torch.arange(n)


@register("order")
def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A new permutation in every epoch. LeCun et al. 1998, "Efficient BackProp", 4.2."""
    return torch.randperm(n, generator=generator)
