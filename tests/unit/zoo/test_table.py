"""The one table: what its five forms hold, read back from them."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.console import plain
from zoo.listing import checkpoints_table, recipes_table
from zoo.manifest import Entry
from zoo.scoring import Metric
from zoo.table import FORMATS, Cell, Table

NUMBERS = Table(
    ("group", "top1, %", "n"),
    (("noised_0.05", 98.256, 10), ("mean_of_all", 9.5, 1), ("a|b & c", None, None)),
)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
CELLS = st.one_of(st.none(), st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9), NAMES)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=5))
    return Table(tuple(f"column {i}" for i in range(width)), tuple(tuple(row) for row in rows))


def test_text_is_aligned_with_numbers_on_the_right() -> None:
    assert NUMBERS.text().splitlines() == [
        "group        top1, %   n",
        "noised_0.05    98.26  10",
        "mean_of_all     9.50   1",
        "a|b & c            -   -",
    ]


def test_huge_numbers_keep_columns_narrow() -> None:
    assert Table(("x",), ((999999.4,), (-1.7787710009942074e16,))).text().splitlines()[1:] == ["999999.40", "-1.78e+16"]


def test_long_cells_never_run_into_the_next_column() -> None:
    long = "x" * 200
    table = Table(("recipe", "task"), ((long, "classification"), ("b", "binary")))
    assert table.text().splitlines()[1] == f"{long}  classification"
    assert table.text().splitlines()[2] == f"b{' ' * 201}binary"


@given(table=tables())
def test_every_cell_stands_in_its_column_in_text(table: Table) -> None:
    """Wherever a line is cut at a column's ends, exactly the cell is between them, and two spaces after it."""
    head, *lines = table.text().split("\n")
    assert len(lines) == len(table.rows)
    if not all(ord(c) < 128 for line in lines for c in line):
        return  # places in a string are places on a screen for these alone
    cells = [list(table.columns), *table.cells()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    for line, row in zip([head, *lines], cells, strict=True):
        start = 0
        for width, cell, number in zip(widths, row, table.numeric, strict=True):
            part = line[start : start + width].ljust(width)
            assert part == (cell.rjust(width) if number else cell.ljust(width))
            assert line[start + width : start + width + 2].strip() == ""
            start += width + 2


@given(table=tables())
def test_csv_and_json_give_every_cell_back(table: Table) -> None:
    head, *rows = csv.reader(io.StringIO(table.csv(), newline=""))
    assert head == list(table.columns)
    if len(table.columns) > 1:  # a lone empty cell is an empty line, which readers leave out
        assert rows == [["" if cell is None else plain(str(cell)) for cell in row] for row in table.rows]
    read = json.loads(table.json_text())
    assert [tuple(row.values()) for row in read] == list(table.rows)


@given(table=tables())
def test_markdown_has_the_cells_and_no_others(table: Table) -> None:
    lines = table.markdown().split("\n")
    assert len(lines) == 2 + len(table.rows)
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(table.columns) + 1
    assert [rule.endswith(":") for rule in lines[1].strip("|").split("|")] == list(table.numeric)


def test_latex_escapes_what_it_would_obey() -> None:
    lines = NUMBERS.latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"group         & top1, \% &  n \\"
    assert lines[4] == r"noised\_0.05  &    98.26 & 10 \\"
    assert lines[6].startswith(r"a|b \& c ")
    assert r"\textbackslash{}\{\}\#\$\textasciitilde{}\textasciicircum{}" in Table((r"\{}#$~^",), ()).latex()


def test_control_characters_of_others_are_shown_not_obeyed() -> None:
    table = Table(("file",), (("a\nb\x1b[31m",),))
    for form in ("table", "markdown", "latex"):
        assert "\x1b" not in table.render(form)
    assert table.text() == "file\na\\nb\\x1b[31m"


def test_east_asian_names_take_two_columns_each() -> None:
    rows = Table(("name", "n"), (("原版", 1), ("abcd", 2))).text().splitlines()
    assert rows[1:] == ["原版  1", "abcd  2"]


def test_records_become_rows_in_the_order_of_their_titles() -> None:
    table = Table.of([{"a": 1, "b": "x"}, {"b": "y", "c": 2.0}], {"c": 0})
    assert (table.columns, table.rows) == (("a", "b", "c"), ((1, "x", None), (None, "y", 2.0)))
    assert table.text().splitlines()[2] == "-  y  2"
    assert table.only(["c", "a"]).rows == ((None, 1), (2.0, None))
    assert Table.of([]).text() == ""


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (("a", "a"), (1, 2), "the same title"),
        (("a", "b"), (1,), "a row of 1 cells in a table of 2"),
        (("a",), (float("nan"),), "not finite"),
    ],
)
def test_what_is_no_table_is_refused(columns: tuple[str, ...], row: tuple[Cell, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Table(columns, (row,))


def test_formats_are_named_and_others_refused() -> None:
    assert [NUMBERS.render(form) for form in FORMATS] == [
        NUMBERS.text(), NUMBERS.markdown(), NUMBERS.csv(), NUMBERS.latex(), NUMBERS.json_text()
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no table format named 'cvs'; did you mean csv"):
        NUMBERS.render("cvs")


def test_checkpoints_are_listed_with_their_metrics() -> None:
    metric = Metric(name="top1", value=97.5, n=100, stderr=1.5612)
    about = {"file": "f", "sha256": "0" * 64, "split": "train"}
    entries = [
        Entry(id="a-very-long-name-of-a-checkpoint-0001", seed=2**40, step=7, metrics={"top1": metric}, **about),
        Entry(id="b", seed=1, condition="0100010111", **about),
    ]
    table = checkpoints_table(entries, {})
    assert table.columns == ("id", "split", "seed", "step", "top1, %", "top1 ±", "condition")
    assert table.text().splitlines()[1].split() == [
        "a-very-long-name-of-a-checkpoint-0001", "train", str(2**40), "7", "97.500", "1.561", "-"
    ]  # fmt: skip


def test_recipes_are_listed() -> None:
    tasks = {"digits": {"name": "classification", "model": "mlp", "data": "digits"}}
    tasks["coco"] = {"name": "detection", "size": "base", "data": "coco"}
    found = {name: {"task": task, "checkpoints": 1, "about": None, "hours": None} for name, task in tasks.items()}
    assert [row[2] for row in recipes_table(found).rows] == ["mlp", "base"]
