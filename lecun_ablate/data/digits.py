"""The one type that every data set has."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lecun_ablate.errors import ConfigError

# what a hold-out takes by default: 1,000 of USPS's 7,291 training images, of others as large a part
HOLDOUT_PART = 1000 / 7291
HOLDOUT_SEED = 1989


@dataclass(frozen=True)
class Split:
    """Images (n, 16, 16) float64 in [-1, 1] with labels (n,) int64 in 0..9."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> list[int]:
        """How many images each of the ten digits has."""
        return np.bincount(self.labels, minlength=10).tolist()

    @property
    def guessing(self) -> float:
        """The error from which a network has not clearly learnt anything.

        That of always naming the most frequent digit, less 3 standard deviations of such a
        guess's error: a network that has learnt nothing does not name one digit exactly always.
        """
        error = 1 - max(self.class_counts) / len(self)
        return error - 3 * math.sqrt(error * (1 - error) / len(self))

    def take(self, rows: np.ndarray) -> Split:
        """Return the given rows as a split of their own."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Digits:
    """A data set with its official split."""

    name: str
    train: Split
    test: Split
    source: str  # where it came from, for people
    notice: str | None = None  # what a user must know, such as that a fallback was taken

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over the pixels and labels of both splits."""
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            sha.update(np.int64(len(split)).tobytes())
            sha.update(np.ascontiguousarray(split.images, dtype="<f8"))
            sha.update(np.ascontiguousarray(split.labels, dtype="<i8"))
        return sha.hexdigest()[:16]

    def holdout(self, n: int | None = None) -> tuple[Split, Split]:
        """Part the training split into (fit, validation), for choices such as a learning rate.

        The validation split has `n` images, by default 1,000 of USPS's 7,291 and of any other data
        set the same share; it keeps the proportions of the classes within one image. Both keep the
        order of the training split. The parting is fixed: it depends on the labels and `n` alone.
        The test split plays no part. Raises ConfigError for an `n` that leaves either one empty.
        """
        size = len(self.train)
        n = round(size * HOLDOUT_PART) if n is None else n
        if not 0 < n < size:
            raise ConfigError(
                f"a hold-out of {n} images cannot be taken from the {size} training images of "
                f"{self.name}: valid: 1 to {size - 1}"
            )
        held = stratified(self.train.labels, n, HOLDOUT_SEED)
        return self.train.take(~held), self.train.take(held)


def stratified(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw `n` rows that keep the proportions of the classes, as a boolean mask over `labels`.

    Each class gives its share of n, rounded down; what is then missing comes, one each, from the
    classes with the largest remainders (the smaller digit first among equals). Within a class, the
    rows with the smallest keys are drawn; the keys are the raw 64-bit output of PCG64, which NumPy
    promises never to change.
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
