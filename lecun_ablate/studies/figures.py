"""Figures of studies: errors against the searched fields, and the distribution over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lecun_ablate.reporting.figures import STYLE
from lecun_ablate.studies.outcome import SearchResult

# test errors after 23 epochs as published, with other runs and data preparation
REPORTED = {
    "LeCun et al. 1989: 5.0 %": 102 / 2007,
    "the notebook: 95 % right": 0.05,
}


def validation_error(result: SearchResult) -> Figure:
    """Draw the validation error against each searched field, with the confirmed winners.

    If a single numeric field is searched, there is a curve per arm, with a band of one sd over the
    seeds of a trial; otherwise a point per trial. Diverged trials are crosses. Another panel shows
    the expected smallest error against the number of trials, that is, whether the budget was
    enough.
    """
    fields = list(result.study.search)
    figure = Figure(figsize=(6.5 + 4.5 * len(fields), 4.8), layout="constrained")
    with sns.axes_style("ticks", STYLE):
        *axes, budget = figure.subplots(1, len(fields) + 1, sharey=True)
    arms = list(dict.fromkeys(arm.arm for arm in result.arms))
    palette = dict(zip(arms, sns.color_palette("colorblind", len(arms)), strict=True))
    labels = {}  # one per arm: on its first search, with the mean over all searches
    for name in arms:
        found = [arm for arm in result.arms if arm.arm == name]
        labels[id(found[0])] = f"{name}: {100 * np.mean([arm.error for arm in found]):.2f} %"
    for axis, field in zip(axes, fields, strict=True):
        for arm in result.arms:
            trials = result.frame[result.frame.arm == arm.arm]
            if arm.search is not None:
                trials = trials[trials.search == arm.search]
            _draw_arm(axis, field, trials, palette[arm.arm], curve=_is_curve(result))
            axis.errorbar(
                _place(arm.values[field]),
                100 * arm.error,
                100 * arm.standard_error,
                marker="*",
                markersize=13,
                color=palette[arm.arm],
                markeredgecolor="black",
                capsize=3,
                zorder=5,
                label=labels.get(id(arm), "_"),
            )
        values = result.study.search[field]
        if not isinstance(values, tuple) and values.log:
            axis.set_xscale("log")
        axis.set(xlabel=field, yscale="log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(_minor)
    axes[0].set_ylabel("validation error [%]")
    for name, curve in expected_curves(result).items():
        trials_so_far = np.arange(1, len(curve) + 1)
        budget.plot(trials_so_far, 100 * curve, marker=".", color=palette[name], label=name)
    budget.set(xlabel="trials", title="expected best of this many trials")
    budget.title.set_fontsize("medium")
    figure.legend(
        *axes[-1].get_legend_handles_labels(),
        loc="outside right upper",
        frameon=False,
        title=f"best, on {result.study.confirm.seeds} fresh seeds",
    )
    band = f"bands: sd over {len(result.study.seeds)} seeds" if _is_curve(result) else "trials"
    figure.suptitle(f"{result.study.name} on {result.data} ({band}; x: diverged)")
    return figure


def expected_curves(result: SearchResult) -> dict[str, np.ndarray]:
    """Return the expected smallest score of 1, 2, ... trials by arm, averaged over its searches."""
    curves: dict[str, list[list[float]]] = {}
    for arm in result.arms:
        curves.setdefault(arm.arm, []).append(arm.expected_best)
    shortest = {name: min(map(len, several)) for name, several in curves.items()}
    return {
        name: np.mean([curve[: shortest[name]] for curve in several], axis=0)
        for name, several in curves.items()
    }


def _minor(value: float, position: int) -> str:
    """Label the minor ticks of a log axis at 2, 3 and 5 of each decade."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def _is_curve(result: SearchResult) -> bool:
    values = list(result.study.search.values())
    return len(values) == 1 and not isinstance(values[0], tuple)


def _place(value: Any) -> Any:
    return value if isinstance(value, int | float) else str(value)


def _draw_arm(axis: Axes, field: str, trials: pd.DataFrame, color: Any, *, curve: bool) -> None:
    ended = trials[trials.diverged == 0].sort_values(field)
    x = [_place(value) for value in ended[field]]
    error, sd = 100 * ended.validation_error, 100 * ended.validation_error_sd.fillna(0)
    if curve:
        axis.plot(x, error, marker="o", markersize=3, linewidth=1.2, color=color)
        floor = np.maximum(error - sd, 0.2 * error)  # a log axis cannot show 0 or less
        axis.fill_between(x, floor, error + sd, color=color, alpha=0.15, linewidth=0)
    else:
        axis.plot(x, error, marker="o", markersize=4, linestyle="none", color=color, alpha=0.6)
    lost = trials[trials.diverged > 0]
    axis.plot(
        [_place(value) for value in lost[field]],
        100 * lost.validation_error,
        marker="x",
        linestyle="none",
        color=color,
    )


def validation_error_plotly(result: SearchResult) -> dict[str, Any]:
    """Return the same as plotly figures for the dashboard: one for each searched field, by name."""
    fields = list(result.study.search)
    if len(fields) == 1:
        return {"result": _against(result, fields[0])}
    return {f"result_{field}": _against(result, field) for field in fields}


def _against(result: SearchResult, field: str) -> Any:
    import plotly.graph_objects as go

    values = result.study.search[field]
    shown = "" if isinstance(values, tuple) else ":.4g"
    figure = go.Figure()
    for arm, trials in result.frame.groupby("arm", sort=False):
        ordered = trials.sort_values(field)
        figure.add_trace(
            go.Scatter(
                name=arm,
                x=[_place(value) for value in ordered[field]],
                y=(100 * ordered.validation_error).tolist(),
                error_y={"array": (100 * ordered.validation_error_sd.fillna(0)).tolist()},
                customdata=ordered[["number", "diverged"]].to_numpy().tolist(),
                hovertemplate=f"%{{x{shown}}}: "
                "%{y:.2f} %, trial %{customdata[0]}, "
                "%{customdata[1]} seeds diverged",
                mode="lines+markers" if _is_curve(result) else "markers",
            )
        )
    log = not isinstance(values, tuple) and values.log
    figure.update_layout(
        title=f"{result.study.name} on {result.data}: validation error, sd over the seeds",
        xaxis={"title": field, "type": "log" if log else None},
        yaxis={"title": "validation error [%]", "type": "log"},
    )
    return figure


def seed_distribution(errors: dict[str, np.ndarray], data: str, name: str) -> Figure:
    """Draw the distribution of the test error over seeds: a histogram and points per variant.

    `errors` maps each variant to its test errors (seeds,), fractions.
    """
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    with sns.axes_style("ticks", STYLE):
        axis = figure.subplots()
    frame = pd.DataFrame(
        [(what, 100 * e) for what, values in errors.items() for e in values],
        columns=["the seed governs", "test error [%]"],
    )
    sns.histplot(
        frame,
        x="test error [%]",
        hue="the seed governs",
        ax=axis,
        kde=frame.nunique().iloc[1] > 1,
        bins=_whole_misses(frame["test error [%]"]),
        palette="colorblind",
        alpha=0.35,
        element="step",
    )
    sns.rugplot(
        frame,
        x="test error [%]",
        hue="the seed governs",
        ax=axis,
        palette="colorblind",
        legend=False,
    )
    if data == "usps":
        for (text, error), style in zip(REPORTED.items(), ("--", ":"), strict=True):
            axis.axvline(100 * error, color="black", linestyle=style, linewidth=1.2)
            side = 1 if style == "--" else -1  # the two lines are close together
            axis.annotate(
                text,
                (100 * error, 0.98),
                xytext=(side * 2, 0),
                rotation=90,
                va="top",
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                fontsize=8,
            )
        axis.set_xlim(min(axis.get_xlim()[0], 100 * min(REPORTED.values()) - 0.15))
    axis.set_ylabel("seeds")
    sizes = ", ".join(f"{what}: {len(values)} seeds" for what, values in errors.items())
    figure.suptitle(f"{name} on {data} ({sizes})")
    return figure


def _whole_misses(values: pd.Series) -> np.ndarray:
    """Return the edges of about 12 bins, each with the same number of possible misses."""
    steps = np.diff(np.unique(values))
    steps = steps[steps > 1e-9]  # of at least one miss; smaller ones are rounding
    if not len(steps):
        return np.array([values.min() - 0.5, values.min() + 0.5])
    miss = steps.min()
    span = values.max() - values.min()
    width = max(1, round(span / 12 / miss)) * miss
    return np.arange(values.min() - miss / 2, values.max() + width, width)


def seed_distribution_plotly(errors: dict[str, np.ndarray], data: str, name: str) -> Any:
    """Return the same as a plotly figure for the dashboard."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for what, values in errors.items():
        figure.add_trace(
            go.Histogram(
                name=f"{what}, {len(values)} seeds", x=(100 * values).tolist(), opacity=0.6
            )
        )
    figure.update_layout(
        title=f"{name} on {data}: test error over seeds",
        barmode="overlay",
        showlegend=True,
        xaxis={"title": "test error [%]"},
        yaxis={"title": "seeds"},
    )
    return figure
