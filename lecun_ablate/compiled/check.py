"""The check of a compiled activation against the PyTorch function itself, before it is used.

Bounds, in units of the dtype's machine epsilon, on the distance from what PyTorch computes at the
same x, in float64 or in the dtype itself:

    value   BOUND max(|f(x)|, min(|x|, 1))
    slope   BOUND max(|f'(x)|, 1) max(|x|, 1)

plus twice as much as PyTorch's own results differ among the NEAR floating-point numbers on either
side of x and of the grid's next few numbers: where digits cancel, they differ widely. Next to a
seam, where a branch changes, the results on both sides count, since an operation that rounds
differently may move the seam by a few of those numbers. What is infinite or NaN must be so in
PyTorch, too. The slope at NaN is not compared: a network that has met NaN has diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter

from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.trace import SHAPE, Function, quiet

BOUND = 16
NEAR = 4  # floating-point numbers
WINDOW = 4  # numbers of the grid
NAMES = ("value", "slope")
BISECTIONS = 80

Compiled = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # x -> values, slopes


def check(
    function: Function,
    compiled: Compiled,
    graph: GraphModule,
    constants: Iterable[float],
    dtype: str,
) -> None:
    """Compare a compiled activation with PyTorch's over a grid in `dtype`.

    `graph` and `constants` are what it was compiled from: they tell where its seams are. Raises
    Refused, with the numbers, at the first x where the two are too far apart.
    """
    x, seams = grid(graph, constants, dtype)
    zero = by_autograd(function, np.zeros(1, dtype))
    for name, at_zero in zip(NAMES, zero, strict=True):
        if not np.isfinite(at_zero[0]):
            raise Refused(f"its {name} at 0 is {at_zero[0]}")
    found = compiled(x)
    with np.errstate(all="ignore"):
        exact = by_autograd(function, x.astype("float64"))
        own = by_autograd(function, x)
        around = [by_autograd(function, points) for points in _steps(x, NEAR)]
        for k, name in enumerate(NAMES):
            noise = _noise(own[k], [there[k] for there in around], seams)
            good = _close(name, found[k], exact[k], own[k], noise, x)
            for there in around:
                good |= seams & _alike(found[k], there[k])
            if name == "slope":
                good |= np.isnan(x)
            if not good.all():
                bad = np.flatnonzero(~good)
                at = bad[np.argmin(np.nan_to_num(np.abs(x[bad]), nan=np.inf))]
                raise Refused(
                    f"the check fails in {dtype}: at x = {x[at]!s}, its {name} is "
                    f"{found[k][at]!s} compiled and {own[k][at]!s} in PyTorch"
                )


def _close(
    name: str,
    found: np.ndarray,
    exact: np.ndarray,
    own: np.ndarray,
    noise: np.ndarray,
    x: np.ndarray,
) -> np.ndarray:
    """Tell where `found` is near enough to what PyTorch gives, (n,) bool."""
    far = np.abs(x.astype("float64"))
    if name == "value":
        size = np.maximum(np.abs(exact), np.minimum(far, 1))
    else:
        size = np.maximum(np.abs(exact), 1) * np.maximum(far, 1)
    allowed = BOUND * np.finfo(x.dtype).eps * size + 2 * noise
    result = np.zeros(len(x), bool)
    for right in (exact, own):
        finite = np.isfinite(found) & np.isfinite(right) & np.isfinite(allowed)
        result |= finite & (np.abs(found.astype("float64") - right) <= allowed)
    result |= _alike(found, own) | _alike(found, exact.astype(x.dtype))
    return result


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    alike: np.ndarray = (a == b) | (np.isnan(a) & np.isnan(b))
    return alike


def _noise(own: np.ndarray, around: list[np.ndarray], seams: np.ndarray) -> np.ndarray:
    """Return how much PyTorch's results differ among numbers that are hardly different, (n,)."""
    differences = np.abs(np.array(around, "float64") - own)
    each = np.nan_to_num(differences, nan=0, posinf=0, neginf=0).max(0)
    spread: np.ndarray = each.copy()
    calm = np.where(seams, 0, each)  # a jump at a seam says nothing of what lies beside it
    for shift in range(1, WINDOW + 1):
        spread[shift:] = np.maximum(spread[shift:], calm[:-shift])
        spread[:-shift] = np.maximum(spread[:-shift], calm[shift:])
    return spread


def by_autograd(function: Function, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f(x) and f'(x), (n,), as the torch trainer gets them."""
    inputs = torch.from_numpy(x).clone().requires_grad_()
    with quiet():
        try:
            values = function(inputs.clone())
            slopes = (
                torch.autograd.grad(values.sum(), inputs, allow_unused=True)[0]
                if values.requires_grad
                else None
            )
        except Exception as error:
            raise Refused(f"it fails: {type(error).__name__}: {error}") from None
    if values.shape != x.shape or values.dtype != inputs.dtype:
        raise Refused(f"it returns {values.dtype} of shape {tuple(values.shape)} for {x.shape}")
    if slopes is None:
        slopes = torch.zeros_like(inputs)
    return values.detach().numpy(), slopes.numpy()


def grid(
    graph: GraphModule, constants: Iterable[float], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return where to compare, in order and NaN last, and which of it lies next to a seam."""
    info = np.finfo(dtype)
    positive = np.concatenate(
        [
            np.linspace(0, 12, 2401),
            np.geomspace(1e-8, 1e-2, 200),
            np.geomspace(12, 400, 200),
            np.geomspace(400, float(info.max) / 4, 60),
            [float(info.max), np.inf, float(info.tiny), float(info.tiny) / 3],
            [float(info.smallest_subnormal), float(info.smallest_subnormal) * 1000],
            [abs(c) for c in constants],
        ]
    )
    with np.errstate(all="ignore"):
        positive = positive.astype(dtype)
    plain = np.unique(np.concatenate([positive, -positive]))
    seams = _seams(graph, plain[np.isfinite(plain)])
    x = np.unique(np.concatenate([plain, seams, *_steps(seams, NEAR)]))
    near = np.isin(x, np.concatenate([seams, *_steps(seams, NEAR)]))
    ends = np.array([-0.0, np.nan], dtype)
    return np.concatenate([x, ends]), np.concatenate([near, [0 in seams, False]])


def _steps(x: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the floating-point numbers up to `most` steps above and below each x."""
    found = []
    for end in (np.inf, -np.inf):
        points = x
        for _ in range(most):
            points = np.nextafter(points, x.dtype.type(end))
            found.append(points)
    return found


class _Branches(Interpreter):
    """Runs a graph and keeps the boolean tensors in it: which branch each element takes."""

    def __init__(self, graph: GraphModule):
        super().__init__(graph)
        self.found: list[Tensor] = []

    def run_node(self, n: torch.fx.Node) -> object:
        """Run one operation."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dtype == torch.bool and result.numel() > 1:
            self.found.append(result)
        return result


def _branches(graph: GraphModule, x: np.ndarray) -> np.ndarray:
    """Return the branches, (conditions, n) bool, that each x takes in a graph."""
    size = SHAPE[0] * SHAPE[1]
    padded = np.resize(x, (-(-len(x) // size), *SHAPE))  # a graph knows the shape of its argument
    run = _Branches(graph)
    with torch.no_grad(), quiet():
        run.run(torch.from_numpy(padded))
    rows = [b.expand(padded.shape).reshape(-1).numpy()[: len(x)] for b in run.found]
    return np.array(rows) if rows else np.zeros((0, len(x)), bool)


def _seams(graph: GraphModule, x: np.ndarray) -> np.ndarray:
    """Return the numbers on both sides of every seam that lies between neighbours of a sorted x."""
    x = np.unique(x)
    branches = _branches(graph, x)
    changes = [np.flatnonzero(row[1:] != row[:-1]) for row in branches]
    which = np.repeat(np.arange(len(branches)), [len(c) for c in changes])
    if not len(which):
        return np.zeros(0, x.dtype)
    low, high = x[np.concatenate(changes)], x[np.concatenate(changes) + 1]
    before = branches[which, np.concatenate(changes)]
    for _ in range(BISECTIONS):
        middle = low / 2 + high / 2
        same = _branches(graph, middle)[which, np.arange(len(which))] == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.unique(np.concatenate([low, high]))
