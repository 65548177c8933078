"""Tables on a terminal of any width: numbers never wrap, words may."""

from __future__ import annotations

from dataclasses import replace

from rich import box
from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from lecun_ablate.reporting.tables import Table
from lecun_ablate.system.text import visible

WORDS = 16  # a column of words may be folded, but not narrower than this


def print_table(on: Console, table: Table) -> None:
    """Print a table without wrapped numbers; if that is too wide, as lines `name: value`."""
    table = replace(
        table,
        title=visible(table.title or ""),
        caption=visible(table.caption or ""),
        rows=[[visible(cell, keep="") for cell in row] for row in table.rows],
    )
    sheet = rich_table.Table(
        box=box.SIMPLE_HEAD,
        title=table.title or None,
        caption=table.caption or None,
        title_justify="left",
        caption_justify="left",
    )
    for column in table.columns:
        if column.words:
            sheet.add_column(column.name, overflow="fold")
        else:
            sheet.add_column(column.name, justify="right", overflow="fold")
    for row in table.rows:
        sheet.add_row(*row)
    borders = 2 * len(sheet.columns) + 2
    if borders + sum(map(_narrowest, sheet.columns)) > on.width:
        _print_blocks(on, table)
        return
    unlimited = on.options.update(width=10_000)
    if Measurement.get(on, unlimited, sheet).maximum > on.width:
        for wide in sheet.columns:
            if wide.justify == "right":
                wide.width = _narrowest(wide)
    on.print(sheet)


def _narrowest(column: rich_table.Column) -> int:
    """Return the minimum width of a column; its heading may be broken at spaces."""
    cells = max((cell_len(str(cell)) for cell in column.cells), default=1)
    if column.justify != "right":
        return min(max(cells, cell_len(str(column.header))), WORDS)
    return max(cells, *map(cell_len, str(column.header).split()))


def _print_blocks(on: Console, table: Table) -> None:
    if table.title:
        on.print(table.title)
    for row in table.rows:
        for i, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            line = Text(f"{'  ' if i else ''}{column.name}: {cell}", overflow="fold")
            on.print(line, no_wrap=not column.words, crop=column.words)
    if table.caption:
        on.print(table.caption)
