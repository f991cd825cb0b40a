"""One table for everything that is printed, in five forms: aligned text, Markdown, CSV, LaTeX, JSON.

Text, Markdown and LaTeX are for people: numbers are rounded and stand right, what is not there is a dash. CSV and JSON
are for programs: numbers are whole, what is not there is empty.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from zoo.console import plain
from zoo.errors import suggest

Cell: TypeAlias = str | int | float | None
Record: TypeAlias = dict[str, Cell]
DIGITS = 2
LARGE = 1e6  # floats from here on are shown with an exponent
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclass(frozen=True)
class Table:
    """Columns by title, and rows of text, finite numbers or nothing. `digits` after the point are shown of the floats
    of a column, 2 where it is silent.

    Raises ValueError for rows that do not fit, equal titles, and numbers that are not finite.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"two columns of {', '.join(self.columns)} have the same title")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")
            if any(isinstance(cell, float) and not math.isfinite(cell) for cell in row):
                raise ValueError(f"the row {row} holds a number that is not finite")

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Cell]], digits: Mapping[str, int] | None = None) -> Table:
        """A row for each record. Columns come in the order in which the records name them."""
        columns = tuple(dict.fromkeys(title for record in records for title in record))
        rows = tuple(tuple(record.get(title) for title in columns) for record in records)
        return cls(columns, rows, digits or {})

    def filled(self) -> Table:
        """Without the columns that hold nothing."""
        return self.only(
            [title for i, title in enumerate(self.columns) if any(row[i] is not None for row in self.rows)]
        )

    def only(self, titles: Sequence[str]) -> Table:
        """These of its columns, in this order."""
        places = [self.columns.index(title) for title in titles]
        return Table(tuple(titles), tuple(tuple(row[i] for i in places) for row in self.rows), self.digits)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers, and nothing but numbers."""
        columns = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.columns))]
        return tuple(bool(cells) and not any(isinstance(cell, str) for cell in cells) for cells in columns)

    def cells(self) -> list[list[str]]:
        """The rows as people read them."""
        digits = [self.digits.get(title, DIGITS) for title in self.columns]
        return [[_shown(cell, places) for cell, places in zip(row, digits, strict=True)] for row in self.rows]

    def text(self) -> str:
        """A line for the titles and one for each row, columns aligned and at least two spaces apart."""
        lines = self._aligned([plain(title) for title in self.columns], self.cells())
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def markdown(self) -> str:
        """A table of GitHub's Markdown, aligned in its source as well."""
        titles = [markdown_text(title) for title in self.columns]
        rows = [[markdown_text(cell) for cell in row] for row in self.cells()]
        lines = self._aligned(titles, rows)
        rules = [
            "-" * (_width(cell) + 1) + (":" if number else "-")
            for cell, number in zip(lines[0], self.numeric, strict=True)
        ]
        head, *body = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([head, "|" + "|".join(rules) + "|", *body])

    def latex(self) -> str:
        """A `tabular`; its rules are those of the package booktabs."""
        titles = [_latex(plain(title)) for title in self.columns]
        lines = self._aligned(titles, [[_latex(cell) for cell in row] for row in self.cells()])
        head, *body = [" & ".join(line).rstrip() + r" \\" for line in lines]
        begin = r"\begin{tabular}{" + "".join("r" if number else "l" for number in self.numeric) + "}"
        return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])

    def csv(self) -> str:
        """A line for the titles and one for each row; numbers with all their digits."""
        lines = [[plain(cell) if isinstance(cell, str) else cell for cell in row] for row in (self.columns, *self.rows)]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(lines)
        return out.getvalue()

    def to_json(self) -> list[dict[str, Cell]]:
        """An object for each row, by title."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def json_text(self) -> str:
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def render(self, form: str) -> str:
        """The table as `form`, one of FORMATS. Raises ValueError for another."""
        check_form(form)
        return FORMATS[form](self)

    def _aligned(self, titles: list[str], rows: list[list[str]]) -> list[list[str]]:
        """All cells filled up to the width of their column."""
        lines = [titles, *rows]
        widths = [max(_width(line[i]) for line in lines) for i in range(len(titles))]
        return [
            [" " * (width - _width(cell)) + cell if number else cell + " " * (width - _width(cell))
             for cell, width, number in zip(line, widths, self.numeric, strict=True)]
            for line in lines
        ]  # fmt: skip


FORMATS: dict[str, Callable[[Table], str]] = {
    "table": Table.text,
    "markdown": Table.markdown,
    "csv": Table.csv,
    "latex": Table.latex,
    "json": Table.json_text,
}


def check_form(form: str) -> None:
    """Raise ValueError for a format that tables cannot have."""
    if form not in FORMATS:
        raise ValueError(f"no table format named {form!r}{suggest(form, FORMATS)}")


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.{digits}f}" if abs(cell) < LARGE else f"{cell:.{digits}e}"
    return plain(str(cell))


def markdown_text(text: str) -> str:
    """Text without line breaks that Markdown shows as it is."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", plain(text))


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _width(text: str) -> int:
    """Columns of a terminal: East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
