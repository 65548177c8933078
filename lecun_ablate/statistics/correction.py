"""The correction of p-values for there being several."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return the p-values adjusted by Holm's step-down correction: (comparisons,) in 0..1.

    The chance of any wrong rejection among them stays at most alpha. Holm 1979, Scandinavian
    Journal of Statistics 6.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values {p_values.tolist()}; expected numbers from 0 to 1")
    # written out: statsmodels' multipletests collects garbage first: 0.3 s
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
