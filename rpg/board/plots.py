"""The board's own plots: accuracy against distance over methods, and a tensor's histogram and heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rpg.board.tensors import Summary
from rpg.reports.compare import Group, Scoring
from rpg.reports.plots import GUIDE, NEAREST, Plot, add_guides, draw_points, drawing, label, laid_out, marks, scatter
from rpg.reports.verdict import headline_metric

COLOUR = "#0072B2"  # as that of originals in reports


def accuracy_plot(groups: Sequence[Group], scoring: Scoring) -> Plot:
    """Mean accuracy against the median distance to the nearest training checkpoint, a mark per group. No two groups
    have the same name; all were scored as `scoring` says.
    """
    drawn = marks(groups)
    with scatter(len(groups)) as figure:
        axes = figure.subplots()
        titles: dict[str, list[str]] = {}
        for number, group in enumerate(groups):
            ratio, accuracy = float(np.median(group.nearest_ratio)), headline_metric(scoring, group).mean
            said = f"{group.name}: {scoring.headline} {accuracy:.2f} on average, distance {ratio:.2f} (median)"
            place, full = np.array([max(ratio, NEAREST)]), np.zeros(1, dtype=bool)
            style = drawn[group.name], label(group.name), f"marks-{number}"
            titles |= draw_points(axes, place, np.array([accuracy]), full, *style, [[said]])
        add_guides(axes, scoring.chance, 1)
        axes.set(xscale="log", xlabel="distance to the nearest training checkpoint, ratio")
        axes.set_ylabel(f"{scoring.headline}, %")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        text = "Mean accuracy of each group against its median distance to the nearest training checkpoint."
        return laid_out("accuracy", figure, text, titles)


def histogram_plot(name: str, summary: Summary) -> Plot:
    """How a tensor's finite values are distributed."""
    with drawing(2.6) as figure:
        axes = figure.subplots()
        axes.stairs(summary.counts, summary.edges, fill=True, color=COLOUR)
        axes.axvline(summary.mean, **GUIDE)
        axes.set(xlabel="value", ylabel="values")
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        text = f"Histogram of {summary.count} values of {name}, from {summary.low:.4g} to {summary.high:.4g}."
        return laid_out("histogram", figure, text)


def heat_plot(name: str, summary: Summary) -> Plot:
    """A tensor as a matrix of colours, zero in the middle."""
    height, width = summary.cells.shape
    finite = np.abs(summary.cells[np.isfinite(summary.cells)])
    largest = float(finite.max(initial=0.0)) or 1.0
    with drawing(min(4.6, max(1.3, 4.2 * height / width))) as figure:
        axes = figure.subplots()
        image = axes.imshow(summary.cells, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto",
                            interpolation="nearest")  # fmt: skip
        axes.set(xticks=[], yticks=[], xlabel="all other axes", ylabel="first axis")
        figure.colorbar(image)
        return laid_out("heat", figure, f"Values of {name}, first axis down, other axes across.")
