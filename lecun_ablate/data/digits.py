"""The types that every data set has in common."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lecun_ablate.errors import ConfigError

# The default share of the hold-out: 1,000 of USPS's 7,291 training images.
HOLDOUT_PART = 1000 / 7291
HOLDOUT_SEED = 1989
RESAMPLED = 6  # combined with a run's seed, so that nothing else uses the same random numbers


@dataclass(frozen=True)
class Split:
    """Images (n, 16, 16) float64 in [-1, 1] with labels (n,) int64 in 0..9."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> list[int]:
        """The number of images of each of the ten digits."""
        return [int(n) for n in np.bincount(self.labels, minlength=10)]

    @property
    def guessing(self) -> float:
        """The error at and above which a network has not clearly learnt anything.

        Always answering the most frequent digit gives a certain error. The threshold is 3 standard
        deviations below it, since a network that has learnt nothing may vary its answers.
        """
        error = 1 - max(self.class_counts) / len(self)
        return error - 3 * math.sqrt(error * (1 - error) / len(self))

    def take(self, rows: np.ndarray) -> Split:
        """Return a split of the given rows, or of the rows where a mask is true."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Digits:
    """A data set with its official split."""

    name: str
    train: Split
    test: Split
    source: str  # where it came from, for messages
    notice: str | None = None  # what the user must know, such as that this is a fallback

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over the pixels and labels of both splits."""
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            sha.update(np.int64(len(split)).tobytes())
            sha.update(np.ascontiguousarray(split.images, dtype="<f8").data)
            sha.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
        return sha.hexdigest()[:16]

    def resampled(self, seed: int) -> Digits:
        """Return the data set with another split: all images pooled, the test images drawn by seed.

        Both parts have the sizes of the official ones and, within one image, the class proportions
        of all images. They keep the order of the images, the official training images first.
        """
        pool = Split(
            np.concatenate([self.train.images, self.test.images]),
            np.concatenate([self.train.labels, self.test.labels]),
        )
        drawn = stratified(pool.labels, len(self.test), [seed, RESAMPLED])
        return replace(self, train=pool.take(~drawn), test=pool.take(drawn))

    def holdout(self, n: int | None = None, seed: int = HOLDOUT_SEED) -> tuple[Split, Split]:
        """Split the training split into (fit, validation), for example to choose a learning rate.

        The validation split has `n` images; by default 1,000 of USPS's 7,291, and the same share of
        any other data set. It is stratified: class proportions are preserved to within one image.
        Both parts keep the order of the images. The result depends on the labels, `n` and `seed`
        only. Raises ConfigError if `n` leaves either part empty.
        """
        size = len(self.train)
        n = round(size * HOLDOUT_PART) if n is None else n
        if not 0 < n < size:
            raise ConfigError(
                f"a hold-out of {n} images cannot be taken from the {size} training images of "
                f"{self.name}: valid: 1 to {size - 1}"
            )
        held = stratified(self.train.labels, n, seed)
        return self.train.take(~held), self.train.take(held)


def stratified(labels: np.ndarray, n: int, seed: int | Sequence[int]) -> np.ndarray:
    """Draw a stratified sample of `n` rows; return it as a boolean mask over `labels`.

    Each class contributes its share of n, rounded down. The classes with the largest remainders
    contribute one more each until there are n; of equal remainders, the smaller digit goes first.
    Within a class, the rows with the smallest keys are drawn. The keys are the raw 64-bit output of
    PCG64, which NumPy promises never to change.
    """
    counts = np.bincount(labels, minlength=10)
    share, remainder = np.divmod(counts * n, len(labels))
    share[np.argsort(-remainder, kind="stable")[: n - share.sum()]] += 1
    keys = np.random.PCG64(seed).random_raw(len(labels))
    drawn = np.zeros(len(labels), dtype=bool)
    for digit, rows_wanted in enumerate(share):
        rows = np.flatnonzero(labels == digit)
        drawn[rows[np.argsort(keys[rows], kind="stable")[:rows_wanted]]] = True
    return drawn
