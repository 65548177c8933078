"""The one type that every data set has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


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
            sha.update(np.ascontiguousarray(split.images, dtype="<f8").tobytes())
            sha.update(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
        return sha.hexdigest()[:16]
