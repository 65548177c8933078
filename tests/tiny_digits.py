"""A data set of easy images, for tests and for processes that they start."""

import numpy as np

from lecun_ablate.data import Digits, Split
from lecun_ablate.registry import registry


def register_tiny() -> None:
    """Register "tiny": 60 + 20 images, on which training takes seconds at most."""
    registry.register("data", "tiny")(load)


def load() -> Digits:
    return Digits("tiny", _split(60, 1), _split(20, 2), "made up")


def _split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    images = np.random.default_rng(0).uniform(-1, 1, (10, 16, 16))[labels]
    return Split(np.clip(images + rng.normal(0, 0.2, images.shape), -1, 1), labels)
