"""Optimizers: one step of all replicas at once.

Parameters and gradients are (replicas, weights): each row is the whole network of one replica. An
optimizer works elementwise or reduces over the last axis, so that replicas do not mix.

State tensors are also (replicas, weights), or (replicas, 1) for one number per replica. Powers of
the decay rates are such numbers, in float64: a running product is rounded in the same way for every
replica, and 1 - beta^t needs the precision.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lecun_ablate.registry import register

State = dict[str, Tensor]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def _kept(state: State, name: str, like: Tensor) -> Tensor:
    """Return a tensor of the state, initially zeros."""
    if name not in state:
        state[name] = torch.zeros_like(like)
    return state[name]


def _bias(state: State, name: str, decay: float, like: Tensor) -> Tensor:
    """Return 1 - decay^t at step t, (replicas, 1) float64: the weight of t terms of an average."""
    if name not in state:
        state[name] = torch.ones(len(like), 1, dtype=torch.float64, device=like.device)
    return 1 - state[name].mul_(decay)


def _velocity(state: State, gradients: Tensor, momentum: float) -> Tensor:
    """Return v = momentum v + gradient; the gradient itself without momentum."""
    if not momentum:
        return gradients
    return _kept(state, "velocity", gradients).mul_(momentum).add_(gradients)


@register("optimizer")
def sgd(parameters: Tensor, gradients: Tensor, state: State, lr: Tensor, momentum: float) -> None:
    """v = momentum v + gradient; w -= lr v. Robbins, Monro 1951; Polyak 1964 (momentum)."""
    parameters.addcmul_(_velocity(state, gradients, momentum), lr, value=-1)


@register("optimizer")
def nesterov(
    parameters: Tensor, gradients: Tensor, state: State, lr: Tensor, momentum: float
) -> None:
    """v = momentum v + gradient; w -= lr (gradient + momentum v). Nesterov 1983; Sutskever 2013."""
    velocity = _velocity(state, gradients, momentum)
    parameters.addcmul_(gradients.add(velocity, alpha=momentum), lr, value=-1)


@register("optimizer")
def adam(
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    lr: Tensor,
    *,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    eps: Positive = 1e-8,
) -> None:
    """w -= lr m / (sqrt(v) + eps), moments corrected for bias. Kingma, Ba 2015, arXiv:1412.6980."""
    mean = _kept(state, "mean", parameters).mul_(beta1).add_(gradients, alpha=1 - beta1)
    square = _kept(state, "square", parameters).mul_(beta2)
    square.addcmul_(gradients, gradients, value=1 - beta2)
    rate = (lr.double() / _bias(state, "beta1_power", beta1, parameters)).to(lr.dtype)
    root = _bias(state, "beta2_power", beta2, parameters).sqrt().to(lr.dtype)
    parameters.sub_(rate * (mean / (square.sqrt() / root + eps)))


@register("optimizer")
def adamw(
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    lr: Tensor,
    *,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.01,
) -> None:
    """w *= 1 - lr weight_decay, then as adam; biases too. Loshchilov, Hutter 2019."""
    parameters.mul_(1 - lr * weight_decay)
    adam(parameters, gradients, state, lr, beta1=beta1, beta2=beta2, eps=eps)


@register("optimizer")
def rmsprop(
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    lr: Tensor,
    *,
    alpha: Decay = 0.99,
    eps: Positive = 1e-8,
) -> None:
    """w -= lr gradient / (sqrt(v) + eps), v a running mean of squares. Tieleman, Hinton 2012."""
    square = _kept(state, "square", parameters).mul_(alpha)
    square.addcmul_(gradients, gradients, value=1 - alpha)
    parameters.sub_(lr * (gradients / (square.sqrt() + eps)))


@register("optimizer")
def lion(
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    lr: Tensor,
    *,
    beta1: Decay = 0.9,
    beta2: Decay = 0.99,
    weight_decay: NotNegative = 0.0,
) -> None:
    """w -= lr (sign(beta1 m + (1 - beta1) gradient) + weight_decay w). Chen et al. 2023."""
    mean = _kept(state, "mean", parameters)
    sign = mean.mul(beta1).add_(gradients, alpha=1 - beta1).sign_()
    parameters.mul_(1 - lr * weight_decay).addcmul_(sign, lr, value=-1)
    mean.mul_(beta2).add_(gradients, alpha=1 - beta2)


@register("optimizer")
def sdlm(
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    lr: Tensor,
    momentum: float,
    curvature: Tensor,
    *,
    mu: Positive = 0.02,
    estimate: Literal["pass", "running"] = "pass",
    patterns: Annotated[int, Field(ge=1)] = 500,
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.002,
) -> None:
    """w -= lr gradient / (mu + h): stochastic diagonal Levenberg-Marquardt. LeCun et al. 1989.

    LeCun, Bottou, Bengio, Haffner 1998, appendix C. h is the curvature (network/curvature.py): a
    mean over the first `patterns` of the epoch's images before every epoch, or a running mean that
    starts from it and moves by `gamma` towards that of each step's patterns.
    """
    scaled = gradients / (curvature + mu)
    parameters.addcmul_(_velocity(state, scaled, momentum), lr, value=-1)
