"""The plots of reports on binary tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rpg.reports.compare import Kind
from rpg.reports.plots import COLOURS, Mark, Plot, draw_points, drawing, kind_mark, laid_out, together
from rpg.reports.tasks import HeadPoint, Picture

HEAD_TASKS = 7  # at most; as many as there are colours of baselines

PANELS = 0.72  # of the width; the rest is for legends


def head_plot(points: Mapping[str, Sequence[HeadPoint]]) -> Plot:
    """Networks along two principal components: all of them, `original` of seen tasks, `heldout` and `generated` of the
    others; and below those of some unseen tasks, a colour for each.
    """
    unseen = list(dict.fromkeys(condition for condition, *_ in points.get("heldout", ())))[:HEAD_TASKS]
    titles: dict[str, list[str]] = {}
    with drawing(6.4 if unseen else 3.4) as figure:
        figure.set_layout_engine("constrained", rect=(0, 0, PANELS, 1))
        panels = figure.subplots(2 if unseen else 1, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        titles |= _all_tasks(panels[0], points)
        if unseen:
            titles |= _some_tasks(panels[1], points, unseen)
        for axes in panels:
            axes.set(ylabel="second")
            axes.grid(True)
        panels[-1].set(xlabel="first principal component")
        about = "Head weights of all networks along their first two principal components"
        below = ", and those of some unseen tasks, a colour for each" if unseen else ""
        return laid_out("head", figure, f"{about}{below}.", titles)


def _all_tasks(axes: Any, points: Mapping[str, Sequence[HeadPoint]]) -> dict[str, list[str]]:
    """Figure 10 (a)."""
    kinds: dict[str, tuple[Kind, str]] = {
        "original": ("original", "original, seen"),
        "heldout": ("heldout", "original, unseen"),
        "generated": ("generated", "generated"),
    }
    titles: dict[str, list[str]] = {}
    for name, own in points.items():
        kind, text = kinds[name]
        titles |= _draw(axes, own, kind_mark(kind), text, f"marks-{name}")
    _add_legend(axes)
    return titles


def _some_tasks(axes: Any, points: Mapping[str, Sequence[HeadPoint]], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Figure 10 (b): where the trained and the generated networks of a task lie, with one line in the legend."""
    kinds: tuple[tuple[Kind, str, str], ...] = (("heldout", "original", ""), ("generated", "generated", "_"))
    titles: dict[str, list[str]] = {}
    for number, task in enumerate(tasks):
        for kind, text, label in kinds:
            own = [point for point in points.get(kind, ()) if point[0] == task]
            mark = kind_mark(kind)._replace(colour=COLOURS["baseline"][number])
            if own:
                titles |= _draw(axes, own, mark, label or task, f"task-{number}-{kind}", f"{task}, {text}")
    _add_legend(axes, "squares: trained")
    return titles


def _add_legend(axes: Any, title: str | None = None) -> None:
    """Beside the panel, which the layout must not make room for: it would take it from the panel's height."""
    legend = axes.legend(title=title, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title_fontsize=8)
    legend.set_in_layout(False)


def _draw(
    axes: Any, own: Sequence[HeadPoint], mark: Mark, label: str, gid: str, text: str | None = None
) -> dict[str, list[str]]:
    """Networks as points, whose titles are this text; those of a task name it where there is none."""
    names = [text or f"{condition}, {label}" for condition, _, _ in own]
    here, called = together([x for _, x, _ in own], [y for _, _, y in own], names)
    x, y = np.array(here).T
    return draw_points(axes, x, y, np.zeros(len(x), bool), mark, label, gid, called)


def picture_plot(rows: Sequence[Picture]) -> Plot:
    """Weights as colours, a row per network; rows of a task and a group lie together."""
    with drawing(0.7 + 0.2 * len(rows)) as figure:
        axes = figure.subplots()
        mesh = axes.pcolormesh(np.array([row.values for row in rows]), cmap="RdBu", vmin=-3, vmax=3)
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{row.condition} {row.group}" for row in rows], fontsize=7)
        axes.set_xlabel("weights of the head")
        figure.colorbar(mesh, label="standard deviations")
        return laid_out("picture", figure, "Head weights of original and generated networks of some tasks.")
