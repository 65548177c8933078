"""Figures, as matplotlib Figure objects drawn without a display."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.alpha": 0.3, "font.size": 10}  # fmt: skip
# without it, a picture holds the time and version and differs from run to run
PNG_METADATA = {"Software": None}


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata=PNG_METADATA)
    return buffer.getvalue()


def learning_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Draw the error against the epoch: a line per arm, mean over seeds with a band of one sd.

    `frame` has columns arm, seed, epoch, train_error and test_error (fractions).
    """
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    with sns.axes_style("ticks", STYLE):
        axes = figure.subplots(1, 2, sharey=True)
    arms = list(dict.fromkeys(frame.arm))
    palette = dict(zip(arms, sns.color_palette("colorblind", len(arms)), strict=True))
    percent = frame.assign(train=100 * frame.train_error, test=100 * frame.test_error)
    for axis, split in zip(axes, ("train", "test"), strict=True):
        sns.lineplot(
            percent, x="epoch", y=split, hue="arm", hue_order=arms, palette=palette,
            errorbar="sd" if frame.seed.nunique() > 1 else None, ax=axis,
            legend="full" if split == "test" else False, marker="o", markersize=3,
        )  # fmt: skip
        axis.set(xlabel="epoch", ylabel="error [%]", title=f"{split} split", yscale="log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _few(value) else "")
        axis.grid(visible=True, which="both", alpha=0.25)
    if axes[1].get_legend():
        sns.move_legend(axes[1], "upper right", title=None, frameon=False)
    seeds = frame.seed.nunique()
    band = f"mean and sd over {seeds} seeds" if seeds > 1 else "1 seed"
    figure.suptitle(f"{title} ({band})")
    return figure


def _few(value: float) -> bool:
    """Tell whether a minor tick of a log axis gets a label: 2 and 5 of each decade do."""
    return f"{value:e}"[0] in "25"


def connectivity_matrix(seen: np.ndarray, title: str) -> Figure:
    """Draw which H1 plane (column) each H2 plane (row) sees; `seen` is (12, 12) bool."""
    from lecun_ablate.initial import mac_count, parameter_count

    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axis = figure.subplots()
    axis.imshow(seen, cmap="Greys", vmin=0, vmax=1.4)
    axis.set(xlabel="plane of H1", ylabel="plane of H2", xticks=range(12), yticks=range(12))
    axis.tick_params(length=0, labelsize=7)
    axis.set_title(
        f"{title}\n{parameter_count(seen):,} parameters, {mac_count(seen):,} MACs", fontsize=9
    )
    return figure
