"""The terminal: literal text at any width, and notices that cannot be missed."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.panel import Panel

from lecun_ablate.system.text import visible

WIDE = 150  # columns if the output is not a terminal


class _Harmless(Console):
    """A console on which users' text can neither move the cursor nor change colours."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, with control characters escaped."""
        super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)


def console(stderr: bool = False) -> Console:
    """Return a console that prints text literally: users' text is never read as markup."""
    found = _Harmless(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = WIDE
    return found


def notice(text: str) -> None:
    """Print a notice that the user must not miss, on standard error."""
    on, text = console(stderr=True), visible(text)
    if on.is_terminal:
        on.print(Panel(text, title="Notice", border_style="bold yellow"))
    else:
        print(f"NOTICE: {text}", file=sys.stderr)


def remark(text: str) -> None:
    """Print a remark on standard error."""
    print(visible(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time span for display."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
