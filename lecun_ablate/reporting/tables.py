"""Tables of text in named columns: Markdown here, the terminal in terminal.tables.

A table is built once, with every column that any reader needs; `only` picks some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lecun_ablate.system.text import markdown


@dataclass(frozen=True)
class Column:
    """A column: numbers are right-aligned and never wrap, words are left-aligned and may wrap."""

    name: str
    words: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, str]],
        words: Sequence[str] = (),
        title: str = "",
        caption: str = "",
    ) -> Table:
        """Return a table from rows with the same columns; `words` names the columns of words."""
        rows = list(rows)
        names = list(rows[0]) if rows else []
        columns = [Column(name, name in words) for name in names]
        return cls(columns, [list(row.values()) for row in rows], title, caption)

    @classmethod
    def of_numbers(cls, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """Return a table whose first column holds words, and all others numbers."""
        return cls([Column(name, i == 0) for i, name in enumerate(names)], rows)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    def column(self, name: str) -> list[str]:
        """Return the texts of a column."""
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, str]]:
        """Return the rows, each a mapping from column name to text."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]

    def only(self, names: Sequence[str]) -> Table:
        """Return the table with only these columns, in this order."""
        places = [self.names.index(name) for name in names]
        columns = [self.columns[place] for place in places]
        return replace(self, columns=columns, rows=[[row[i] for i in places] for row in self.rows])

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, without its title and caption."""
        aligned = ["---" if column.words else "--:" for column in self.columns]
        rows = [[markdown(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [self.names, aligned, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
