"""The 1989 net of many replicas at once, in operations that keep them apart bit for bit.

Every tensor has the replicas first. A replica's numbers must not depend on its neighbours:
- element-by-element operations treat the last few elements of a tensor with scalar code that may
  round differently, so every replica's share of a tensor is a multiple of LANES elements;
- a product with 30 or 10 columns picks its kernel by the number of replicas, so the dense layers
  are padded to LANES columns.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.network.curvature import loss_curvature, slope
from lecun_ablate.network.initial import SHAPES
from lecun_ablate.registry import Component

LANES = 32  # twice the widest vector register, in float32
LOSS_ROWS = 16  # replicas are padded to a multiple of this for the loss: 16 x 10 outputs = 5 LANES


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a replica's row of a flat (replicas, width) tensor.

    H1's planes come last, in its biases and in the weights that see it: then a row of a window of
    H1 lies together in memory. Between parameters there may be unused elements, always 0.
    """

    slices: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    width: int

    @classmethod
    def make(cls) -> Layout:
        """Place all parameters, each on a multiple of LANES elements."""
        shapes = {
            "h1_weight": (12, 25),
            "h1_bias": (64, 12),  # [unit, plane]
            "h2_weight": (12, 25, 12),  # [plane, tap, plane of H1]
            "h2_bias": (12, 16),
            "h3_weight": (192, LANES),
            "h3_bias": (LANES,),
            "out_weight": (30, LANES),
            "out_bias": (LANES,),
        }
        slices, offset = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            slices[name] = slice(offset, offset + size)
            offset += -(-size // LANES) * LANES
        return cls(slices, shapes, offset)

    def pack(self, named: Mapping[str, np.ndarray], row: np.ndarray) -> None:
        """Write a replica's parameters into its row of the flat array."""
        for name, value in named.items():
            self._own(name, row)[...] = value

    def unpack(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Read a replica's parameters from its row of the flat array."""
        return {name: self._own(name, row).copy(order="C") for name in SHAPES}

    def _own(self, name: str, row: np.ndarray) -> np.ndarray:
        """Return a parameter's place in a row as a view of its shape in SHAPES."""
        view = row[self.slices[name]].reshape(self.shapes[name])
        if name in ("h1_bias", "h2_weight"):
            view = np.moveaxis(view, -1, -2)  # planes first
        if self.shapes[name][-1] == LANES:
            view = view[..., : SHAPES[name][-1]]
        return view.reshape(SHAPES[name])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the parameters, each (replicas, *shape), in the memory of the flat tensor."""
        return {
            name: flat[:, where].unflatten(1, self.shapes[name])
            for name, where in self.slices.items()
        }


LAYOUT = Layout.make()


def image_windows(images: Tensor, padding: float) -> Tensor:
    """Return what each unit of a plane of H1 sees, (n, 64, 25), of images (n, 16, 16)."""
    padded = F.pad(images, (2, 2, 2, 2), value=padding)  # (n, 20, 20)
    return padded.unfold(1, 5, 2).unfold(2, 5, 2).reshape(-1, 64, 25)


class Workspace:
    """Memory that every pass uses again: to ask the system for it anew would cost more than to use.

    A tensor is filled when it is made, and only then.
    """

    def __init__(self, like: Tensor):
        self._like = like
        self._made: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, *shape: int, fill: float = 0) -> Tensor:
        """Return the tensor of a name and shape."""
        key = (name, shape)
        if key not in self._made:
            self._made[key] = self._like.new_full(shape, fill)
        return self._made[key]


class _H2Sums(torch.autograd.Function):
    """H2's sums over H1, without biases: (r, p, 64, 12), weights (r, 12, 300) -> (r, 12, p 16).

    Written out since F.unfold starts a kernel per element of a batch on a GPU, and the derivative
    of Tensor.unfold takes seven times as long on a CPU as these sums of slices.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weights: Tensor, padding: float, space: Workspace) -> Tensor:
        ctx.weights, ctx.space, ctx.shape = weights, space, h.shape
        n = h.shape[0] * h.shape[1]
        padded = space("padded", n, 12, 12, 12, fill=padding)
        padded[:, 2:10, 2:10] = h.view(n, 8, 8, 12)
        seen = padded.unfold(1, 5, 2).unfold(2, 5, 2)  # (n, 4, 4, plane, row, column)
        windows = space("windows", n, 4, 4, 5, 5, 12).copy_(seen.permute(0, 1, 2, 4, 5, 3))
        return torch.bmm(weights, windows.view(len(h), -1, 300).transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, deltas: Tensor) -> tuple[Tensor, None, None, None]:
        return _spread(deltas, ctx.weights, ctx.shape, ctx.space), None, None, None


def _spread(deltas: Tensor, weights: Tensor, shape: torch.Size, space: Workspace) -> Tensor:
    """Return for each unit of H1, `shape` (r, p, 64, 12), the sum of weights times H2's deltas.

    deltas: (r, 12, p 16); weights: (r, 12, 300).
    """
    r, n = len(deltas), shape[0] * shape[1]
    if deltas.is_cuda and n == r:
        return _gather(deltas, weights, space).view(shape)
    windows = space("window deltas", r, deltas.shape[2], 300)
    torch.bmm(deltas.transpose(1, 2), weights, out=windows)
    windows = windows.view(n, 4, 4, 5, 60)  # (n, 4, 4, row of the window, column and plane)
    columns = space("columns", n, 4, 5, 144).zero_()
    for x in range(4):
        columns[..., 24 * x : 24 * x + 60].add_(windows[:, :, x])
    rows = space("rows", n, 12, 144).zero_()
    for y in range(5):
        rows[:, y : y + 7 : 2].add_(columns[:, :, y])  # += would also copy it to itself
    inside = rows.view(n, 12, 12, 12)[:, 2:10, 2:10]
    return inside.reshape(shape)


def _gather(deltas: Tensor, weights: Tensor, space: Workspace) -> Tensor:
    """Return what `_spread` does, for one pattern, (r, 64, 12), in two operations instead of 13.

    On a GPU their number counts. Every unit gathers what up to nine windows have for it.
    """
    r = len(deltas)
    terms = space("terms", r, TERMS, 12)  # the last stays 0
    torch.bmm(deltas.transpose(1, 2), weights, out=terms[:, :-1].view(r, 16, 300))
    return terms.index_select(1, _seen_by(deltas.device)).view(r, 64, 9, 12).sum(2)


TERMS = 16 * 25 + 1  # one for each window of H1 and tap, and a 0


@functools.cache
def _seen_by(device: torch.device) -> Tensor:
    """Return the nine terms, (64 9,), that each unit of a plane of H1 is made of.

    Where fewer windows see a unit, the others are the 0.
    """
    places = torch.full((8, 8, 3, 3), TERMS - 1)
    for y, x, row, column in itertools.product(range(4), range(4), range(5), range(5)):
        i, j = 2 * y + row - 2, 2 * x + column - 2  # the image of H1 has a frame of 2
        if 0 <= i < 8 and 0 <= j < 8:
            places[i, j, row // 2, column // 2] = (4 * y + x) * 25 + 5 * row + column
    return places.flatten().to(device)


class Net:
    """Replicas of a recipe's net, their parameters in the rows of a flat tensor."""

    def __init__(self, flat: Tensor, connected: Tensor, recipe: Recipe, space: Workspace):
        self.parameters = LAYOUT.views(flat)
        self.connected = connected  # (r, 12, 1, 12), [H2 plane, ., H1 plane]: 0 or 1
        self.space = space
        self.activation = _apart(recipe.component("activation"))
        self.output_activation = _apart(recipe.component("output_activation"))
        self.loss = recipe.component("loss")
        self.padding = recipe.padding
        # No optimizer that is built in moves a weight from 0 whose gradients are 0. To mask them
        # nonetheless takes a GPU 3 % of a step.
        self.masked = not (flat.is_cuda and recipe.component("optimizer").builtin)
        # The sums of lanes without a unit: at 0, a user's function may have no derivative.
        self.empty = {units: flat.new_full((LANES,), 0.5) for units in (30, 10)}
        for units, lanes in self.empty.items():
            lanes[:units] = 0

    def forward(
        self, windows: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the outputs, (r, p, 10), and each layer's inputs and sums.

        windows: (r or 1, p, 64, 25), see image_windows; kept: the factors of H3's inputs under
        dropout, (r, p, 192). The graph for autograd begins at the sums of H1.
        """
        w, act = self.parameters, self.activation
        r, p = len(self.connected), windows.shape[1]
        x = windows.flatten(1, 2).expand(r, -1, -1)  # (r, p 64, 25)
        with torch.no_grad():
            h1 = torch.bmm(x, w["h1_weight"].transpose(1, 2)).view(r, p, 64, 12)
            h1 = h1 + w["h1_bias"][:, None]
            h2_weight = w["h2_weight"]
            if self.masked:
                h2_weight = self.space("h2_weight", r, 12, 25, 12)
                torch.mul(w["h2_weight"], self.connected, out=h2_weight)
        h1.requires_grad_(torch.is_grad_enabled())
        sums: Callable[..., Tensor] = _H2Sums.apply  # PyTorch gives it no type
        h2 = sums(act(h1), h2_weight.flatten(2), self.padding, self.space)
        h2 = h2.view(r, 12, p, 16).transpose(1, 2) + w["h2_bias"][:, None]  # (r, p, 12, 16)
        to_h3 = act(h2).reshape(r, p, 192)
        if kept is not None:
            to_h3 = to_h3 * kept
        h3 = torch.bmm(to_h3, w["h3_weight"]) + (w["h3_bias"] + self.empty[30])[:, None]
        to_out = act(h3)[..., :30]  # (r, p, 30)
        out = torch.bmm(to_out, w["out_weight"]) + (w["out_bias"] + self.empty[10])[:, None]
        windows = self.space("windows", r * p, 4, 4, 5, 5, 12).view(r, -1, 300)
        return self.output_activation(out)[..., :10], [x, windows, to_h3, to_out], [h1, h2, h3, out]

    def gradients(
        self,
        windows: Tensor,
        targets: Tensor,
        into: dict[str, Tensor],
        kept: Tensor | None = None,
    ) -> None:
        """Write the derivatives of the sum of each replica's losses by its parameters.

        windows: (r or 1, p, 64, 25); targets: (r, p, 10); into: as LAYOUT.views; kept: as in
        `forward`. Autograd finds each layer's deltas, the derivatives by its sums; the weights' are
        products with the inputs.
        """
        outputs, inputs, sums = self.forward(windows, kept)
        outputs, targets = outputs.flatten(0, 1), targets.flatten(0, 1)
        counted = self._counted(len(targets))
        if spare := len(counted) - len(targets):
            outputs, targets = (F.pad(t, (0, 0, 0, spare)) for t in (outputs, targets))
        losses = self.loss(outputs, targets)
        deltas = torch.autograd.grad(losses, sums, counted)
        with torch.no_grad():
            self._products(inputs, deltas, into)

    def _counted(self, n: int) -> Tensor:
        """Return which of the losses, padded to a multiple of LOSS_ROWS, are those of patterns."""
        counted = self.space(f"counted {n}", n + -n % LOSS_ROWS)
        counted[:n] = 1
        return counted

    def _products(
        self, inputs: Sequence[Tensor], deltas: Sequence[Tensor], into: dict[str, Tensor]
    ) -> None:
        """Write what the parameters get of each layer's inputs and deltas, as in `forward`."""
        x, h2_in, h3_in, out_in = inputs
        d1, d2, d3, d4 = deltas  # (r, p, 64, 12), (r, p, 12, 16), (r, p, LANES), (r, p, LANES)
        r, p = d1.shape[:2]
        h1 = d1.flatten(1, 2).transpose(1, 2)
        if d1.is_cuda:
            torch.bmm(h1, x, out=into["h1_weight"])
        else:
            into["h1_weight"].copy_(torch.bmm(h1, x))
        planes = d2.transpose(1, 2).flatten(2)  # (r, 12, p 16)
        h2 = torch.bmm(planes, h2_in, out=self.space("h2 gradient", r, 12, 300))
        torch.mul(h2.view(r, 12, 25, 12), self.connected, out=into["h2_weight"])
        for name, layer, delta in (("h3", h3_in, d3), ("out", out_in, d4)):
            if p == 1:
                torch.mul(layer.transpose(1, 2), delta, out=into[f"{name}_weight"])
            else:
                into[f"{name}_weight"].copy_(torch.bmm(layer.transpose(1, 2), delta))
        for name, delta in (("h1", d1), ("h2", d2), ("h3", d3), ("out", d4)):
            into[f"{name}_bias"].copy_(delta[:, 0] if p == 1 else delta.sum(1))

    @torch.no_grad()
    def curvature(
        self,
        windows: Tensor,
        targets: Tensor,
        into: dict[str, Tensor],
        kept: Tensor | None = None,
    ) -> None:
        """Write the sum over the patterns of each parameter's h; see network/curvature.py.

        The arguments are as in `gradients`.
        """
        outputs, (x, h2_in, h3_in, out_in), (h1, h2, h3, out) = self.forward(windows, kept)
        w, act = self.parameters, self.activation
        r, p = len(targets), targets.shape[1]
        c = loss_curvature(self.loss, outputs, targets)
        s4 = slope(self.output_activation, out) ** 2 * F.pad(c, (0, LANES - 10))
        up = torch.bmm(s4, w["out_weight"].transpose(1, 2) ** 2)  # (r, p, 30)
        s3 = slope(act, h3) ** 2 * F.pad(up, (0, LANES - 30))
        up = torch.bmm(s3, w["h3_weight"].transpose(1, 2) ** 2)  # (r, p, 192)
        if kept is not None:
            up = up * kept**2
        s2 = slope(act, h2) ** 2 * up.view(r, p, 12, 16)
        squares = (w["h2_weight"] * self.connected).flatten(2) ** 2
        planes = s2.transpose(1, 2).flatten(2)  # (r, 12, p 16)
        s1 = slope(act, h1) ** 2 * _spread(planes, squares, h1.shape, self.space)
        inputs = [layer**2 for layer in (x, h2_in, h3_in, out_in)]
        self._products(inputs, [s1, s2, s3, s4], into)


def _apart(function: Component) -> Callable[[Tensor], Tensor]:
    """Return a function that leaves its argument as it is: a user's may work in place."""
    return function if function.builtin else lambda x: function(x.clone())
