"""The 1989 net as one readable module: the reference that every trainer is tested against.

LeCun, Boser, Denker, Henderson, Howard, Hubbard, Jackel: "Backpropagation Applied to Handwritten
Zip Code Recognition", Neural Computation 1(4), 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.network.epoch import smoothed
from lecun_ablate.network.initial import Start, start

Activation = Callable[[Tensor], Tensor]


def forward(
    images: Tensor,
    parameters: Mapping[str, Tensor],
    activation: Activation,
    output_activation: Activation,
    padding: float,
    kept: Tensor | None = None,
) -> Tensor:
    """Return the outputs, (n, 10), for images (n, 16, 16) and one network's parameters.

    `kept` has the factors of H3's inputs under dropout, (n, 192). The unconnected weights of
    `h2_weight` must be 0.
    """
    p = parameters
    x = images[:, None]  # (n, 1, 16, 16)
    x = F.pad(x, (2, 2, 2, 2), value=padding)  # (n, 1, 20, 20)
    x = F.conv2d(x, p["h1_weight"], stride=2) + p["h1_bias"]  # (n, 12, 8, 8), a bias per unit
    x = activation(x)
    x = F.pad(x, (2, 2, 2, 2), value=padding)  # (n, 12, 12, 12)
    x = F.conv2d(x, p["h2_weight"], stride=2) + p["h2_bias"]  # (n, 12, 4, 4), a bias per unit
    x = activation(x)
    x = x.flatten(1)  # (n, 192)
    if kept is not None:
        x = x * kept
    x = activation(x @ p["h3_weight"] + p["h3_bias"])  # (n, 30)
    return output_activation(x @ p["out_weight"] + p["out_bias"])  # (n, 10)


class Network(nn.Module):
    """One network of a recipe, from the weights that a seed gives it."""

    def __init__(self, recipe: Recipe, seed: int, begin: Start | None = None):
        super().__init__()
        begin = begin or start(recipe, seed)
        dtype = getattr(torch, recipe.dtype)
        self.recipe = recipe
        weights = {name: torch.tensor(v, dtype=dtype) for name, v in begin.parameters.items()}
        self.weights = nn.ParameterDict(weights)
        connected = torch.from_numpy(begin.connectivity)[:, :, None, None]  # (12, 12, 1, 1)
        self.register_buffer("connected", connected)

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the outputs, (n, 10), for images (n, 16, 16) in [-1, 1]; `kept` as `forward`."""
        parameters = dict(self.weights.items())
        parameters["h2_weight"] = parameters["h2_weight"] * self.connected  # no gradient elsewhere
        return forward(
            images,
            parameters,
            self.recipe.component("activation"),
            self.recipe.component("output_activation"),
            self.recipe.padding,
            kept,
        )

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the recipe's loss of each pattern, (n,), for images (n, 16, 16), labels (n,)."""
        outputs = self(images)
        targets = self.recipe.component("target")(labels).to(outputs.dtype)
        loss: Tensor = self.recipe.component("loss")(outputs, targets)
        return loss

    def training_loss(self, images: Tensor, labels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the loss of each pattern, (n,), that training minimises.

        Targets are smoothed. `kept` has the factors of H3's inputs under dropout, (n, 192).
        """
        outputs = self(images, kept)
        targets = smoothed(self.recipe, self.recipe.component("target")(labels)).to(outputs.dtype)
        loss: Tensor = self.recipe.component("loss")(outputs, targets)
        return loss


def predictions(outputs: np.ndarray) -> np.ndarray:
    """Return the digit of the largest output, (n,) uint8; NO_DIGIT where an output is not finite.

    An image for which the network gives NaN counts as missed, whatever argmax would return.
    """
    digits: np.ndarray = outputs.argmax(1).astype(np.uint8)
    digits[~np.isfinite(outputs).all(1)] = NO_DIGIT
    return digits


NO_DIGIT = 255
