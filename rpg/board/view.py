"""What a page of the board says, before it is HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import quote

from rpg.reports.page import environment
from rpg.reports.plots import Plot, inline, render
from zoo.table import Cell, Record, Table

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MOST_ROWS = 500  # of a table on a page

Links = Mapping[str, str]
"""Addresses by a column's title, or by a term."""


@dataclass(frozen=True)
class Linked:
    """A table, the links of each of its rows, and what its titles mean."""

    table: Table
    links: Sequence[Links] = ()
    explained: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A titled part of a page, as `rpg.reports.page.Section`, but with links, code, and drawings as SVG."""

    title: str
    terms: Sequence[tuple[str, str]] = ()
    term_links: Links = field(default_factory=dict)
    text: Sequence[str] = ()
    tables: Sequence[Linked] = ()
    drawings: Sequence[tuple[Markup, str]] = ()
    code: str = ""


@dataclass(frozen=True)
class View:
    """A page. `trail` are the pages above it, by name; `wrong` says what is the matter with what it shows. `search` is
    the text that its tables are filtered by, where they can be; `picks` are what can be chosen, and whether it is.
    """

    title: str
    about: str
    parts: Sequence[Part] = ()
    trail: Sequence[tuple[str, str]] = ()
    wrong: str = ""
    search: str | None = None
    picks: Sequence[tuple[str, bool]] = ()


class Press:
    """Turns views into HTML and plots into SVG."""

    def __init__(self) -> None:
        self._template: Template = environment("rpg.board").get_template("board.html")
        self._drawing = Lock()  # matplotlib's settings are those of the process

    def html(self, view: View) -> str:
        return self._template.render(view=view)

    def draw(self, make: Callable[[], Plot]) -> Markup:
        """The plot that `make` makes, as an element of a page."""
        from markupsafe import Markup

        with self._drawing:
            return Markup(inline(render(make(), "svg")))  # noqa: S704  # our own, its texts escaped


def address(*parts: str, **query: str) -> str:
    """The place of a page on this server: names as parts of the path, whatever is in them."""
    asked = "&".join(f"{key}={quote(value, safe='', errors='replace')}" for key, value in query.items())
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in parts) + (f"?{asked}" if asked else "")


def listed(
    rows: Sequence[tuple[Record, Links]],
    search: str = "",
    digits: Mapping[str, int] | None = None,
    explained: Mapping[str, str] | None = None,
) -> tuple[Linked, str]:
    """The rows that hold all words of `search`, at most MOST_ROWS of them, and a line on how many there are."""
    words = search.casefold().split()
    found = [row for row in rows if all(word in _text(row[0]) for word in words)]
    shown = found[:MOST_ROWS]
    note = f"{len(found)} of {len(rows)} rows hold {search!r}." if words else f"{len(rows)} rows."
    if len(found) > MOST_ROWS:
        note += f" The first {MOST_ROWS} are shown; search for the others."
    table = Table.of([record for record, _ in shown], digits)
    return Linked(table, [links for _, links in shown], explained or {}), note


def _text(record: Mapping[str, Cell]) -> str:
    return " ".join(str(cell) for cell in record.values() if cell is not None).casefold()
