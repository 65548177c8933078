"""All tensors of a network as one flat array: in the order of initial.SHAPES, each row-major."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lecun_ablate.network.initial import SHAPES

SIZES = [math.prod(shape) for shape in SHAPES.values()]


def flatten(tensors: Mapping[str, np.ndarray], dtype: str, prefix: str = "") -> np.ndarray:
    """Return the tensors as one new array, (PARAMETERS,); `prefix` begins their names."""
    return np.concatenate([np.asarray(tensors[prefix + name], dtype).ravel() for name in SHAPES])


def tensors(flat: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """Return a copy of a flat array as named tensors."""
    parts = np.split(flat.copy(), np.cumsum(SIZES)[:-1])
    named = zip(SHAPES.items(), parts, strict=True)
    return {prefix + name: part.reshape(shape) for (name, shape), part in named}
