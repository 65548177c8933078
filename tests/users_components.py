"""Components as users write them, for the tests of what compiles them."""

import pytest
import torch
import torch.nn.functional as F


def only_first_fast(values):
    """Return values to parametrize a test with, all but the first as slow tests."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]


ACTIVATIONS = {
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "sine": torch.sin,
    "snake": lambda x: x + torch.sin(x) ** 2,
    "gaussian": lambda x: torch.exp(-x * x),
    "relu6": F.relu6,
    "swish2": lambda x: x * torch.sigmoid(2 * x),
    "where": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "clamp": lambda x: x.clamp(-1, 1.5),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "abs": torch.abs,
    "cube": lambda x: x**3 / 8,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "expm1": lambda x: torch.expm1(-x.abs()) * x.sign(),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "tanh_gelu": lambda x: F.gelu(x, approximate="tanh"),
    "tanhshrink": F.tanhshrink,
    "penalised_tanh": lambda x: torch.where(x > 0, torch.tanh(x), 0.25 * torch.tanh(x)),
}


def _cross_entropy_by_hand(y, t):
    e = torch.exp(y - y.max(-1, keepdim=True).values)
    return -(t * torch.log(e / e.sum(-1, keepdim=True))).sum(-1)


LOSSES = {
    "absolute": lambda y, t: (y - t).abs().mean(-1),
    "huber": lambda y, t: F.huber_loss(y, t, reduction="none", delta=0.5).sum(-1),
    "hinge": lambda y, t: (1 - y * (2 * t - 1)).clamp(min=0).mean(-1),
    "log_cosh": lambda y, t: torch.log(torch.cosh(y - t)).sum(-1),
    "focal": lambda y, t: -(t * (1 - y.softmax(-1)) ** 2 * y.log_softmax(-1)).sum(-1),
    "softmax_by_hand": _cross_entropy_by_hand,
}
MORE_LOSSES = {  # with other reductions, or written in other ways
    "logsumexp": lambda y, t: y.logsumexp(-1) * t.sum(-1) - (t * y).sum(-1),
    "norm": lambda y, t: (y - t).norm(dim=-1),
    "max": lambda y, t: (y - t).abs().max(-1).values,
    "amax": lambda y, t: (y - t).abs().amax(dim=1),
    "smallest": lambda y, t: (y - t).square().mean(-1) - 0.1 * y.amin(-1),
    "crammer_singer": lambda y, t: (y + 1 - t).amax(-1) - (y * t).sum(-1),
    "weighted": lambda y, t: ((y - t) ** 2 * torch.arange(1, 11)).sum(-1) / 55,
    "smooth_l1": lambda y, t: F.smooth_l1_loss(y, t, reduction="none").mean(-1),
    "binary": lambda y, t: F.binary_cross_entropy_with_logits(
        y, t.clamp(0, 1), reduction="none"
    ).mean(-1),
    "kl": lambda y, t: F.kl_div(y.log_softmax(-1), t.clamp(min=0.01), reduction="none").sum(-1),
    "gather": lambda y, t: -y.log_softmax(-1).gather(-1, t.argmax(-1, keepdim=True))[..., 0],
    "variance": lambda y, t: (y - t).var(-1) + (y - t).std(-1, correction=0),
    "cosine": lambda y, t: 1 - F.cosine_similarity(y, t, dim=-1),
    "one_output": lambda y, t: y[..., 3] ** 2 + ((y - t) ** 2).mean(-1),
    "cross_entropy": lambda y, t: F.cross_entropy(y, t, reduction="none"),
    "any": lambda y, t: torch.where((y > 2).any(-1), 2.0, 1.0) * (y - t).square().sum(-1),
}


def heavy_ball(parameters, gradients, state, lr, momentum):
    if "velocity" not in state:
        state["velocity"] = torch.zeros_like(parameters)
    state["velocity"].mul_(momentum).add_(gradients)
    parameters.sub_(lr * state["velocity"])


def own_rmsprop(parameters, gradients, state, lr, *, alpha: float = 0.99, eps: float = 1e-2):
    if not state:
        state["square"] = torch.zeros_like(parameters)
    state["square"].mul_(alpha).addcmul_(gradients, gradients, value=1 - alpha)
    parameters.addcdiv_(-lr * gradients, state["square"].sqrt() + eps)


def own_lion(parameters, gradients, state, lr):
    mean = state.setdefault("mean", torch.zeros_like(parameters))
    direction = (0.9 * mean + 0.1 * gradients).sign()
    parameters.mul_(1 - lr * 0.01).sub_(lr * direction)
    mean.lerp_(gradients, 0.01)


def sign_sgd(parameters, gradients, state, lr, momentum):
    parameters.sub_(lr * gradients.sign())


OPTIMIZERS = {f.__name__: f for f in (heavy_ball, own_rmsprop, own_lion, sign_sgd)}


def counting_adam(parameters, gradients, state, lr):
    if not state:
        state["m"], state["v"] = torch.zeros_like(parameters), torch.zeros_like(parameters)
        state["step"] = 0
    state["step"] += 1
    state["m"].mul_(0.9).add_(gradients, alpha=0.1)
    state["v"].mul_(0.999).addcmul_(gradients, gradients, value=0.001)
    m = state["m"] / (1 - 0.9 ** state["step"])
    v = state["v"] / (1 - 0.999 ** state["step"])
    parameters.sub_(lr * m / (v.sqrt() + 1e-2))


def adam_of_columns(parameters, gradients, state, lr):
    if not state:
        state["m"], state["v"] = torch.zeros_like(parameters), torch.zeros_like(parameters)
        state["p"] = torch.ones(len(parameters), 1, dtype=torch.float64)
        state["q"] = torch.ones(len(parameters), 1)
    state["p"].mul_(0.9)
    state["q"] = state["q"] * 0.999
    state["m"].mul_(0.9).add_(gradients, alpha=0.1)
    state["v"].mul_(0.999).addcmul_(gradients, gradients, value=0.001)
    rate = (lr.double() / (1 - state["p"])).to(lr.dtype)
    root = (state["v"] / (1 - state["q"]).to(lr.dtype)).sqrt()
    parameters.sub_(rate * state["m"] / (root + 1e-2))


def averaged(parameters, gradients, state, lr):
    if not state:
        state["slow"], state["n"] = parameters.clone(), 0.0
    parameters.sub_(lr * gradients)
    state["n"] += 1.0
    state["slow"].add_((parameters - state["slow"]) / state["n"])


def rprop(parameters, gradients, state, lr):
    if not state:
        state["rate"] = torch.full_like(parameters, 1e-3)
        state["last"] = torch.zeros_like(parameters)
    same = gradients * state["last"]
    state["rate"].mul_(torch.where(same > 0, 1.2, torch.where(same < 0, 0.5, 1.0)))
    state["rate"].clamp_(1e-6, 0.01)
    parameters.sub_(state["rate"] * gradients.sign())
    state["last"].copy_(gradients)


def adagrad_from_1(parameters, gradients, state, lr):
    if not state:
        state["sum"] = torch.ones_like(parameters)
    state["sum"].addcmul_(gradients, gradients)
    parameters.sub_(lr * gradients / state["sum"].sqrt())


def warming_up(parameters, gradients, state, lr):
    """Keeps nothing but a number."""
    state["n"] = state.get("n", 0) + 1
    parameters.sub_(lr * gradients * (1 - 0.5 ** state["n"]))


def drifting(parameters, gradients, state, lr):
    """Moves weights whose gradient is 0, those of no connection among them."""
    parameters.sub_(lr * (gradients + 0.1))


MORE_OPTIMIZERS = {
    f.__name__: f
    for f in (counting_adam, adam_of_columns, averaged, rprop, adagrad_from_1, warming_up, drifting)
}
