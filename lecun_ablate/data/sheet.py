"""A picture of a data set, to look at before training on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lecun_ablate.data.digits import Digits, Split


def contact_sheet(digits: Digits, path: Path, per_class: int = 12) -> None:
    """Write a PNG with `per_class` images of each digit from both splits, one row per label.

    The images are evenly spaced over all of the split's images of that label. A label with fewer
    images leaves the rest of its row empty. Raises OSError if `path` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.84 * per_class + 0.9, 5.1), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{digits.name} ({digits.source}), digest {digits.digest}", fontsize=10)
    axes = figure.subplots(1, 2)
    for axis, title, split in zip(
        axes, ("training", "test"), (digits.train, digits.test), strict=True
    ):
        mosaic = _mosaic(split, per_class)
        axis.imshow(mosaic, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(f"{title}: {len(split)} images", fontsize=10)
        axis.set_yticks(np.arange(10) * 17 + 8, labels=[str(digit) for digit in range(10)])
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel("label")
    figure.savefig(path, format="png")


def _mosaic(split: Split, per_class: int) -> np.ndarray:
    """Return ten rows of 16x16 tiles, one pixel apart; NaN where there is no image."""
    mosaic = np.full((10 * 17, per_class * 17), np.nan)
    for digit in range(10):
        rows = np.flatnonzero(split.labels == digit)
        shown = rows[np.linspace(0, len(rows) - 1, min(per_class, len(rows))).astype(int)]
        for column, image in enumerate(split.images[shown]):
            top, left = digit * 17, column * 17
            mosaic[top : top + 16, left : left + 16] = image
    return mosaic
