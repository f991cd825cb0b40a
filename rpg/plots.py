"""The report's plots, as SVG to put into an HTML page. The only file that draws.

Text and axes take the page's own colour, so the plots work on light and dark pages. The same input gives the same
bytes: no date, no library version, no random identifiers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from rpg.compare import Comparison, Group
from rpg.tasks import Picture

WIDTH = 5.2  # inches; the page scales it
INK = "#010203"  # stands for the page's text colour, which SVG calls currentColor
GUIDE: dict[str, Any] = {"color": INK, "alpha": 0.55, "linewidth": 0.9, "linestyle": (0, (4, 3))}
STYLE = {
    "figure.dpi": 72,  # SVG's: at another the layout is measured wrongly
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "rpg-zoo",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
ON_TOP = 8  # layers from here on get a white rim


class Mark(NamedTuple):
    """How a group is drawn, the same in all plots. Colours after Okabe and Ito: safe for colour-blind readers."""

    colour: str
    marker: str
    size: float
    layer: int = 2


MARKS = {
    "original": Mark("#0072B2", "o", 4.5, 3),
    "heldout": Mark("#009E73", "s", 5, 4),
    "generated": Mark("#D55E00", "D", 6, ON_TOP + 1),
    "mean_of_all": Mark("#E69F00", "*", 11, ON_TOP),
    "average": Mark("#56B4E9", "P", 6, 5),
    "gaussian": Mark("#8C8C8C", "X", 6, 5),
}
NOISE_COLOURS = ("#CC79A7", "#A85C88", "#7F4A9E", "#5F5FA8")  # one for each level, in turn
NOISE_MARKERS = ("^", "v", "<", ">")


def marks(groups: Sequence[Group]) -> dict[str, Mark]:
    """The mark of each group, by name. Noise levels get their own in their order."""
    noised = [group.name for group in groups if group.name.startswith("noised")]
    found = {name: Mark(NOISE_COLOURS[i % 4], NOISE_MARKERS[i % 4], 5) for i, name in enumerate(noised)}
    for group in groups:
        if group.name not in found:
            found[group.name] = MARKS.get(group.name) or MARKS["average"]
    return found


def label(name: str) -> str:
    """A group's name for people: `mean_of_all` -> `mean of all`."""
    return name.replace("_", " ")


def loss_plot(losses: Sequence[tuple[int, float]]) -> str:
    """Training loss by step, logarithmic, with its running mean over a 25th of the curve.

    `losses`: (step, loss), not empty, losses positive.
    """
    steps, values = np.array([step for step, _ in losses]), np.array([loss for _, loss in losses])
    window = max(1, len(values) // 25)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color=MARKS["original"].colour, alpha=0.35, linewidth=0.8, label="loss")
        if window > 1:
            mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
            middle = steps[(window - 1) // 2 :][: len(mean)]
            axes.plot(middle, mean, color=MARKS["generated"].colour, linewidth=1.8, label=f"mean of {window} records")
            axes.legend()
        axes.set(yscale="log", xlabel="training step", ylabel="loss")
        axes.grid(True, which="both", axis="y")
        return _svg(figure, f"Training loss goes from {values[0]:.3g} to {values[-1]:.3g} in {steps[-1]} steps.")


def similarity_plot(comparison: Comparison) -> str:
    """Accuracy against the largest error-IoU with a training checkpoint, a point per network (paper, figure 9).

    The accuracy axis is cut a little below the originals and the generated networks; what lies deeper is drawn
    hollow, at its edge.
    """
    floor = _floor(comparison)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        axes = figure.subplots()
        drawn = marks(comparison.groups)
        for group in comparison.groups:
            iou, accuracy = np.array(group.max_error_iou), np.array(group.accuracy)
            _points(axes, iou, np.maximum(accuracy, floor), accuracy < floor, drawn[group.name], label(group.name))
        axes.axvline(comparison.leave_one_out_iou, label="yardstick", zorder=1, **GUIDE)
        axes.set(xlabel="largest error-IoU with a training checkpoint", ylabel=f"{comparison.headline}, %")
        axes.grid(True)
        below = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.17), "borderaxespad": 0}
        axes.legend(ncols=3, handletextpad=0.4, columnspacing=1.2, **below)
        return _svg(figure, "Accuracy of every network against its likeness to the nearest training checkpoint.")


def _points(
    axes: Any, x: NDArray[np.float64], y: NDArray[np.float64], hollow: NDArray[np.bool_], mark: Mark, name: str
) -> None:
    style = {"linestyle": "none", "marker": mark.marker, "markersize": mark.size, "zorder": mark.layer}
    rim = "white" if mark.layer >= ON_TOP else mark.colour
    axes.plot(x[~hollow], y[~hollow], color=mark.colour, markeredgecolor=rim, markeredgewidth=0.6, label=name, **style)
    axes.plot(x[hollow], y[hollow], color=mark.colour, fillstyle="none", clip_on=False, **style)


def _floor(comparison: Comparison) -> float:
    """Where the accuracy axis ends: two ranges of the groups of interest below them."""
    shown = [group for group in comparison.groups if group.name in ("original", "heldout", "generated")]
    accuracy = [value for group in shown for value in group.accuracy]
    return min(accuracy) - 2 * max(1.0, max(accuracy) - min(accuracy))


def distance_plot(comparison: Comparison) -> str:
    """Distributions of the distance to the nearest training checkpoint over the yardstick, a row per
    group, with the same bins: a group left of the originals lies closer to them than they lie to one another.
    """
    groups = comparison.groups
    bins, log = _bins(np.concatenate([group.nearest_ratio for group in groups]))
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.42 * len(groups)), layout="constrained")
        rows = figure.subplots(len(groups), sharex=True, squeeze=False)[:, 0]
        for axes, group in zip(rows, groups, strict=True):
            ratio = np.clip(group.nearest_ratio, bins[0], bins[-1])
            share = np.full(len(ratio), 1 / len(ratio))
            axes.hist(ratio, bins=bins, weights=share, color=marks(groups)[group.name].colour)
            axes.axvline(1, **GUIDE)
            axes.set(yticks=[], xscale="log" if log else "linear")
            axes.set_ylabel(label(group.name), rotation=0, ha="right", va="center")
            axes.spines["left"].set_visible(False)
            axes.grid(True, axis="x")
            axes.set_axisbelow(True)
            axes.tick_params(bottom=axes is rows[-1], which="both")
        rows[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if log:
            rows[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            rows[-1].xaxis.set_minor_formatter(NullFormatter())
        rows[-1].set_xlabel("distance to the nearest training checkpoint, ratio")
        return _svg(figure, "Distance to the nearest training checkpoint, by group, over the yardstick.")


def _bins(ratios: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """40 bins for all groups, and whether they are logarithmic: when the largest is over 8 times the smallest.

    A logarithmic axis spans four decades at most; exact copies (0) fall into its first bin.
    """
    high = max(float(ratios.max()), 1.0) * 1.02
    positive = ratios[ratios > 0]
    low = max(float(positive.min(initial=1.0)) * 0.98, high * 1e-4)
    if high / low > 8:
        return np.geomspace(low, high, 41), True
    return np.linspace(0, high, 41), False


def head_plot(points: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Networks along two principal components: `original` of seen tasks, `heldout` and `generated` of the others."""
    names = {"original": "original, seen", "heldout": "original, unseen", "generated": "generated"}
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        axes = figure.subplots()
        for name, own in points.items():
            mark, (x, y) = MARKS[name], np.array(own).T
            rim = "white" if mark.layer >= ON_TOP else mark.colour
            style: dict[str, Any] = {
                "markersize": mark.size,
                "markeredgecolor": rim,
                "markeredgewidth": 0.6,
                "zorder": mark.layer,
            }
            axes.plot(x, y, color=mark.colour, marker=mark.marker, linestyle="none", label=names[name], **style)
        axes.set(xlabel="first principal component", ylabel="second")
        axes.grid(True)
        axes.legend()
        return _svg(figure, "Head weights of all networks along their first two principal components.")


def picture_plot(rows: Sequence[Picture]) -> str:
    """Weights as colours, a row per network; rows of a task and a group lie together."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.2 * len(rows)), layout="constrained")
        axes = figure.subplots()
        mesh = axes.pcolormesh(np.array([row.values for row in rows]), cmap="RdBu", vmin=-3, vmax=3)
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{row.condition} {row.group}" for row in rows], fontsize=7)
        axes.set_xlabel("weights of the head")
        figure.colorbar(mesh, label="standard deviations")
        return _svg(figure, "Head weights of original and generated networks of some tasks.")


def _svg(figure: Figure, description: str) -> str:
    """The figure as an <svg> element for HTML: no prolog, no metadata, scalable, the page's font and text colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view
    body = re.sub(r'<g id="[^"]+"', "<g", body)  # not unique within a page; nothing refers to them
    body = re.sub(r"\n\s*", "\n", body).replace(INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
    return f'<svg viewBox="{view[1]}" role="img" aria-label="{escape(description)}">\n{body}</svg>\n'
