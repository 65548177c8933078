"""From the name of a data set to its digits, or to words that say why not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from lecun_ablate.data.digits import Digits
from lecun_ablate.errors import ConfigError, DataError, LecunAblateError
from lecun_ablate.registry import Component, registry

PLACE_VARIABLE = "LECUN_ABLATE_DATA"


class Unavailable(DataError):
    """A data set that is nowhere to be had; unlike one that is there but wrong."""


def load(name: str, fallback: str | None = None, data_dir: Path | None = None) -> Digits:
    """Load a data set by name.

    The place of its files is `data_dir`, else the environment variable LECUN_ABLATE_DATA, else
    wherever the data set itself looks. Where neither names a place and the data set is not to be
    had, `fallback` is loaded instead, and the result's notice says so.

    Raises ConfigError for an unknown name, or a `data_dir` for a data set that reads no folder;
    DataError where a named place is unusable or the data are not what they should be.
    """
    data_set = registry.get("data", name)
    stand_in = None if fallback is None else registry.get("data", fallback)
    if data_dir is not None and not data_set.arity:
        raise ConfigError(f"data set {name!r} is read from no folder: leave out --data-dir")
    folder = named_folder(data_dir)
    try:
        return load_from(data_set, folder)
    except Unavailable as error:
        if stand_in is None or folder is not None:
            raise
        digits = load_from(stand_in, None)
        notice = (
            f"The data set is {fallback!r} ({digits.source}), NOT {name!r}: "
            f"results on the two do not compare.\n{error}"
        )
        return replace(digits, notice=notice)


def load_exactly(name: str, digest: str, data_dir: Path | None = None) -> Digits:
    """Load the data set that results rest on; DataError where it is not the very same digits."""
    digits = load(name, None, data_dir)
    if digits.digest != digest:
        raise DataError(
            f"data set {name!r} ({digits.source}): expected the digits that the runs were trained "
            f"on, digest {digest}, came others, digest {digits.digest}"
        )
    return digits


def named_folder(data_dir: Path | None) -> Path | None:
    """Return the folder that --data-dir, else LECUN_ABLATE_DATA names, if either does."""
    named = data_dir or os.environ.get(PLACE_VARIABLE)
    return Path(named).expanduser() if named else None


def load_from(data_set: Component, folder: Path | None) -> Digits:
    """Call a loader and check what it returns; DataError if it fails or breaks its contract."""
    try:
        digits = data_set(folder)
    except LecunAblateError:
        raise
    except Exception as error:  # of a user's loader, or of the library that it stands on
        raise DataError(
            f"data set {data_set.name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(digits, Digits) or digits.name != data_set.name:
        came = f"Digits named {digits.name!r}" if isinstance(digits, Digits) else repr(digits)[:60]
        raise DataError(f"data set {data_set.name!r}: expected Digits of that name, came {came}")
    problem = _problem(digits)
    if problem:
        raise DataError(f"data set {data_set.name!r} ({digits.source}): {problem}")
    return digits


def _problem(digits: Digits) -> str | None:
    """Return how the digits break the promises of their type, None if they keep them."""
    for which, split in (("train", digits.train), ("test", digits.test)):
        images, labels = split.images, split.labels
        if images.shape != (len(labels), 16, 16) or labels.ndim != 1 or not len(labels):
            return (
                f"{which} split: expected images (n, 16, 16) and labels (n,), "
                f"came {images.shape} and {labels.shape}"
            )
        if images.dtype != np.float64 or labels.dtype != np.int64:
            return (
                f"{which} split: expected float64 images and int64 labels, "
                f"came {images.dtype} and {labels.dtype}"
            )
        bad = np.flatnonzero(~(np.abs(images) <= 1).all(axis=(1, 2)))
        if bad.size:
            return f"{which} split, row {bad[0]}: a pixel is not in [-1, 1]"
        bad = np.flatnonzero((labels < 0) | (labels > 9))
        if bad.size:
            return f"{which} split, row {bad[0]}: label {labels[bad[0]]}: expected 0 to 9"
    return None
