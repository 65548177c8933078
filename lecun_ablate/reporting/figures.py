"""Figures of an experiment: SVG in the page's own text colour, for light and dark mode.

The same numbers give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

import colorsys
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from statistics import median_low
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import stats

from lecun_ablate.statistics import MARGIN, Interval, PairResult, Runs, describe, span

# placeholders for the page's own colours until the SVG is written
INK, FAINT = "#010203", "#040506"
INKS = {INK: "currentColor", FAINT: "var(--faint, #8888884d)"}
# readable on white and on near-black, and with common forms of colour blindness
COLOURS = ("#3b82c4", "#d9742b", "#2f9e77", "#b85fa8", "#c74a4a", "#8a79d6", "#ad922b", "#45a5b5")
# for stand-alone figures
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
}
PAGE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lecun_ablate", "font.size": 11,
    "text.parse_math": False,  # arms may have dollars in their names
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlesize": 11, "axes.titlelocation": "left", "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.grid": True, "grid.color": FAINT,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "legend.handlelength": 1.4,
}  # fmt: skip
TITLE = "title: "  # the rest of an artist's id becomes its tooltip
WIDTH = 5.2  # inches; as wide as a phone's screen, so that text keeps its size there
MOST_BANDS = 6  # arms; more overlapping bands are unreadable
FEW_EPOCHS = 3  # with so few, bars are clearer than bands
LONGEST_NAME = 22  # characters
ASTRAY = 3
SHOWN_BEYOND = 8  # times the usual size; values farther out are written at the border


def colours(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """Return a colour per arm; the baseline has the text colour."""
    others = [arm for arm in arms if arm != baseline]
    hues = [*COLOURS, *(_hue(k) for k in range(len(others) - len(COLOURS)))]
    return {baseline: INK, **dict(zip(others, hues, strict=False))}


def _hue(k: int) -> str:
    red, green, blue = colorsys.hls_to_rgb((0.05 + 0.618034 * k) % 1, 0.52, 0.42)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def short(arm: str) -> str:
    """Return an arm's name for a figure: the values without their fields, LONGEST_NAME at most."""
    name = re.sub(r"\b[a-z_]+=", "", arm)
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def page_colour(colour: str) -> str:
    """Return a figure's colour as the page's style writes it."""
    return "var(--ink)" if colour == INK else colour


def svg(figure: Figure, description: str) -> str:
    """Return a figure as SVG for a page or a file of its own."""
    buffer = io.StringIO()
    with mpl.rc_context(PAGE_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    figure.clear()
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(rf'<g id="{TITLE}([^"]*)"([^>]*)>', r"<g\2><title>\1</title>", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several figures share a page
    text = re.sub(r'<style type="text/css">.*?</style>', "", text)  # would apply to the whole page
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own
    text = re.sub(r"\n\s*", "\n", text)
    for stand_in, ink in INKS.items():
        text = text.replace(stand_in, ink)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {size[1]} {size[2]}" role="img" aria-label="{description}" '
        'style="font-family: system-ui, sans-serif; stroke-linejoin: round">'
    )
    return opening + text[text.index(">") + 1 :].strip() + "\n"


def in_a_file(picture: str) -> bytes:
    """Return an SVG as a file that looks right in light and dark."""
    style = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
    head, end, rest = picture.partition(">")
    return f"{head}{end}{style}{rest}".encode()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    figure.clear()
    return buffer.getvalue()


def learning_curves(
    frame: pd.DataFrame, split: str, palette: dict[str, str], limits: tuple[float, float]
) -> Figure:
    """Draw the error of a split against the epoch: a line per arm, the mean over its runs.

    `frame` has a row per run and epoch with columns arm, seed, epoch and `split`_error (fractions).
    The dark band is the mean's 95 % t interval, the light one a standard deviation to either side;
    for up to FEW_EPOCHS epochs, bars show the interval; more than MOST_BANDS arms have lines only.
    Runs whose error at some epoch from the second on exceeds ASTRAY times the median have their own
    thin line. `limits` are those of the axis, in %.
    """
    import seaborn as sns

    errors = frame[["arm", "seed", "epoch"]].assign(error=100 * frame[f"{split}_error"])
    errors = errors.dropna()
    with mpl.rc_context(PAGE_STYLE):
        figure, axes = _curves()
        arms = [arm for arm in palette if (errors.arm == arm).any()]
        few, bands = few_epochs(frame), has_bands(palette)
        for k, arm in enumerate(arms):
            mine, before = errors[errors.arm == arm], len(axes.lines)
            if few:  # side by side, so that bars do not overlap
                mine = mine.assign(epoch=mine.epoch + 0.3 * ((k + 0.5) / len(arms) - 0.5))
            common = {"data": mine, "x": "epoch", "y": "error", "color": palette[arm], "ax": axes,
                      "linewidth": 1.4, "marker": "o" if few else None, "markersize": 4,
                      "markeredgewidth": 0, "legend": False}  # fmt: skip
            if few:
                sns.lineplot(
                    **common, errorbar=_mean_interval, err_style="bars", err_kws={"linewidth": 1.4}
                )
            elif bands:
                sns.lineplot(**common, errorbar="sd", err_kws={"alpha": 0.1, "linewidth": 0})
                sns.lineplot(
                    **common, errorbar=_mean_interval, err_kws={"alpha": 0.2, "linewidth": 0}
                )
            else:
                sns.lineplot(**common, errorbar=None)
            for line in axes.lines[before:]:
                line.set_gid(f"{TITLE}{arm}")
            axes.plot([], [], color=palette[arm], linewidth=1.4, label=short(arm))
            runs = mine.pivot(index="epoch", columns="seed", values="error")
            later = runs.iloc[1:]
            for seed in runs.columns[later.gt(ASTRAY * later.median(axis=1), axis=0).any()]:
                axes.plot(runs.index, runs[seed], color=palette[arm], linewidth=0.6, alpha=0.7)
        axes.set(xlabel="epoch", ylabel="", ylim=limits)  # before the log scale
        axes.set_yscale("log")
        axes.set_title(f"{split} error [%]")
        if few:
            last = int(frame.epoch.max())
            axes.set(xticks=range(1, last + 1), xlim=(0.5, last + 0.5))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_minor_formatter(FuncFormatter(_tick))
        if len(palette) > 1 and split == "test":
            axes.legend(
                loc="best",
                ncols=1 + (len(palette) - 1) // 8,
                fontsize=10,
                labelspacing=0.25,
                borderaxespad=0.2,
            )
    return figure


def by_value(factor: str, errors: dict[float, np.ndarray]) -> Figure:
    """Draw the mean test error against the values of a numeric factor, in %.

    `errors` has (runs,) fractions by value, of the runs that did not diverge. The band is the
    mean's 95 % t interval. Positive values that span more than a decade have a log axis.
    """
    values = sorted(value for value, runs in errors.items() if len(runs))
    means, lows, highs = [], [], []
    for value in values:
        runs = pd.Series(100 * errors[value])
        low, high = _mean_interval(runs)
        means.append(runs.mean())
        lows.append(low)
        highs.append(high)
    with mpl.rc_context(PAGE_STYLE):
        figure, axes = _curves()
        axes.fill_between(values, lows, highs, color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(values, means, color=COLOURS[0], linewidth=1.4)
        for value, mean in zip(values, means, strict=True):
            text = f"{factor} {value:g}: {mean:.2f} %"
            axes.plot(value, mean, "o", color=COLOURS[0], markersize=4, gid=TITLE + text)
        if values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=factor, ylabel="")
        axes.set_title("test error [%]")
    return figure


def ladder(arms: dict[str, Runs], images: int) -> Figure:
    """Draw the mean number of test images missed after each step of a ladder, the first on top.

    `arms` are the steps in their order, `images` those of the test split. The bar is the mean's
    95 % t interval over the runs that did not diverge.
    """
    misses = {arm: pd.Series(images * runs.errors[~runs.diverged]) for arm, runs in arms.items()}
    with mpl.rc_context(PAGE_STYLE):
        figure, axes = _rows([short(arm) for arm in arms])
        rows = [row for row, own in enumerate(misses.values()) if len(own)]
        means = [own.mean() for own in misses.values() if len(own)]
        axes.plot(means, rows, color=INK, linewidth=0.8, alpha=0.5)
        for row, mean, own in zip(rows, means, filter(len, misses.values()), strict=True):
            low, high = _mean_interval(own)
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=4, solid_capstyle="butt")
            text = f"{len(own)} runs miss {mean:.1f} of {images:,} on average"
            axes.plot(mean, row, "o", color=COLOURS[0], markersize=7, gid=TITLE + text)
            axes.annotate(f"{mean:.0f}", (high, row), (7, 0), textcoords="offset points",
                          va="center", fontsize=11)  # fmt: skip
        axes.margins(x=0.12)
        axes.set_xlabel(f"test images missed, of {images:,}")
    return figure


def few_epochs(frame: pd.DataFrame) -> bool:
    """Return whether learning curves have so few epochs that bars show the intervals."""
    return bool(frame.epoch.max() <= FEW_EPOCHS)


def has_bands(arms: Collection[str]) -> bool:
    """Return whether learning curves of so many arms show bands."""
    return len(arms) <= MOST_BANDS


def _mean_interval(values: pd.Series) -> tuple[float, float]:
    """Return the 95 % t interval of the mean of values (n,); for one value, the value."""
    n, mean = len(values), values.mean()
    half = stats.t.ppf(0.975, n - 1) * values.std() / n**0.5 if n > 1 else 0.0
    return mean - half, mean + half


def _tick(value: float, _position: int | None = None) -> str:
    """Label 1, 2 and 5 of each decade of a log axis."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def curve_limits(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the common limits of both learning curves, in %."""
    errors = 100 * frame[["train_error", "test_error"]].to_numpy(float)
    positive = errors[np.isfinite(errors) & (errors > 0)]
    if not positive.size:
        return 0.1, 100.0
    return max(0.02, 0.8 * float(positive.min())), min(110.0, 1.25 * float(positive.max()))


def differences(pairs: Sequence[PairResult], palette: dict[str, str], against: str) -> Figure:
    """Draw the difference of each comparison with both intervals, in points.

    `against` is that of evidence_tables. Without a single baseline, each arm's is named with it.
    """
    usual = _usual(100 * abs(pair.counted.difference) for pair in pairs)
    shown = [pair for pair in pairs if 100 * abs(pair.counted.difference) <= usual]
    farthest = 100 * max(_farthest(pair) for pair in shown)
    limit = max(120 * MARGIN, 1.1 * min(farthest, 3 * usual))
    with mpl.rc_context(PAGE_STYLE):
        names = [short(pair.arm) for pair in pairs]
        if against != "baseline":
            word = "after" if against == "step before" else "against"
            names = [f"{n}\n{word} {short(p.baseline)}" for n, p in zip(names, pairs, strict=True)]
        figure, axes = _rows(names)
        axes.axvspan(-100 * MARGIN, 100 * MARGIN, color=FAINT, alpha=0.3, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, pair in enumerate(pairs):
            value, colour = 100 * pair.counted.difference, palette[pair.arm]
            if abs(value) > usual:
                interval = pair.counted.interval
                known = f" {span(interval, 1)}" if interval else ""
                _beyond(axes, row, f"{value:+.1f}{known}", colour, right=value > 0)
                continue
            for interval, width in (
                (pair.joint.interval if pair.joint else None, 1.2),
                (pair.counted.interval, 4.0),
            ):
                if interval:
                    ends = np.clip([100 * interval.low, 100 * interval.high], -limit, limit)
                    axes.plot(
                        ends, [row, row], color=colour, linewidth=width, solid_capstyle="butt"
                    )
            text = f"{pair.arm}: {value:+.2f} points {span(pair.counted.interval)}"
            axes.plot(value, row, "o", color=colour, markersize=7, gid=TITLE + text)
        axes.set_xlim(-limit, limit)
        axes.set_xlabel("better  ←   difference [points]   →  worse")
    return figure


def spread(arms: dict[str, Runs], palette: dict[str, str]) -> Figure:
    """Draw the test error of every run, with the mean and its interval per arm, in %."""
    ended = {arm: 100 * runs.errors[~runs.diverged] for arm, runs in arms.items()}
    means = {arm: float(errors.mean()) for arm, errors in ended.items() if errors.size}
    limit = _usual(means.values())
    values = [v for arm, errors in ended.items() if means.get(arm, 101) <= limit for v in errors]
    with mpl.rc_context(PAGE_STYLE):
        figure, axes = _rows([short(arm) for arm in arms])
        for row, (arm, errors) in enumerate(ended.items()):
            colour = palette[arm]
            if not errors.size:
                axes.annotate(
                    "every run diverged",
                    (0.01, row),
                    fontsize=10,
                    va="center",
                    xycoords=("axes fraction", "data"),
                )
            elif means[arm] > limit:
                spread_of = f" ± {errors.std(ddof=1):.1f}" if len(errors) > 1 else ""
                _beyond(axes, row, f"{means[arm]:.1f}{spread_of}", colour, right=True)
            else:
                axes.plot(
                    errors,
                    row + _stacked(errors),
                    "o",
                    color=colour,
                    markersize=4,
                    alpha=0.55,
                    markeredgewidth=0,
                    gid=f"{TITLE}{arm}: {len(errors)} runs, {means[arm]:.2f} % on average",
                )
                interval = describe(errors / 100).interval
                if interval:
                    axes.plot(
                        [100 * interval.low, 100 * interval.high],
                        [row + 0.3] * 2,
                        color=colour,
                        linewidth=2.5,
                        solid_capstyle="butt",
                    )
                axes.plot(means[arm], row + 0.3, "|", color=colour, markersize=9, markeredgewidth=2)
        if values:
            room = max(0.06 * (max(values) - min(values)), 0.05)
            axes.set_xlim(min(values) - room, max(values) + room)
        axes.set_xlabel("test error [%]")
    return figure


def _stacked(values: np.ndarray) -> np.ndarray:
    """Return heights that keep equal and nearly equal values apart: (n,) in -0.4..0.1."""
    width = max(np.ptp(values) / 40, 1e-9)
    heights = np.zeros(len(values))
    seen: dict[int, int] = {}
    for k in np.argsort(values, kind="stable"):
        place = int(values[k] // width)
        heights[k] = seen[place] = seen.get(place, -1) + 1
    step: float = min(0.12, 0.5 / max(1, heights.max()))
    return 0.08 - step * heights


def _curves() -> tuple[Figure, Axes]:
    """Return a figure for curves with fixed margins, which saves computing a layout."""
    figure = Figure(figsize=(WIDTH, 3.3))
    axes = figure.add_axes((0.1, 0.15, 0.885, 0.76))
    axes.tick_params(length=2, which="both")
    return figure, axes


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure with a named row per name, the first one on top."""
    lines = [line for name in names for line in name.split("\n")]
    height = 0.75 + 0.26 * len(names) + 0.16 * len(lines)
    figure = Figure(figsize=(WIDTH, height))
    longest = max(map(len, lines))
    left = min(0.095 * longest + 0.15, 0.45 * WIDTH) / WIDTH
    axes = figure.add_axes((left, 0.55 / height, 0.985 - left, 1 - 0.65 / height))
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def _beyond(axes: Axes, row: int, text: str, colour: str, *, right: bool) -> None:
    """Write a number that lies outside the axes at the border nearest to it."""
    axes.annotate(
        f"{text}  →" if right else f"←  {text}",
        (0.99 if right else 0.01, row),
        xycoords=("axes fraction", "data"),
        ha="right" if right else "left",
        va="center",
        color=colour,
        fontsize=11,
    )


def _usual(sizes: Iterable[float]) -> float:
    """Return the size above which one row would compress the others."""
    sizes = list(sizes)
    return max(2.0, SHOWN_BEYOND * median_low(sizes)) if sizes else math.inf


def _farthest(pair: PairResult) -> float:
    """Return how far from 0 a comparison's difference and intervals reach."""
    joint = pair.joint.interval if pair.joint else None
    intervals: list[Interval | None] = [pair.counted.interval, joint]
    return max([abs(pair.counted.difference), *(one.bound for one in intervals if one)])


def connectivity_matrix(seen: np.ndarray, title: str) -> Figure:
    """Draw which H1 plane (column) each H2 plane (row) sees; `seen` is (12, 12) bool."""
    from lecun_ablate.network.initial import mac_count, parameter_count

    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axis = figure.subplots()
    axis.imshow(seen, cmap="Greys", vmin=0, vmax=1.4)
    axis.set(xlabel="plane of H1", ylabel="plane of H2", xticks=range(12), yticks=range(12))
    axis.tick_params(length=0, labelsize=7)
    axis.set_title(
        f"{title}\n{parameter_count(seen):,} parameters, {mac_count(seen):,} MACs", fontsize=9
    )
    return figure
