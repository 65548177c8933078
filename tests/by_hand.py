"""Training by autograd on the reference network, as the second implementation of tests."""

import numpy as np
import torch

from lecun_ablate.data.digits import Split
from lecun_ablate.network.reference import Network


def split(n: int, dtype: str = "float64") -> Split:
    """Return random images with random labels."""
    generator = np.random.default_rng(5)
    return Split(generator.uniform(-1, 1, (n, 16, 16)).astype(dtype), generator.integers(0, 10, n))


def descend(network: Network) -> None:
    """Take a step of plain gradient descent."""
    for weight in network.weights.values():
        weight.sub_(network.recipe.lr * weight.grad)


def by_hand(recipe, seed, fit, step=descend):
    """Return the parameters and the loss after an epoch, in which `step` changes the weights."""
    network = Network(recipe, seed)
    images, labels = torch.from_numpy(fit.images), torch.from_numpy(fit.labels)
    for i in range(len(fit)):
        network.zero_grad()
        network.training_loss(images[i : i + 1], labels[i : i + 1]).sum().backward()
        with torch.no_grad():
            step(network)
    with torch.no_grad():
        loss = network.loss(images, labels).mean().item()
    return {name: w.detach().numpy() for name, w in network.weights.items()}, loss
