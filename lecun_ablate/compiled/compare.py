"""The comparison of a compiled loss or optimizer with the PyTorch function, before it is used.

The two are compared at many arguments: ordinary ones, zeros, ties, subnormal and large numbers,
infinities and NaN, in both dtypes. Bound on a difference: BOUND machine epsilons of the result's
size, plus twice as much as PyTorch's own results differ where the arguments move by up to NEAR
floating-point numbers. Where digits cancel, or a branch changes, they differ widely, and compiled
code may lie anywhere between them. What is infinite or NaN must be so in PyTorch, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lecun_ablate.compiled.library import CompiledLoss, CompiledOptimizer
from lecun_ablate.compiled.optimizer import Slot
from lecun_ablate.compiled.program import DTYPES
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.trace import first_line, quiet
from lecun_ablate.registry import Component

BOUND = 16
NEAR = 4  # floating-point numbers
NEIGHBOURS = 6  # sets of moved arguments
PATTERNS = 400
WEIGHTS = 3000
RATES = (0.01, 0.3, 1e-4, 0.01, 0.05)  # of the steps of an optimizer


def _distance(
    found: np.ndarray, own: np.ndarray, around: Sequence[np.ndarray], size: np.ndarray
) -> np.ndarray:
    """Return by how much each result is farther from PyTorch's than allowed; NaN where it is not.

    found, own, size and each of `around` have one shape.
    """
    eps = np.finfo(own.dtype).eps
    wide = [each.astype("float64") for each in (own, *around)]
    with np.errstate(all="ignore"):
        moves = np.abs(np.array(wide[1:]) - wide[0])
        noise = np.nan_to_num(moves, nan=0, posinf=0, neginf=0).max(0)
        distance = np.abs(found.astype("float64") - wide[0])
        near = np.isfinite(distance) & (distance <= BOUND * eps * size + 2 * noise)
    for each in (own, *around):
        near |= (found == each) | (np.isnan(found) & np.isnan(each))
    return np.where(near, np.nan, np.nan_to_num(distance, nan=np.inf))


def _moved(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return numbers at most NEAR floating-point numbers from finite ones."""
    steps = generator.integers(-NEAR, NEAR + 1, x.shape)
    with np.errstate(all="ignore"):
        moved = x + steps * np.spacing(np.abs(x))
    return np.where(np.isfinite(x), moved, x).astype(x.dtype)


# ---- losses -------------------------------------------------------------------------------------


def check_loss(function: Component, compiled: CompiledLoss, dtype: str) -> None:
    """Compare a compiled loss with PyTorch's in `dtype`. Raises Refused, with the numbers."""
    generator = np.random.default_rng(0)
    outputs, targets = patterns(dtype)
    found = compiled(outputs, targets)
    own = loss_by_autograd(function, outputs, targets)
    around = [
        loss_by_autograd(function, _moved(outputs, generator), _moved(targets, generator))
        for _ in range(NEIGHBOURS)
    ]
    with np.errstate(all="ignore"):
        far = np.minimum(np.maximum(np.abs(outputs), np.abs(targets)).max(1), 1)
        largest = np.where(np.isfinite(own[1]), np.abs(own[1]), 0).max(1, keepdims=True)
        sizes = (np.abs(own[0]) + far, largest + np.full((1, 10), 0.1))
    for k, name in enumerate(("value", "derivative")):
        distance = _distance(found[k], own[k], [there[k] for there in around], sizes[k])
        if k:  # a network whose outputs are not finite has diverged
            distance[~np.isfinite(outputs).all(1)] = np.nan
        if not np.isnan(distance).all():
            at = np.unravel_index(np.nanargmax(distance), distance.shape)
            where = f"by output {at[1]} " if k else ""
            raise Refused(
                f"the check fails in {dtype}: its {name} {where}is {found[k][at]!s} compiled and "
                f"{own[k][at]!s} in PyTorch, at outputs {_shown(outputs[at[0]])} and targets "
                f"{_shown(targets[at[0]])}"
            )


def _shown(x: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in x) + "]"


def loss_by_autograd(
    function: Component, outputs: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses, (n,), and their derivatives, (n, 10), as the torch trainer gets them."""
    y, t = torch.tensor(outputs, requires_grad=True), torch.tensor(targets)
    with quiet():
        try:
            losses = function(y, t)
            slopes = torch.autograd.grad(losses.sum(), y)[0]
        except Exception as error:
            raise Refused(f"it fails: {first_line(error)}") from None
    return losses.detach().numpy(), slopes.numpy()


def patterns(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs and targets, (n, 10) each, at which losses are compared."""
    generator = np.random.default_rng(1)
    n = PATTERNS
    scale = generator.choice([0.01, 0.3, 1, 1, 3, 10, 40], (n, 1))
    outputs = generator.normal(0, scale, (n, 10))
    ends = generator.choice(np.array([[0, 1], [-1, 1], [-0.9, 0.9], [0.01, 0.91]]), n)
    label = generator.integers(0, 10, n)
    targets = np.where(np.arange(10) == label[:, None], ends[:, 1:], ends[:, :1])
    outputs[:20] = np.tanh(outputs[:20])
    outputs[20:40] = np.round(outputs[20:40])  # ties
    outputs[40:50] = 0
    outputs[50:60] = targets[50:60]
    outputs[60:70] = np.clip(outputs[60:70], 0, 1)
    targets[70:110] = generator.dirichlet(np.ones(10), 40)
    tiny = float(np.finfo(dtype).tiny)
    special = [np.inf, -np.inf, np.nan, 1e6, -1e6, tiny, -tiny / 3]
    for i, number in enumerate(special):
        outputs[110 + i, generator.integers(0, 10)] = number
    outputs[120:124] = np.array([1e4, -1e4, tiny, np.nan])[:, None]
    return outputs.astype(dtype), targets.astype(dtype)


# ---- optimizers ---------------------------------------------------------------------------------


def check_optimizer(
    function: Component, momentum: float, compiled: CompiledOptimizer, dtype: str
) -> None:
    """Compare the steps of a compiled optimizer with PyTorch's. Raises Refused, with the numbers.

    Each step begins where PyTorch's last one ended.
    """
    generator = np.random.default_rng(2)
    kind = DTYPES[dtype]
    slots = compiled.slots[dtype]
    weights = torch.from_numpy(numbers(generator, 1.0, dtype))[None]
    state: dict[str, Any] = {}
    for step, rate in enumerate(RATES):
        gradients = torch.from_numpy(numbers(generator, 0.1, dtype))[None]
        found = _compiled_step(compiled, slots, step == 0, weights, gradients, state, rate)
        lr = torch.tensor([[rate]], dtype=torch.float64).to(kind)
        around = []
        for _ in range(NEIGHBOURS):
            moved = [_moved_tensor(x, generator) for x in (weights, gradients)]
            near = {
                name: _moved_tensor(x, generator) if isinstance(x, Tensor) else x
                for name, x in copy.deepcopy(state).items()
            }
            around.append(_torch_step(function, momentum, slots, moved, near, lr))
        own = _torch_step(function, momentum, slots, [weights, gradients], state, lr)
        names = ["weight", *(f"state {slot.name!r}" for slot in slots)]
        for k, name in enumerate(names):
            with np.errstate(all="ignore"):
                size = np.abs(own[k].astype("float64")) + (np.abs(rate) if k == 0 else 0)
            distance = _distance(found[k], own[k], [there[k] for there in around], size)
            if not np.isnan(distance).all():
                at = int(np.nanargmax(distance))
                raise Refused(
                    f"the check fails in {dtype}: after step {step + 1}, a {name} is "
                    f"{found[k][at]!s} compiled and {own[k][at]!s} in PyTorch"
                )


def _moved_tensor(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Return a column as it is, and weights moved."""
    return x.clone() if x.shape[1] == 1 else torch.from_numpy(_moved(x.numpy(), generator))


def numbers(generator: np.random.Generator, scale: float, dtype: str) -> np.ndarray:
    """Return weights or gradients, (WEIGHTS,), at which optimizers are compared."""
    tiny = float(np.finfo(dtype).tiny)
    x = generator.normal(0, scale, WEIGHTS) * 10 ** generator.uniform(-6, 1, WEIGHTS)
    special = [0, -0.0, np.inf, -np.inf, np.nan, tiny, tiny / 3, 1e6, -1e6]
    x[generator.choice(WEIGHTS, 40 * len(special), replace=False)] = special * 40
    return x.astype(dtype)


def _compiled_step(
    compiled: CompiledOptimizer,
    slots: Sequence[Slot],
    first: bool,
    weights: Tensor,
    gradients: Tensor,
    state: dict[str, Any],
    rate: float,
) -> list[np.ndarray]:
    n = weights.shape[1]
    own = [
        np.zeros(n, str(weights.numpy().dtype)) if first else state[slot.name][0].numpy()
        for slot in slots
        if slot.kind == "weights"
    ]
    kept = [
        0.0 if first else float(torch.as_tensor(state[slot.name]).reshape(-1)[0])
        for slot in slots
        if slot.kind != "weights"
    ]
    found, states, after = compiled.step(
        first, weights[0].numpy(), gradients[0].numpy(), own, np.array(kept), rate
    )
    wide, one = iter(states), iter(after)
    return [
        found,
        *(next(wide) if slot.kind == "weights" else np.array([next(one)]) for slot in slots),
    ]


def _torch_step(
    function: Component,
    momentum: float,
    slots: Sequence[Slot],
    at: Sequence[Tensor],
    state: dict[str, Any],
    lr: Tensor,
) -> list[np.ndarray]:
    """Take a step in place; return copies of the weights, (n,), and of what is in each slot."""
    weights, gradients = at
    with quiet(), torch.no_grad():
        try:
            function(weights, gradients.clone(), state, lr.clone(), momentum, None)
        except Exception as error:
            raise Refused(f"it fails: {first_line(error)}") from None
    return list(_kept(weights, state, slots))


def _kept(weights: Tensor, state: dict[str, Any], slots: Sequence[Slot]) -> Iterator[np.ndarray]:
    yield weights[0].numpy().copy()
    for slot in slots:
        value = torch.as_tensor(state[slot.name])
        if slot.kind == "weights":
            yield value[0].numpy().copy()
        else:
            yield value.reshape(-1)[:1].double().numpy().copy()
