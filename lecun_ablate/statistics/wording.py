"""Numbers for display: errors in percent, differences in points of error."""

from __future__ import annotations

import math

from lecun_ablate.statistics.intervals import Interval
from lecun_ablate.statistics.paired import Comparison


def percent(error: float, decimals: int = 2) -> str:
    """Return an error (a fraction) as percent: 0.0502 is "5.02 %"."""
    return f"{100 * error:.{decimals}f} %"


def share(rate: float) -> str:
    """Return a share as percent with two digits: 0.259 is "26 %", 0.0238 is "2.4 %"."""
    return f"{100 * rate:.2g} %" if rate < 0.995 else "100 %"


def signed(difference: float, decimals: int = 2) -> str:
    """Return a difference (a fraction) as a signed number of points: -0.0031 is "-0.31"."""
    text = f"{100 * difference:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text  # no "+0.00", no "-0.00"


def points(difference: float, decimals: int = 2, *, sign: bool = True) -> str:
    """Return a difference (a fraction) with its unit: -0.0031 is "-0.31 points"."""
    number = signed(difference, decimals) if sign else f"{100 * difference:.{decimals}f}"
    return f"{number} points"


def at_most(bound: float) -> str:
    """Return the bound of a difference in points, rounded up so that it is still a bound."""
    return points(math.ceil(round(bound * 1e4, 6)) / 1e4, sign=False)


def span(interval: Interval | None, decimals: int = 2) -> str:
    """Return an interval of differences in points: "[-0.62, -0.01]"; "no interval" for None."""
    if interval is None:
        return "no interval"
    return f"[{signed(interval.low, decimals)}, {signed(interval.high, decimals)}]"


def probability(comparison: Comparison) -> str:
    """Return P(better) with its interval: "0.90 [0.60, 0.98]"; for one seed, without."""
    interval = comparison.improvement_interval
    ends = f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else ""
    return f"{comparison.improvement:.2f}{ends}"


def p_value(p: float) -> str:
    """Return a p-value: "p = 0.012", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
