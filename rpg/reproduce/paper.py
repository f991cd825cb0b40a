"""The paper as data: `recipes/tables/*.yaml`, a file for each table and figure.

A table is a grid. What a cell shows follows from what `base`, its column and its row say of it, merged in this order:
`set` and `generate` add up, the rest overrides. With `--small` the same grid is filled by small networks of the same
families: what `small` says of the base, a column or a row takes the place of what stands above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from zoo.errors import brief, suggest
from zoo.names import table_names
from zoo.recipe import validate
from zoo.structure import Frozen

Show = Literal[
    "parameters",
    "original",
    "generated",
    "noised",
    "decline",
    "decline of noise",
    "sensitivity",
    "likeness",
    "swapped",
    "training hours",
    "training memory",
    "generating minutes",
    "generating memory",
    "estimated memory",
]
"""What a cell can show (rpg.reproduce.measures)."""
NOT_RUN = ("OOM", "–")
"""Printed where the paper has no result; such cells are not run."""
Printed = float | int | str | None
Line = Annotated[str, Field(min_length=1, max_length=600)]


class Spec(Frozen):
    """What is said of a cell; nothing is required of a part of it.

    `recipe`, and settings of a `method` for another than the recipe's own; overrides as for `--set`; `generate` are
    settings of drawing. Of scores: which `metric` (the task's main one) and which `statistic` over networks (`best 3`:
    evaluators.metrics.best_3); of binary tasks `tasks` to generate for (`all`: every one), the `condition` shown (all,
    where none is), the data set's class `of_class`. `sigma` is of noise, in deviations of each tensor; `share`,
    `parts` and `between` of exchanged parts (zoo.derive.swap); `values` of a network that is estimated without a
    recipe.
    """

    show: Show | None = None
    recipe: str | None = None
    method: str | None = None
    set: tuple[str, ...] = ()
    generate: dict[str, JsonValue] = Field(default_factory=dict)
    metric: str | None = None
    statistic: Literal["best", "best 3", "mean", "median", "min", "std"] | None = None
    tasks: tuple[str, ...] | Literal["all"] = ()
    condition: str | None = None
    of_class: int | None = None
    sigma: PositiveFloat | None = None
    share: PositiveFloat | None = None
    parts: Literal["layer", "random"] | None = None
    between: Literal["run", "seeds", "aligned"] | None = None
    values: PositiveInt | None = None

    def under(self, other: Spec) -> Spec:
        """This, with what another says over it."""
        told: dict[str, Any] = {name: getattr(other, name) for name in other.model_fields_set}
        told["set"] = (*self.set, *other.set)
        told["generate"] = {**self.generate, **other.generate}
        return Spec(**{**{name: getattr(self, name) for name in self.model_fields_set}, **told})


class Small(Frozen):
    """What takes the place of the table's base, columns and rows with `--small`, and what that changes."""

    base: Spec | None = None
    columns: dict[str, Spec] = Field(default_factory=dict)
    rows: dict[str, Spec] = Field(default_factory=dict)
    differs: Line


class PaperTable(Frozen):
    """One table or figure.

    `unit` is of its values; `rows_are` says what its rows are, where they are numbers. `printed` are the paper's values
    by row, one for each column, exactly as printed (a figure without numbers has none); `digits` how many it prints
    after the point. `plots` go with it: `lines`, one for each column over numbers that name the rows, `bars`, a panel
    for each column with a bar for each row, and those of reports (rpg.reports.plots). `differs` says what is otherwise
    than in the paper. `small` is a reason where there is no small version.
    """

    title: Line
    section: Line
    unit: Line
    rows_are: str = ""
    digits: Annotated[int, Field(ge=0, le=4)] = 1
    base: Spec = Spec()
    columns: Annotated[dict[str, Spec], Field(min_length=1)]
    rows: Annotated[dict[str, Spec], Field(min_length=1)]
    printed: dict[str, tuple[Printed, ...]] = Field(default_factory=dict)
    plots: tuple[Literal["lines", "bars", "similarity", "head", "picture"], ...] = ()
    differs: Line
    small: Small | Line

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for row, values in self.printed.items():
            if row not in self.rows:
                raise ValueError(f"printed has a row {row!r}, which the table has not{suggest(row, self.rows)}")
            if len(values) != len(self.columns):
                raise ValueError(f"printed row {row!r} has {len(values)} values for {len(self.columns)} columns")
        if isinstance(self.small, Small):
            for what, given, known in (
                ("column", self.small.columns, self.columns),
                ("row", self.small.rows, self.rows),
            ):
                if unknown := set(given) - set(known):
                    raise ValueError(f"small has a {what} {min(unknown)!r}, which the table has not")
        if "lines" in self.plots and (words := [row for row in self.rows if not row.replace(".", "", 1).isdecimal()]):
            raise ValueError(f"lines are drawn over rows that are numbers; {words[0]!r} is none")
        for cell in self.cells(small=False).values():
            if cell.show is None:
                raise ValueError("a cell does not say what it shows; expected show in its row, its column or the base")
            if cell.statistic == "best 3" and cell.condition is not None:
                raise ValueError(f"best 3 is not known of one task ({cell.condition}); expected another statistic")
        return self

    def cells(self, small: bool, rows: Sequence[str] = ()) -> dict[tuple[str, str], Spec]:
        """What each cell shows, by row and column; of all rows, or of some. Raises ValueError for a row that is not
        there, and where there is no small version.
        """
        for row in rows:
            if row not in self.rows:
                raise ValueError(f"there is no row {row!r} in {self.title!r}{suggest(row, self.rows)}")
        over = self.small if small else None
        if isinstance(over, str):
            raise ValueError(f"{self.title!r} has no small version: {over}")
        base, columns, row_specs = self.base, self.columns, self.rows
        if over is not None:
            base, columns, row_specs = over.base or base, columns | over.columns, row_specs | over.rows
        return {
            (row, column): base.under(columns[column]).under(row_specs[row])
            for row in (rows or self.rows)
            for column in self.columns
        }

    def heading(self, small: bool) -> str:
        """The title, which says of a small version that it is one."""
        number, _, text = self.title.partition(": ")
        return f"{number} in small: {text}" if small else self.title

    def print_of(self, row: str, column: str) -> Printed:
        """What the paper prints in a cell; nothing in a figure without numbers."""
        if row not in self.printed:
            return None
        return self.printed[row][self._columns.index(column)]

    @cached_property
    def _columns(self) -> list[str]:
        return list(self.columns)


def load_table(name: str) -> PaperTable:
    """The table or figure of this name. Raises ValueError for an unknown one, and for a file that is not valid."""
    names = table_names()
    if name not in names:
        raise ValueError(f"no table or figure named {name!r}{suggest(name, names)}")
    return read_table(names[name])


def read_table(path: Path) -> PaperTable:
    """The table in a file. Raises ValueError, in one line, for one that is not valid."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {brief(error)}") from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} is no table: expected title, columns, rows and so on")
    return validate(PaperTable, _texts(tree), f"table {path.stem}: ")


def _texts(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Titles of rows and columns as text, which YAML may have read as numbers."""
    found = {str(key): value for key, value in tree.items()}
    for key in ("columns", "rows", "printed"):
        if isinstance(found.get(key), Mapping):
            found[key] = {str(title): value for title, value in found[key].items()}
    if isinstance(found.get("small"), Mapping):
        found["small"] = _texts(found["small"])
    return found
