"""Loading a data set by name, and checking it."""

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
    """A data set that was not found anywhere (as opposed to an invalid one)."""


def load(name: str, fallback: str | None = None, data_dir: Path | None = None) -> Digits:
    """Load a data set by name.

    Its files are looked for in `data_dir`, otherwise in the folder named by the environment
    variable LECUN_ABLATE_DATA, otherwise wherever the data set itself looks. If neither folder is
    given and the data set is not found, `fallback` is loaded instead, and the notice of the result
    says so.

    Raises ConfigError for an unknown name, or for a `data_dir` if the data set reads no folder;
    DataError if the folder is unusable or the data are invalid.
    """
    data_set = registry.get("data", name)
    stand_in = None if fallback is None else registry.get("data", fallback)
    if data_dir is not None and not data_set.arity:
        raise ConfigError(f"data set {name!r} reads no folder: leave out --data-dir")
    folder = named_folder(data_dir)
    try:
        return load_from(data_set, folder)
    except Unavailable as error:
        if stand_in is None or folder is not None:
            raise
        digits = load_from(stand_in, None)
        notice = (
            f"The data set is {fallback!r} ({digits.source}), NOT {name!r}: "
            f"results on the two cannot be compared.\n{error}"
        )
        return replace(digits, notice=notice)


def load_exactly(name: str, digest: str, data_dir: Path | None = None) -> Digits:
    """Load the data set that results were computed on; DataError if its digest differs."""
    digits = load(name, None, data_dir)
    if digits.digest != digest:
        raise DataError(
            f"data set {name!r} ({digits.source}): expected the digits that the runs were trained "
            f"on, with digest {digest}, got digest {digits.digest}"
        )
    return digits


def named_folder(data_dir: Path | None) -> Path | None:
    """Return the folder given by --data-dir or otherwise LECUN_ABLATE_DATA, if any."""
    named = data_dir or os.environ.get(PLACE_VARIABLE)
    return Path(named).expanduser() if named else None


def load_from(data_set: Component, folder: Path | None) -> Digits:
    """Call a loader and check the result; DataError if either fails."""
    try:
        digits = data_set(folder)
    except LecunAblateError:
        raise
    except Exception as error:  # from a user's loader, or a library that it uses
        raise DataError(
            f"data set {data_set.name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(digits, Digits) or digits.name != data_set.name:
        got = f"Digits named {digits.name!r}" if isinstance(digits, Digits) else repr(digits)[:60]
        raise DataError(f"data set {data_set.name!r}: expected Digits of that name, got {got}")
    problem = _problem(digits)
    if problem:
        raise DataError(f"data set {data_set.name!r} ({digits.source}): {problem}")
    return digits


def _problem(digits: Digits) -> str | None:
    """Return what is wrong with the shapes, types or values; None if nothing is."""
    for which, split in (("train", digits.train), ("test", digits.test)):
        images, labels = split.images, split.labels
        if images.shape != (len(labels), 16, 16) or labels.ndim != 1 or not len(labels):
            return (
                f"{which} split: expected images (n, 16, 16) and labels (n,), "
                f"got {images.shape} and {labels.shape}"
            )
        if images.dtype != np.float64 or labels.dtype != np.int64:
            return (
                f"{which} split: expected float64 images and int64 labels, "
                f"got {images.dtype} and {labels.dtype}"
            )
        bad = np.flatnonzero(~(np.abs(images) <= 1).all(axis=(1, 2)))
        if bad.size:
            return f"{which} split, row {bad[0]}: expected pixels in [-1, 1], got one outside"
        bad = np.flatnonzero((labels < 0) | (labels > 9))
        if bad.size:
            return (
                f"{which} split, row {bad[0]}: expected a label from 0 to 9, got {labels[bad[0]]}"
            )
    return None
