"""The diagonal second derivatives that stochastic diagonal Levenberg-Marquardt divides by.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition",
appendix C; LeCun, Bottou, Orr, Mueller 1998, "Efficient BackProp", section 9.

    h_kk = mean over the patterns of the sum, over the connections (i, j) that share weight k, of
           s_i x_j^2

x_j is the input of the connection (1 for a bias, the padding's value for padding) and s_i the
second derivative of the loss by the weighted input of unit i. Terms with f'' are dropped
(Gauss-Newton), so that all are positive, and so are terms off the diagonal:

    outputs  s = f'^2 c         c: the second derivative of the loss by the output
    below    s = f'^2 sum over the connections upwards of w^2 s

For H3 and the outputs this is the exact Gauss-Newton diagonal; for H2 and H1 an approximation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lecun_ablate.network.epoch import smoothed
from lecun_ablate.network.reference import Activation, Network
from lecun_ablate.registry import Component


def slope(activation: Activation, x: Tensor) -> Tensor:
    """Return f'(x), elementwise."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(activation(x).sum(), x)
    return found


def loss_curvature(loss: Component, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the second derivative of the loss by each output, (n, 10) like the outputs."""
    if loss.builtin and loss.name == "mse":
        return torch.full_like(outputs, 2 / outputs.shape[-1])
    if loss.builtin and loss.name == "half_sum_squares":
        return torch.ones_like(outputs)
    if loss.builtin and loss.name == "cross_entropy":
        p = torch.softmax(outputs, -1)
        return targets.sum(-1, keepdim=True) * p * (1 - p)
    with torch.enable_grad():
        y = outputs.detach().requires_grad_()
        (first,) = torch.autograd.grad(loss(y, targets).sum(), y, create_graph=True)
        columns = [torch.zeros_like(y[..., 0])] * y.shape[-1]
        if first.requires_grad:
            for k in range(y.shape[-1]):
                (second,) = torch.autograd.grad(first[..., k].sum(), y, retain_graph=True)
                columns[k] = second[..., k]
    return torch.stack(columns, -1)


@torch.no_grad()
def curvature(
    network: Network, images: Tensor, labels: Tensor, kept: Tensor | None = None
) -> dict[str, Tensor]:
    """Return h for every parameter of a network: a mean over images (n, 16, 16), labels (n,).

    `kept` has the factors of H3's inputs under dropout, (n, 192).
    """
    recipe = network.recipe
    f, f_out = recipe.component("activation"), recipe.component("output_activation")
    w = {name: value.detach() for name, value in network.weights.items()}
    connected = network.get_buffer("connected")
    w["h2_weight"] = w["h2_weight"] * connected
    factors = images.new_ones(len(images), 192) if kept is None else kept
    n = len(images)

    # forward, with the inputs x and weighted sums a of each layer
    x1 = F.pad(images[:, None], (2, 2, 2, 2), value=recipe.padding)  # (n, 1, 20, 20)
    a1 = F.conv2d(x1, w["h1_weight"], stride=2) + w["h1_bias"]  # (n, 12, 8, 8)
    x2 = F.pad(f(a1), (2, 2, 2, 2), value=recipe.padding)  # (n, 12, 12, 12)
    a2 = F.conv2d(x2, w["h2_weight"], stride=2) + w["h2_bias"]  # (n, 12, 4, 4)
    x3 = f(a2).flatten(1) * factors  # (n, 192)
    a3 = x3 @ w["h3_weight"] + w["h3_bias"]  # (n, 30)
    x4 = f(a3)
    a4 = x4 @ w["out_weight"] + w["out_bias"]  # (n, 10)
    targets = smoothed(recipe, recipe.component("target")(labels)).to(a4.dtype)

    # backward, with the second derivatives s by the weighted sums
    s4 = slope(f_out, a4) ** 2 * loss_curvature(recipe.component("loss"), f_out(a4), targets)
    s3 = slope(f, a3) ** 2 * (s4 @ w["out_weight"].T ** 2)
    below = (s3 @ w["h3_weight"].T ** 2) * factors**2
    s2 = slope(f, a2) ** 2 * below.view(-1, 12, 4, 4)
    spread = F.conv_transpose2d(s2, w["h2_weight"] ** 2, stride=2, output_padding=1)
    s1 = slope(f, a1) ** 2 * spread[:, :, 2:10, 2:10]  # without the padding

    windows1 = x1.unfold(2, 5, 2).unfold(3, 5, 2) ** 2  # (n, 1, 8, 8, 5, 5)
    windows2 = x2.unfold(2, 5, 2).unfold(3, 5, 2) ** 2  # (n, 12, 4, 4, 5, 5)
    sums = {
        "h1_weight": torch.einsum("noyx,niyxkl->oikl", s1, windows1),
        "h1_bias": s1.sum(0),
        "h2_weight": torch.einsum("noyx,niyxkl->oikl", s2, windows2) * connected,
        "h2_bias": s2.sum(0),
        "h3_weight": (x3**2).T @ s3,
        "h3_bias": s3.sum(0),
        "out_weight": (x4**2).T @ s4,
        "out_bias": s4.sum(0),
    }
    return {name: value / n for name, value in sums.items()}
