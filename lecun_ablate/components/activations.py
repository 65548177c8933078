"""Activations: element by element, used for the hidden layers and for the outputs alike."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.registry import register


@register("activation")
def tanh(x: Tensor) -> Tensor:
    """tanh(x): what the notebook trains with. Rumelhart, Hinton, Williams 1986 (sigmoid units)."""
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
def leaky_relu(x: Tensor) -> Tensor:
    """x where x > 0, else 0.01 x. Maas, Hannun, Ng 2013, ICML workshop."""
    return F.leaky_relu(x, 0.01)


@register("activation")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|). Bergstra et al. 2009; Glorot and Bengio 2010, AISTATS."""
    return x / (1 + x.abs())


@register("activation")
def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function (exact, by erf). Hendrycks, Gimpel 2016."""
    return F.gelu(x)


@register("activation")
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x). Elfwing, Uchibe, Doya 2018, Neural Networks 107."""
    return F.silu(x)


@register("activation")
def identity(x: Tensor) -> Tensor:
    """x itself: for raw outputs under a softmax. Bridle 1990 (logits before the softmax)."""
    return x
