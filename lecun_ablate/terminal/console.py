"""The terminal: text as it is, whatever the width, and notices that cannot be missed."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.panel import Panel

WIDE = 150  # columns if the output is not a terminal


def console(stderr: bool = False) -> Console:
    """Return a console that prints text as it is: what users write is never read as markup."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = WIDE
    return found


def notice(text: str) -> None:
    """Print what a user must not miss, on standard error."""
    on = console(stderr=True)
    if on.is_terminal:
        on.print(Panel(text, title="Notice", border_style="bold yellow"))
    else:
        print(f"NOTICE: {text}", file=sys.stderr)


def remark(text: str) -> None:
    """Print something in passing, on standard error."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
