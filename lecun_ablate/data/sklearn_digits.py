"""The digits that come with scikit-learn: no file, no network."""

from __future__ import annotations

import numpy as np

from lecun_ablate.data.digits import Digits, Split, stratified
from lecun_ablate.registry import register

TEST_IMAGES = 400
SPLIT_SEED = 1998


@register("data", "digits")
def load_digits() -> Digits:
    """1,797 digits of 13 writers, bundled with scikit-learn: 1,397 for training, 400 for testing.

    Alpaydin and Kaynak, "Cascading Classifiers", Kybernetika 34(4), 1998; the test part of
    "Optical Recognition of Handwritten Digits" in the UCI Machine Learning Repository. Each image
    is a 32x32 bitmap counted in 4x4 blocks: 8x8 integers 0..16. They are enlarged to 16x16 and
    scaled by x / 8 - 1. The split keeps the proportions of the classes and is fixed. The same
    writers stand in both splits, so the test is easier than that of USPS.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = enlarge(bunch.images.astype(np.float64)) / 8 - 1
    everything = Split(images, bunch.target.astype(np.int64))
    test = stratified(everything.labels, TEST_IMAGES, SPLIT_SEED)
    return Digits(
        name="digits",
        train=everything.take(~test),
        test=everything.take(test),
        source="bundled with scikit-learn",
    )


def enlarge(images: np.ndarray) -> np.ndarray:
    """Double the sides of images (n, height, width) by bilinear interpolation.

    A new pixel's centre lies a quarter of an old pixel from the nearest old centre, so along each
    axis it is 3/4 of that pixel and 1/4 of the next one on its side; the border is repeated. On
    small integers this is exact in floating point, hence the same on every platform.
    """
    for axis in (1, 2):
        images = np.moveaxis(images, axis, 0)
        before = np.concatenate([images[:1], images[:-1]])
        after = np.concatenate([images[1:], images[-1:]])
        pair = np.stack([0.75 * images + 0.25 * before, 0.75 * images + 0.25 * after], axis=1)
        images = np.moveaxis(pair.reshape(-1, *images.shape[1:]), 0, axis)
    return np.ascontiguousarray(images)
