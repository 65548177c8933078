"""A data set of 60 + 20 images and an activation. Stored keys hold the digest of this file."""

import numpy as np

from lecun_ablate import register
from lecun_ablate.data import Digits, Split


def split(n: int, first: int) -> Split:
    """Return images that integer arithmetic alone decides, so that they are the same everywhere."""
    image, y, x = np.ogrid[first : first + n, :16, :16]
    labels = np.arange(first, first + n) * 7 % 10
    pixels = (labels[:, None, None] * (3 * y + 5 * x + 1) * 29 + image * 13 * (x % 3)) % 256
    return Split(pixels / 127.5 - 1, labels)


@register("data")
def little():
    """Stripes."""
    return Digits("little", split(60, 0), split(20, 60), "made up")


@register("activation")
def mine(x):
    """x / (1 + x^2)."""
    return x / (1 + x * x)
