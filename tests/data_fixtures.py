"""Digits made up for tests, and parquet folders in the layout of the Hub's USPS."""

from __future__ import annotations

import contextlib
import io
import os
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from lecun_ablate.data import Digits, Split
from lecun_ablate.data.usps import FILES, ROWS

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def random_pixels(n: int, seed: int = 0) -> np.ndarray:
    """Return images (n, 16, 16) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16), dtype=np.uint8)


def random_digits(train: int = 40, test: int = 20, seed: int = 0, name: str = "noise") -> Digits:
    """Return a data set of noise with all ten labels in turn."""
    splits = [
        Split(random_pixels(n, seed + i) / 127.5 - 1, np.arange(n) % 10)
        for i, n in enumerate((train, test))
    ]
    return Digits(name, *splits, source="noise")


def png(image: np.ndarray | Image.Image, format: str = "PNG") -> bytes:
    """Return an image as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def cells(pixels: np.ndarray) -> list[dict]:
    """Return images as values of the column `image`."""
    return [{"bytes": png(image), "path": None} for image in pixels]


def write_parquet(file: Path, images: list, labels: list, **types: pa.DataType) -> Path:
    """Write a split's parquet file; `types` overrides the types of the columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": pa.array(images, types.get("image", IMAGE)),
        "label": pa.array(labels, types.get("label", pa.int64())),
    }
    parquet.write_table(pa.table(columns), file)
    return file


def write_folder(folder: Path, rows: dict[str, int] = ROWS) -> Path:
    """Write a folder of noise, with all ten labels in turn, that reads as USPS.

    After a hundred images they come again.
    """
    for seed, (split, n) in enumerate(rows.items()):
        images = islice(cycle(cells(random_pixels(min(n, 100), seed))), n)
        write_parquet(folder / FILES[split], list(images), (np.arange(n) % 10).tolist())
    return folder


@contextlib.contextmanager
def without_privileges():
    """Give up root's right to read everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
