"""How text and tables are put on a terminal, whatever its width."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

WIDE = 150  # columns where the output is no terminal
WORDS = 16  # a column of words may be folded, though not to less than this


def console(stderr: bool = False) -> Console:
    """Return a console that prints text as it is: what users write is never read as markup."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = WIDE
    return found


def print_table(on: Console, table: Table) -> None:
    """Print a table with every number whole; where that is too wide, as lines `key: value`.

    Columns aligned right hold numbers; the others hold words, which may take several lines.
    """
    borders = 3 * len(table.columns) + 1
    if borders + sum(map(_narrowest, table.columns)) > on.width:
        _print_blocks(on, table)
        return
    unlimited = on.options.update(width=10_000)
    if Measurement.get(on, unlimited, table).maximum > on.width:
        for column in table.columns:
            if column.justify == "right":
                column.width = _narrowest(column)
    on.print(table)


def _narrowest(column: Column) -> int:
    """Return the least width that a column can have; its heading may be parted at spaces."""
    cells = max((cell_len(str(cell)) for cell in column.cells), default=1)
    if column.justify != "right":
        return min(max(cells, cell_len(str(column.header))), WORDS)
    return max(cells, *map(cell_len, str(column.header).split()))


def _print_blocks(on: Console, table: Table) -> None:
    if table.title:
        on.print(table.title)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for i, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            number = column.justify == "right"
            line = Text(f"{'  ' if i else ''}{column.header}: {cell}", overflow="fold")
            on.print(line, no_wrap=number, crop=not number)
    if table.caption:
        on.print(table.caption)
