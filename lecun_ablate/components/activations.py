"""Activations: elementwise functions, for the hidden layers and for the outputs."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lecun_ablate.registry import register


@register("activation")
def tanh(x: Tensor) -> Tensor:
    """tanh(x), as in the notebook. Rumelhart, Hinton, Williams 1986 (sigmoid units)."""
    return torch.tanh(x)


@register("activation")
def scaled_tanh(x: Tensor) -> Tensor:
    """1.7159 tanh(2x/3): f(+-1) = +-1. LeCun, Bottou, Orr, Mueller 1998, "Efficient BackProp"."""
    return 1.7159 * torch.tanh(x * (2 / 3))


@register("activation")
def lisht(x: Tensor) -> Tensor:
    """x tanh(x): even and unbounded. Roy et al. 2019, "LiSHT", arXiv:1901.05894."""
    return x * torch.tanh(x)


@register("activation")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)). Rumelhart, Hinton, Williams 1986, Nature 323."""
    return torch.sigmoid(x)


@register("activation")
def relu(x: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0. Nair and Hinton 2010, ICML."""
    return torch.relu(x)


@register("activation")
def leaky_relu(x: Tensor, *, slope: Annotated[float, Field(ge=0, lt=1)] = 0.01) -> Tensor:
    """x where x > 0, else `slope` x. Maas, Hannun, Ng 2013, ICML workshop."""
    return F.leaky_relu(x, slope)


@register("activation")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|). Bergstra et al. 2009; Glorot and Bengio 2010, AISTATS."""
    return x / (1 + x.abs())


@register("activation")
def gelu(x: Tensor) -> Tensor:
    """x Phi(x), with Phi the normal CDF, computed exactly (erf). Hendrycks, Gimpel 2016."""
    return F.gelu(x)


@register("activation")
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x). Elfwing, Uchibe, Doya 2018, Neural Networks 107."""
    return F.silu(x)


@register("activation")
def identity(x: Tensor) -> Tensor:
    """x itself: raw outputs (logits), as a softmax expects them. Bridle 1990."""
    return x
