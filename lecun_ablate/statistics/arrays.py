"""Checks for the arrays that statistics are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

DIVERGED_ERROR = 0.9  # the error of a diverged run: that of guessing one digit of ten

# An error is a count divided by the number of images, so real differences are far larger than this.
# Smaller ones are rounding errors of the division.
ROUNDING = 1e-12


def check_errors(values: ArrayLike, name: str = "errors") -> np.ndarray:
    """Return errors (seeds,) as float64, or raise ValueError naming the offending seed."""
    errors = np.asarray(values, dtype=np.float64)
    if errors.ndim != 1 or errors.size == 0:
        raise ValueError(f"{name}: expected one error per seed, got shape {errors.shape}")
    bad = ~((errors >= 0) & (errors <= 1))  # also finds NaN
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name}: row {row} is {errors[row]}; expected a fraction of the images, 0 to 1 "
            "(mark diverged runs as diverged)"
        )
    return errors


def check_values(values: ArrayLike, name: str = "differences") -> np.ndarray:
    """Return finite values (seeds,) as float64, or raise ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected one value per seed, got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name}: row {row} is {array[row]}; expected a finite number")
    return array


def check_fraction(value: float, name: str) -> float:
    """Return a value strictly between 0 and 1, or raise ValueError."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; expected a number between 0 and 1")
    return float(value)


def paired_differences(arm: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """Return arm minus baseline (seeds,), zero if they differ only by rounding."""
    arm, baseline = check_errors(arm, "arm"), check_errors(baseline, "baseline")
    if len(arm) != len(baseline):
        raise ValueError(
            f"arm has {len(arm)} seeds and baseline has {len(baseline)}; expected one pair per "
            "seed, in the same order"
        )
    differences: np.ndarray = arm - baseline
    differences[np.abs(differences) <= ROUNDING] = 0.0
    return differences


def spread(values: np.ndarray) -> float:
    """Return the standard deviation (n - 1 in the denominator), 0 if it is only rounding error."""
    if len(values) < 2 or np.ptp(values) <= ROUNDING:
        return 0.0
    return float(np.std(values, ddof=1))


def misses(
    predictions: ArrayLike, labels: ArrayLike, diverged: ArrayLike | None = None
) -> np.ndarray:
    """Return 1.0 where an image was missed, else 0.0: (seeds, images).

    `predictions` (seeds, images) uint8, 255 meaning no answer, which is a miss; `labels` (images,).
    The rows of `diverged` (seeds,) runs hold DIVERGED_ERROR on every image.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 2 or labels.ndim != 1 or predictions.shape[1:] != labels.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape} and labels {labels.shape}; expected "
            "(seeds, images) and (images,)"
        )
    if 0 in predictions.shape:
        raise ValueError(f"predictions have shape {predictions.shape}: there is nothing in them")
    missed: np.ndarray = (predictions != labels).astype(np.float64)
    if diverged is not None:
        missed[check_mask(diverged, len(missed), "diverged")] = DIVERGED_ERROR
    return missed


def check_mask(mask: ArrayLike, seeds: int, name: str) -> np.ndarray:
    """Return a boolean array (seeds,), or raise ValueError."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (seeds,):
        raise ValueError(
            f"{name}: expected {seeds} booleans, one per seed, got {mask.dtype} {mask.shape}"
        )
    return mask
