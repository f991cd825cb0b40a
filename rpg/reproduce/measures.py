"""What a cell shows: which steps it takes, and its value when they are done.

Proportions are in percent, times in hours or minutes a network, memory in GB (of the device; of the host where a CPU
computed), parameters in millions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.metrics import Summary, best_3, summarize
from evaluators.similarity import max_error_iou
from rpg.api import estimate_recipe
from rpg.devices import DEVICES, GB
from rpg.methods.rpg.sizes import adequate_sizes
from rpg.reproduce.collected import Collected, recipe_of
from rpg.reproduce.derived import Aligned, Noised, Swapped
from rpg.reproduce.paper import Spec
from rpg.reproduce.steps import Drawn, Networks, Reported, Scored, Step, Trained, shown
from rpg.run import Run
from zoo.errors import MissingData
from zoo.files import parse_json, read_limited
from zoo.manifest import MANIFEST_BYTES, Entry
from zoo.names import method_names
from zoo.scoring import Score, read_scores, scores_among
from zoo.spent import Spent
from zoo.store import Zoo

MILLION = 1e6
PAPERS_DEVICE = "h100"  # of Figures 7 and 8
BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Cell:
    """A cell with the steps that its value comes from."""

    spec: Spec

    @property
    def missing(self) -> str | None:
        """The method's settings that this cell needs and that are not there, if it is so."""
        method = self.spec.method
        return method if method is not None and method not in method_names() else None

    @property
    def zoo(self) -> Collected:
        """Overrides that say what the recipe says anyway are left out, so that the zoo is the recipe's own."""
        name, pairs = self.spec.recipe, self._overrides("task.", "zoo.")
        assert name
        plain, changed = recipe_of(name, ()), recipe_of(name, pairs)
        return Collected(name, () if (plain.task, plain.zoo) == (changed.task, changed.zoo) else pairs)

    @property
    def run(self) -> Trained:
        """As with the zoo, overrides that change nothing are left out."""
        zoo, pairs = self.zoo, self._overrides("method.")
        plain = recipe_of(zoo.recipe, zoo.overrides, self.spec.method)
        changed = recipe_of(zoo.recipe, (*zoo.overrides, *pairs), self.spec.method)
        return Trained(zoo, self.spec.method, () if plain.method == changed.method else pairs)

    @property
    def drawn(self) -> Drawn:
        tasks = ("all",) if self.spec.tasks == "all" else self.spec.tasks
        return Drawn(self.run, json.dumps(self.spec.generate, sort_keys=True), tasks)

    @property
    def noised(self) -> Noised:
        assert self.spec.sigma
        return Noised(self.zoo, self.spec.sigma)

    @property
    def swapped(self) -> Swapped:
        spec = self.spec
        assert spec.share
        of = Aligned(self.zoo) if spec.between == "aligned" else self.zoo
        return Swapped(of, spec.share, spec.parts or "layer", spec.between == "run")

    def _overrides(self, *sections: str) -> tuple[str, ...]:
        return tuple(pair for pair in self.spec.set if pair.startswith(sections))

    def steps(self, plotted: bool) -> list[Step]:
        """What has to be done first; a report, too, for a cell of generated networks whose table shows its plots."""
        show, of_task = self.spec.show, self.spec.condition is not None
        if show in ("original", "generated") and of_task:
            return [Reported(self.drawn)]
        if show == "original":
            return [Scored(self.zoo)]
        if show == "generated":
            reported = plotted and self.spec.tasks != "all"  # of which a report would make as many networks again
            return [Scored(self.drawn), *([Reported(self.drawn)] if reported else [])]
        if show in ("noised", "swapped"):
            return [Scored(self.noised if show == "noised" else self.swapped)]
        if show in ("decline of noise", "sensitivity"):
            return [Scored(self.zoo), Scored(self.noised)]
        if show in ("decline", "likeness"):
            return [Scored(self.zoo), Scored(self.noised if self.spec.sigma else self.drawn)]
        if show in ("training hours", "training memory"):
            return [self.run]
        if show in ("generating minutes", "generating memory"):
            return [self.drawn]
        return []  # parameters, and what is estimated

    def value(self) -> float | None:
        """The cell's value, of steps that are done; None where it is not on record. Raises ValueError for a metric
        or a condition that the scores do not have.
        """
        spec = self.spec
        show = str(spec.show)
        if show == "parameters":
            return _parameters(self.zoo)
        if show == "estimated memory":
            return _estimated(self)
        if show in ("original", "generated"):
            networks = self.zoo if show == "original" else self.drawn
            if spec.statistic == "best 3":
                return best_3(self._values(networks))
            found = self._of_task(show) if spec.condition else self._summary(networks)
            return found if isinstance(found, float) else float(getattr(found, spec.statistic or "mean"))
        if show in ("noised", "swapped"):
            return self._summary(self.noised if show == "noised" else self.swapped).mean
        if show in ("decline", "decline of noise", "sensitivity"):
            of = self.drawn if show == "decline" else self.noised
            return self._summary(self.zoo).mean - self._summary(of).mean
        if show == "likeness":
            return _likeness(self.noised if spec.sigma else self.drawn, self.zoo)
        spent = Run(self.run.place).spent if show.startswith("training") else Zoo.open(self.drawn.place).manifest.spent
        if spent is None:
            return None
        if show.endswith("memory"):
            return _memory(spent)
        if show == "training hours":
            return spent.seconds / 3600
        return spent.seconds / 60 / len(Zoo.open(self.drawn.place))

    def _summary(self, of: Networks) -> Summary:
        return summarize(self._values(of))

    def _values(self, of: Networks) -> list[float]:
        scores = scores_of(of)
        metric = self.spec.metric or next(iter(scores[0].metrics))  # a task's first metric is its main one
        if missing := [score.id for score in scores if metric not in score.metrics]:
            raise ValueError(
                f"{missing[0]} of {of.place} has no metric {metric}; it has {', '.join(scores[0].metrics)}"
            )
        return [score.metrics[metric].value for score in scores]

    def _of_task(self, group: str) -> Summary | float:
        """Of one binary task, from its report; of a class of the data set, where the cell asks for one."""
        place = Reported(self.drawn).place / "report.json"
        rows: Any = parse_json(read_limited(place, MANIFEST_BYTES), place)
        for row in rows["rows"]:
            if row["condition"] == self.spec.condition:
                if self.spec.of_class is not None:
                    return float(row["classes"][group][self.spec.of_class])
                return Summary(**row["accuracy"][group])
        raise ValueError(f"{place} has no task {self.spec.condition}; it was not generated for")


def entries_of(of: Networks) -> list[Entry]:
    """The networks that count: of originals those that generators learn from."""
    zoo = Zoo.open(of.place)
    return zoo.select("train") if isinstance(of, Collected) else list(zoo.entries)


def scores_of(of: Networks) -> list[Score]:
    """The scores of these networks, in the zoo's order, under one evaluator and protocol: those of the step that made
    them. Raises MissingData where one is not there.
    """
    step, entries = Scored(of), entries_of(of)
    found = scores_among(read_scores(step.place), entries, step.under)
    if len(found) < len(entries):
        raise MissingData(
            f"{step.place} has comparable scores of {len(found)} of {len(entries)} networks of {of.place}; make them "
            f"with `{shown(step)}`"
        )
    return found


def _likeness(of: Networks, originals: Collected) -> float:
    """The largest error-IoU with a training checkpoint, a mean over networks (section B.4, Figure 9)."""
    wrong, theirs = (~np.stack([s.correct_per_sample() for s in scores_of(zoo)]) for zoo in (of, originals))
    return float(np.mean(max_error_iou(wrong, theirs)))


def _memory(spent: Spent) -> float:
    return (spent.host_bytes if spent.device_bytes is None else spent.device_bytes) / GB


def _parameters(zoo: Collected) -> float:
    structure = recipe_of(zoo.recipe, zoo.overrides).task.structure()
    return sum(spec.numel for spec in structure if not spec.name.endswith(BUFFERS)) / MILLION


def _estimated(cell: Cell) -> float:
    """Of training on the paper's device, in GB: of a recipe, or of `values` alone by a method or the size of RPG for
    them.
    """
    spec = cell.spec
    name = spec.recipe or spec.method or adequate_sizes(spec.values or 1)[0].lower()
    method = spec.method if spec.recipe else None
    _, found = estimate_recipe(name, method, spec.set, DEVICES[PAPERS_DEVICE], spec.values)
    return float(found.figures["training"]["bytes"]) / GB


def plus_signs(declines: Sequence[float | None]) -> list[str | None]:
    """Sensitivity as the paper's Table 16 writes it: the more plus signs, the more a model loses by the same noise."""
    known = sorted({decline for decline in declines if decline is not None})
    return [None if decline is None else "+" * (1 + known.index(decline)) for decline in declines]
