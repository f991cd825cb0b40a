"""The plots of reports, as files: SVG for pages, PNG and PDF for papers; those of binary tasks are in
rpg.reports.task_plots.

In SVG, text and axes take the ink of the page, light or dark. The same input gives the same bytes: no date, no library
version, no random identifiers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpg.reports.compare import Comparison, Group, Kind, Scoring
from zoo.derive.worth import Behaviour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("barrier", "loss", "similarity", "distance", "head", "picture")
FORMS = ("svg", "png", "pdf")
WIDTH = 5.2  # inches; pages scale it
INK = "#010203"  # stands for the page's text colour, which SVG calls currentColor
NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'
INK_STYLE = """\
<style>
.ink { color: #1d2125 }
@media (prefers-color-scheme: dark) { .ink { color: #e4e6e7 } }
</style>"""
"""The page's colours (templates/style.css), for a file that stands alone."""

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
LINES = ("solid", "dashed", "dotted", "dashdot")  # of curves, when all colours are used
LEGEND_COLUMNS = 3
LONGEST = 30  # characters of a group's name in a plot
MOST_NAMES = 5  # in the title of a mark
TWO_DECADES = 100
NOISED = "noised"  # how the names of noised copies begin (rpg.reports.stage)
NEAREST = 1e-4  # of the yardstick: what is nearer is a copy, and drawn there


class Mark(NamedTuple):
    """How a group is drawn, the same in all plots."""

    colour: str
    marker: str
    size: float = 6
    layer: int = 5


# After Okabe and Ito, for colour-blind readers, but dark enough for a light page and light enough for a dark one (3:1).
# Originals are cold, generators warm and on top, baselines paler.
# Numbers of colours and markers have no common factor, so a kind's groups differ until all pairs of them are used.
COLOURS: dict[Kind, tuple[str, ...]] = {
    "original": ("#0072B2",),
    "heldout": ("#009E73",),
    "generated": ("#D55E00", "#C2408A", "#A5682A"),
    "reconstructed": ("#56789C",),
    "baseline": ("#CC79A7", "#B98100", "#8C8C8C", "#3A92CC", "#8F5BB0", "#8C8529", "#5F5FA8"),
}
MARKERS: dict[Kind, str] = {
    "original": "o",
    "heldout": "s",
    "generated": "Dph8",
    "reconstructed": "Hv<>",
    "baseline": "^*XPv<>d",
}
SIZES = {"o": 4.5, "s": 5, "^": 5, "v": 5, "<": 5, ">": 5, "*": 10}
LAYERS: dict[Kind, int] = {"original": 3, "heldout": 4, "generated": ON_TOP, "reconstructed": 5, "baseline": 5}


class Plot(NamedTuple):
    """A drawing, by the name of its files (one of NAMES), and what it shows, for those who cannot see it."""

    name: str
    figure: Figure
    description: str
    titles: Mapping[str, Sequence[str]] = MappingProxyType({})
    """What its marks are, in their order, by the gid of the line that they belong to."""


def marks(groups: Sequence[Group]) -> dict[str, Mark]:
    """The mark of each group, by name."""
    found = {}
    for kind in COLOURS:
        for i, group in enumerate(one for one in groups if one.kind == kind):
            found[group.name] = kind_mark(kind, i)
    return found


def kind_mark(kind: Kind, number: int = 0) -> Mark:
    """The mark of a kind's group by its number among them."""
    marker = MARKERS[kind][number % len(MARKERS[kind])]
    return Mark(COLOURS[kind][number % len(COLOURS[kind])], marker, SIZES.get(marker, 6), LAYERS[kind])


def check_forms(forms: Sequence[str]) -> None:
    """Raise ValueError for a format that plots cannot have."""
    if unknown := [form for form in forms if form not in FORMS]:
        raise ValueError(f"no plot format named {unknown[0]!r}; expected {', '.join(FORMS)}")


def render(plot: Plot, form: str) -> bytes:
    """The plot as a file of one of FORMS."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata: dict[str, Any] = {
        "svg": {"Date": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[form]
    with rc_context(STYLE):
        plot.figure.savefig(buffer, format=form, transparent=form == "svg", dpi=72 if form == "svg" else 300,
                            metadata=metadata)  # fmt: skip
    return _svg(buffer.getvalue().decode(), plot).encode() if form == "svg" else buffer.getvalue()


def _svg(text: str, plot: Plot) -> str:
    """An <svg> that stands alone as well as in a page: no prolog, no metadata, scalable, in the page's font and ink.
    Every mark says what it is.
    """
    body = text[text.index("<defs>") : text.rindex("</svg>")]
    for gid, titles in plot.titles.items():
        body = _titled(body, gid, titles)
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view
    body = re.sub(r'<g id="[^"]+"', "<g", body)  # not unique within a page; nothing refers to them
    body = body.replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui")
    body = re.sub(r"\n\s*", "\n", body).replace(INK, "currentColor")
    head = f'<svg{NAMESPACE} class="ink" viewBox="{view[1]}" role="img" aria-label="{escape(plot.description)}">'
    return f"{head}\n{INK_STYLE}\n{body}</svg>\n"


def _titled(body: str, gid: str, titles: Sequence[str]) -> str:
    """The SVG with a <title> for each mark of a line, which viewers show where the pointer rests."""
    start = body.index(f'<g id="{gid}">')
    waiting = iter(titles)

    def titled(use: re.Match[str]) -> str:
        return f"<use {use[1]}><title>{escape(next(waiting))}</title></use>"

    named, count = re.subn(r"<use ([^>]*[^>/])/>", titled, body[start:], count=len(titles))
    assert count == len(titles)
    return body[:start] + named


def inline(svg: bytes) -> str:
    """The content of an SVG file as an element of an HTML page, which knows the namespace."""
    return svg.decode().replace(NAMESPACE, "", 1)


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """A figure so many inches high to draw on, in our style, which holds inside the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def scatter(groups: int) -> AbstractContextManager[Figure]:
    """A figure for points of so many groups, with room for their legend below (`add_guides`)."""
    return drawing(4.0 + 0.2 * -(-groups // LEGEND_COLUMNS))


def add_guides(axes: Any, chance: float | None, yardstick: float) -> None:
    """Lines at chance, if it is to be seen, and at the yardstick; a grid; the legend of all below."""
    if chance is not None:
        axes.axhline(chance, label="chance", zorder=1, **{**GUIDE, "linestyle": (0, (1, 2))})
    axes.axvline(yardstick, label="yardstick", zorder=1, **GUIDE)
    axes.grid(True)
    below = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.17), "borderaxespad": 0}
    axes.legend(ncols=LEGEND_COLUMNS, handletextpad=0.4, columnspacing=1.2, **below)


def laid_out(
    name: str, figure: Figure, description: str, titles: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Plot:
    """The plot, its layout decided once for all formats: matplotlib would do it again for each, on top of the last."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Plot(name, figure, description, titles)


def label(name: str) -> str:
    """A group's name as matplotlib shows it literally: not as mathematics, and not hidden for a leading underscore."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return ("\u2009" if short.startswith("_") else "") + short.replace("$", r"\$")


def loss_plot(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Plot:
    """Training losses by step, logarithmic, each with its running mean over a 25th of the curve.

    `curves` are (step, loss) by name of the generator; none is empty, losses are positive.
    """
    with drawing(2.8) as figure:
        axes = figure.subplots()
        texts = []
        for number, (name, losses) in enumerate(curves.items()):
            steps, values = np.array([step for step, _ in losses]), np.array([loss for _, loss in losses])
            colour = kind_mark("generated", number).colour
            line = LINES[number // len(COLOURS["generated"]) % len(LINES)]
            pale = kind_mark("original").colour if len(curves) == 1 else colour
            window = max(1, len(values) // 25)
            axes.plot(steps, values, color=pale, alpha=0.35, linewidth=0.8, label="loss" if len(curves) == 1 else None)
            mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
            middle = steps[(window - 1) // 2 :][: len(mean)]
            text = f"mean of {window} records" if len(curves) == 1 else label(name)
            if window > 1 or len(curves) > 1:
                axes.plot(middle, mean, color=colour, linestyle=line, linewidth=1.8, label=text)
            texts.append(f"of {name} goes from {values[0]:.3g} to {values[-1]:.3g} in {steps[-1]} steps")
        for handle in axes.legend().get_lines():
            handle.set_alpha(1)  # a pale line is hard to see, alone on a dark page
        axes.set(yscale="log", xlabel="training step", ylabel="loss")
        axes.grid(True, which="both", axis="y")
        return laid_out("loss", figure, f"Training loss {'; '.join(texts)}.")


def barrier_plot(worth: Behaviour) -> Plot:
    """Mean loss at equal steps along the line from one network to another, as they were and aligned."""
    with drawing(2.8) as figure:
        axes = figure.subplots()
        for name, line, mark in (
            ("raw", worth.raw_line, kind_mark("baseline")),
            ("aligned", worth.aligned_line, kind_mark("generated")),
        ):
            axes.plot(np.linspace(0, 1, len(line)), line, color=mark.colour, label=name, marker="o", markersize=3)
        axes.legend()
        axes.set(xlabel="from one original to another", ylabel="loss")
        axes.grid(True, axis="y")
        raw, aligned = worth.barrier.raw, worth.barrier.aligned
        text = f"Loss between two originals: it rises by {raw:.3g} above the line, after alignment by {aligned:.3g}."
        return laid_out("barrier", figure, text)


def sweep_plot(key: str, lines: Mapping[str, Sequence[tuple[float, float]]], memory: float | None) -> Plot:
    """Memory in GB over a setting, both logarithmic: (value, GB) by name of the line, and `memory` of the device."""
    with drawing(2.8) as figure:
        axes = figure.subplots()
        texts = []
        for number, (name, points) in enumerate(lines.items()):
            values, needed = zip(*points, strict=True)
            axes.plot(values, needed, color=kind_mark("generated", number).colour, marker="o", markersize=4, label=name)
            texts.append(f"{name} it goes from {needed[0]:.3g} to {needed[-1]:.3g} GB")
        if memory is not None:
            axes.axhline(memory, **GUIDE)
        axes.legend()
        axes.set(xscale="log", yscale="log", xlabel=label(key), ylabel="memory of training in GB")
        axes.grid(True, which="both", axis="y")
        return laid_out("sweep", figure, f"Memory of training over {key}: {'; '.join(texts)}.")


def similarity_plot(comparison: Comparison, scoring: Scoring) -> Plot:
    """Accuracy against the largest error-IoU with a training checkpoint, a point per network (paper, figure 9).

    The accuracy axis is cut a little below the originals and the generated networks; what lies deeper is drawn
    hollow, at its edge.
    """
    floor = _floor(comparison)
    with scatter(len(comparison.groups)) as figure:
        axes = figure.subplots()
        drawn, titles = marks(comparison.groups), dict[str, list[str]]()
        for number, group in enumerate(comparison.groups):
            iou, accuracy = np.array(group.scored.max_error_iou), np.array(group.scored.accuracy)
            places, names = together(iou, accuracy, _said(group, scoring))
            x, y = np.array(places).T
            style = drawn[group.name], label(group.name), f"marks-{number}"
            titles |= draw_points(axes, x, np.maximum(y, floor), y < floor, *style, names)
        _shade(axes, comparison.groups, floor)
        chance = scoring.chance if scoring.chance is not None and scoring.chance > floor else None
        add_guides(axes, chance, scoring.leave_one_out_iou)
        axes.set(xlabel="largest error-IoU with a training checkpoint", ylabel=f"{scoring.headline}, %")
        text = "Accuracy of every network against its likeness to the nearest training checkpoint."
        return laid_out("similarity", figure, text, titles)


def _shade(axes: Any, groups: Sequence[Group], floor: float) -> None:
    """Shade the range of noised copies: between the lowest and the highest accuracy of each amount of noise, over their
    mean likeness, and straight from one to the next.
    """
    ranges = sorted(
        (float(np.mean(group.scored.max_error_iou)), min(group.scored.accuracy), max(group.scored.accuracy))
        for group in groups
        if group.kind == "baseline" and group.name.startswith(NOISED)
    )
    if len(ranges) > 1:
        iou, low, high = np.maximum(np.array(ranges).T, [[0.0], [floor], [floor]])
        axes.fill_between(iou, low, high, color=INK, alpha=0.1, linewidth=0, zorder=1, label="range of noise")


def _said(group: Group, scoring: Scoring) -> list[str]:
    """What each network of a group is, and its numbers."""
    behaviour = group.scored
    numbers = zip(group.ids, behaviour.accuracy, behaviour.max_error_iou, group.nearest_ratio, strict=True)
    return [
        f"{group.name}, {id}: {scoring.headline} {accuracy:.2f}, error-IoU {iou:.3f}, distance {ratio:.2f}"
        for id, accuracy, iou, ratio in numbers
    ]


def together(
    x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64], names: Sequence[str]
) -> tuple[list[tuple[float, float]], list[list[str]]]:
    """The places where points lie, in the order of the first at each, and the names of all that lie there."""
    found: dict[tuple[float, float], list[str]] = {}
    for one, other, name in zip(x, y, names, strict=True):
        found.setdefault((float(one), float(other)), []).append(name)
    return list(found), list(found.values())


def draw_points(
    axes: Any,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    hollow: NDArray[np.bool_],
    mark: Mark,
    name: str,
    gid: str,
    names: Sequence[Sequence[str]],
) -> dict[str, list[str]]:
    """Draw a group's places; beside those of several networks stands how many. Titles of the marks, by gid."""
    style = {"linestyle": "none", "marker": mark.marker, "markersize": mark.size, "zorder": mark.layer}
    rim = "white" if mark.layer >= ON_TOP else mark.colour
    full = {"markeredgecolor": rim, "markeredgewidth": 0.6, "label": name, "gid": gid}
    axes.plot(x[~hollow], y[~hollow], color=mark.colour, **full, **style)
    below = {"fillstyle": "none", "clip_on": False, "gid": f"{gid}-below"}
    if hollow.any():  # nothing would count in the layout, at the figure's corner
        axes.plot(x[hollow], y[hollow], color=mark.colour, **below, **style)
    for place, here in zip(zip(x, y, strict=True), names, strict=True):
        if len(here) > 1:
            offset = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 7}
            axes.annotate(f"×{len(here)}", place, color=mark.colour, zorder=ON_TOP + 1, **offset)
    titles = {
        key: [_title(here) for here, at_edge in zip(names, hollow, strict=True) if at_edge == edge]
        for key, edge in ((gid, False), (f"{gid}-below", True))
    }
    return {key: found for key, found in titles.items() if found}


def _title(here: Sequence[str]) -> str:
    """What lies at a place: the networks' names, of many the first."""
    more = [f"and {len(here) - MOST_NAMES} more here"] if len(here) > MOST_NAMES else []
    return "\n".join([*here[:MOST_NAMES], *more])


def _floor(comparison: Comparison) -> float:
    """Where the accuracy axis ends: two ranges of the groups of interest below them."""
    shown = [group for group in comparison.groups if group.kind in ("original", "heldout", "generated")]
    accuracy = [value for group in shown for value in group.scored.accuracy]
    return min(accuracy) - 2 * max(1.0, max(accuracy) - min(accuracy))


def distance_plot(comparison: Comparison) -> Plot:
    """Distributions of the distance to the nearest training checkpoint over the yardstick, a row per
    group, with the same bins: a group left of the originals lies closer to them than they lie to one another.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    groups, drawn = comparison.groups, marks(comparison.groups)
    bins, log = _bins(np.concatenate([group.nearest_ratio for group in groups]))
    with drawing(0.8 + 0.42 * len(groups)) as figure:
        rows = figure.subplots(len(groups), sharex=True, squeeze=False)[:, 0]
        for axes, group in zip(rows, groups, strict=True):
            ratio = np.maximum(group.nearest_ratio, bins[0])
            share = np.full(len(ratio), 1 / len(ratio))
            axes.hist(ratio, bins=bins, weights=share, color=drawn[group.name].colour)
            axes.axvline(1, **GUIDE)
            axes.set(yticks=[], xscale="log" if log else "linear", xlim=(bins[0], bins[-1]))
            axes.set_ylabel(label(group.name), rotation=0, ha="right", va="center")
            axes.spines["left"].set_visible(False)
            axes.grid(True, axis="x")
            axes.set_axisbelow(True)
            axes.tick_params(bottom=axes is rows[-1], which="both")
        rows[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if log:
            few = bins[-1] / bins[0] < TWO_DECADES
            rows[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
            rows[-1].xaxis.set_minor_formatter(NullFormatter())
        rows[-1].set_xlabel("distance to the nearest training checkpoint, ratio")
        text = "Distance to the nearest training checkpoint, by group, over the yardstick."
        return laid_out("distance", figure, text)


def _bins(ratios: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """40 bins for all groups, and whether they are logarithmic: when the largest is over 8 times the smallest.

    However far a group lies, the others stay where they are; copies (0, or below NEAREST) fall into the first bin.
    """
    high = max(float(ratios.max()), 1.0) * 1.02
    positive = ratios[ratios > 0]
    low = max(float(positive.min(initial=1.0)) * 0.98, NEAREST)
    if high / low > 8:
        return np.geomspace(low, high, 41), True
    return np.linspace(0, high, 41), False
