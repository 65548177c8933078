"""The digits that come with scikit-learn. They need no file and no network."""

from __future__ import annotations

import numpy as np

from lecun_ablate.data.digits import Digits, Split, stratified
from lecun_ablate.registry import register

TEST_IMAGES = 400
SPLIT_SEED = 1998


@register("data", "digits")
def load_digits() -> Digits:
    """1,797 digits by 13 writers, bundled with scikit-learn: 1,397 for training, 400 for testing.

    Alpaydin and Kaynak, "Cascading Classifiers", Kybernetika 34(4), 1998; the test part of "Optical
    Recognition of Handwritten Digits" in the UCI Machine Learning Repository. Each image has 8x8
    values 0..16, which count the black pixels in the 4x4 blocks of a 32x32 bitmap. Here the images
    are enlarged to 16x16 and scaled by x / 8 - 1. The split is stratified and fixed. Both splits
    have the same writers, so the test is easier than USPS's.
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

    The centre of a new pixel is a quarter of an old pixel away from the nearest old centre. Along
    each axis, its value is therefore 3/4 of that pixel plus 1/4 of the next pixel on its side;
    border pixels are repeated. For small integers this is exact in floating point, and so the same
    on every platform.
    """
    for axis in (1, 2):
        images = np.moveaxis(images, axis, 0)
        before = np.concatenate([images[:1], images[:-1]])
        after = np.concatenate([images[1:], images[-1:]])
        pair = np.stack([0.75 * images + 0.25 * before, 0.75 * images + 0.25 * after], axis=1)
        images = np.moveaxis(pair.reshape(-1, *images.shape[1:]), 0, axis)
    return np.ascontiguousarray(images)
