"""A reproduced table: its numbers beside the paper's, as JSON, CSV, Markdown, LaTeX and HTML.

The same numbers give the same bytes: nothing here depends on the day or the machine.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from errno import EACCES
from pathlib import Path
from statistics import mean

from rpg.reports.page import environment
from rpg.reproduce.collected import tag
from rpg.reproduce.paper import PaperTable, Printed, Small
from zoo.files import unwritable_is_failed, write_bytes
from zoo.structure import Frozen
from zoo.table import Cell, Record, Table, markdown_text

RESULT = "table.json"
CSV_COLUMNS = ("row", "column", "value", "paper", "state", "recipe", "method", "settings")


class Found(Frozen):
    """What a cell came to: its value, and the paper's. `state` is `done`, or why there is no value; of what `failed`
    with an `error`.
    """

    row: str
    column: str
    value: float | str | None
    state: str
    error: str | None = None
    printed: Printed
    recipe: str | None
    method: str | None
    settings: tuple[str, ...]


class Result(Frozen):
    """All cells of a table by its name, or of some of its rows."""

    name: str
    small: bool
    rows: tuple[str, ...] = ()
    cells: tuple[Found, ...]

    @property
    def complete(self) -> bool:
        """Whether every cell that is run has its value."""
        return all(cell.state in ("done", "not run") for cell in self.cells)

    @property
    def errors(self) -> list[str]:
        """Why cells failed, each reason once."""
        return list(dict.fromkeys(cell.error for cell in self.cells if cell.error))

    @property
    def command(self) -> str:
        rows = [word for row in self.rows for word in ("--rows", row)]
        return shlex.join(["rpg", "reproduce", self.name, *rows, *["--small"] * self.small])

    @property
    def deviation(self) -> float | None:
        """The mean distance of the numbers from the paper's, in the table's unit; of tables in full, as small networks
        are others.
        """
        pairs = [
            (cell.value, cell.printed)
            for cell in self.cells
            if isinstance(cell.value, float) and isinstance(cell.printed, (int, float))
        ]
        return mean(abs(value - printed) for value, printed in pairs) if pairs and not self.small else None


def place_of(out: Path, result: Result) -> Path:
    """Where a result is written."""
    return out / f"{result.name}{'-small' * result.small}{tag(list(result.rows))}"


def make_writable(out: Path) -> None:
    """Make the directory of results, before the work that they come from. Raises Failed, or ValueError for a file."""
    with unwritable_is_failed(out / RESULT):
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))


def side_by_side(table: PaperTable, result: Result) -> Table:
    """Rows and columns as in the paper, each column followed by the paper's, where it prints numbers. Values have as
    many digits as the paper's beside them.
    """
    records: list[Record] = []
    for row in dict.fromkeys(cell.row for cell in result.cells):
        record: Record = {table.unit: row}
        for cell in (cell for cell in result.cells if cell.row == row):
            record[cell.column] = _shown(cell, table.digits) if cell.state == "done" else cell.state
            if table.printed:
                record[f"{cell.column}, paper"] = None if cell.printed is None else str(cell.printed)
        records.append(record)
    return Table.of(records)


def _shown(cell: Found, digits: int) -> str:
    """A value as text: rounded as the paper's is, but never to nothing."""
    if not isinstance(cell.value, float):
        return str(cell.value)
    places = len(str(cell.printed).partition(".")[2]) if isinstance(cell.printed, float) else digits
    rounded = f"{cell.value:.{max(places, digits)}f}"
    return rounded if float(rounded) or not cell.value else f"{cell.value:.2g}"


def long_table(result: Result) -> Table:
    """A row for each cell, for programs."""
    rows: list[tuple[Cell, ...]] = [
        (c.row, c.column, c.value, c.printed, c.state, c.recipe, c.method, " ".join(c.settings)) for c in result.cells
    ]
    return Table(CSV_COLUMNS, tuple(rows))


def notes(table: PaperTable, result: Result) -> list[str]:
    """What to know beside the numbers."""
    said = [f"Differs: {table.differs}"]
    if result.small and isinstance(table.small, Small):
        stand_ins = {
            title: spec.recipe
            for title, spec in (table.small.columns | table.small.rows).items()
            if spec.recipe is not None
        }
        names = ", ".join(f"{title} is {recipe}" for title, recipe in stand_ins.items())
        said.append(f"In small: {table.small.differs}" + (f" Here {names}." if names else ""))
    if missing := sorted({str(cell.method) for cell in result.cells if cell.state == "not available"}):
        said.append(f"Not available: method {', '.join(missing)} does not exist yet.")
    said += [f"Failed: {error}" for error in result.errors]
    return said


def write_result(table: PaperTable, result: Result, out: Path, plots: Mapping[str, bytes]) -> Path:
    """Write the table into its place below `out`, and plots (SVG) by name; the path of its page. JSON comes last."""
    place, beside = place_of(out, result), side_by_side(table, result)
    said, heading = notes(table, result), table.heading(result.small)
    for name, svg in plots.items():
        write_bytes(place / f"{name}.svg", svg)
    pictures = [f"![{name}]({name}.svg)" for name in plots]
    text = [
        f"# {markdown_text(heading)}",
        beside.markdown(),
        *map(markdown_text, said),
        *pictures,
        f"`{result.command}`",
    ]
    write_bytes(place / "table.md", ("\n\n".join(text) + "\n").encode())
    write_bytes(place / "table.csv", long_table(result).csv().encode())
    write_bytes(place / "table.tex", (beside.latex() + "\n").encode())
    page = environment("rpg.reproduce").get_template("table.html")
    html = page.render(
        heading=heading, section=table.section, beside=beside, said=said, plots=list(plots), command=result.command
    )
    write_bytes(place / "table.html", html.encode())
    write_bytes(place / RESULT, (result.to_json(indent=1) + "\n").encode())
    return place / "table.html"
