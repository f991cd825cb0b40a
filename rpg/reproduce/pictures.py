"""The plots of a reproduced figure: lines over its rows, and those that the reports behind it have drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rpg.reports.plots import COLOURS, drawing, laid_out, render
from rpg.reproduce.paper import PaperTable
from rpg.reproduce.plan import Plan
from rpg.reproduce.result import Result
from rpg.reproduce.steps import Reported


def pictures(plan: Plan, result: Result) -> dict[str, bytes]:
    """SVG by name."""
    wanted = plan.table.plots
    found: dict[str, bytes] = {kind: DRAWN[kind](plan.table, result) for kind in wanted if kind in DRAWN}
    reports = [step for step in plan.steps if isinstance(step, Reported)]
    for kind in (kind for kind in wanted if kind not in DRAWN):
        for step in reports:
            path = step.place / "plots" / f"{kind}.svg"
            if path.is_file():  # binary tasks have other plots than one
                found[f"{kind}-{step.name}"] = path.read_bytes()
    return found


def lines(table: PaperTable, result: Result) -> bytes:
    """Every column as a line over the rows, whose titles are numbers."""
    with drawing(3.2) as figure:
        axes = figure.subplots()
        colours, texts = [*COLOURS["generated"], *COLOURS["original"], *COLOURS["baseline"]], []
        for number, column in enumerate(table.columns):
            if points := _numbers(result, column):
                x, y = [float(row) for row in points], list(points.values())
                axes.plot(x, y, color=colours[number % len(colours)], marker="o", markersize=4, label=column)
                texts.append(f"{column} goes from {y[0]:.3g} to {y[-1]:.3g}")
        axes.grid(True)
        axes.set(xlabel=table.rows_are, ylabel=table.unit)
        axes.legend()
        return render(laid_out("lines", figure, f"{table.title}: {'; '.join(texts)}."), "svg")


def bars(table: PaperTable, result: Result) -> bytes:
    """A panel for each column, in it a bar for each row that has a number."""
    with drawing(0.9 + 0.35 * len(table.rows)) as figure:
        panels = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
        texts = []
        for axes, column in zip(panels, table.columns, strict=True):
            found = _numbers(result, column)
            drawn = axes.barh(list(found), list(found.values()), color=COLOURS["generated"][0], height=0.6)
            axes.bar_label(drawn, fmt="%.3g", padding=3)
            axes.margins(x=0.18)
            axes.set(xlabel=column)
            said = ", ".join(f"{row} {value:.3g}" for row, value in found.items())
            texts.append(f"{column}: {said or 'nothing'}")
        panels[0].invert_yaxis()
        return render(laid_out("bars", figure, f"{table.title}: {'; '.join(texts)}."), "svg")


def _numbers(result: Result, column: str) -> dict[str, float]:
    """The values of a column's cells that are numbers, by row."""
    return {cell.row: cell.value for cell in result.cells if cell.column == column and isinstance(cell.value, float)}


DRAWN: Mapping[str, Callable[[PaperTable, Result], bytes]] = {"lines": lines, "bars": bars}
"""Plots of the table's own numbers."""
