"""`rpg sweep`: a recipe at every point of a grid of settings, with several seeds each, planned and carried out.

The steps are those of the paper's tables (rpg.reproduce.steps), so that zoos and runs are shared, and what is there is
not done again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rpg.reproduce.collected import Machine, recipe_of
from rpg.reproduce.crew import crew_of
from rpg.reproduce.measures import Cell, scores_of
from rpg.reproduce.paper import Spec
from rpg.reproduce.steps import Step, in_order
from rpg.reproduce.sweep_result import SweepResult, Trial
from rpg.run import Run, read_losses
from zoo.console import pick_device
from zoo.errors import MissingData, brief, suggest
from zoo.recipe import Recipe
from zoo.structure import Frozen

SWEPT = ("task", "zoo", "method", "generate")
DRAWN = ("n", "sampler", "steps", "mode")  # settings of drawing that `rpg generate` has options for
LONGEST = 1000  # trials

Grid = Mapping[str, Sequence[str]]


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each key of `KEY=VALUE,VALUE,...`; commas in brackets are part of a value. Raises ValueError for
    anything else, and for an empty grid.
    """
    if not texts:
        raise ValueError(
            "an empty grid; expected values to sweep over, as in --grid method.train.learning_rate=1e-3,3e-3"
        )
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, given = text.partition("=")
        values = tuple(_split(given))
        if not key or not all(values):
            raise ValueError(f"--grid {text}: expected KEY=VALUE,VALUE,..., as in method.train.learning_rate=1e-3,3e-3")
        if key.partition(".")[0] not in SWEPT or "." not in key:
            raise ValueError(f"--grid {text}: {key} is no setting of {', '.join(SWEPT)}, as method.train.steps is")
        if key in found:
            raise ValueError(f"--grid {text}: {key} has values already; give them together, with commas")
        found[key] = values
    return found


def _split(given: str) -> Iterator[str]:
    """The parts between commas that are in no brackets."""
    start = depth = 0
    for place, character in enumerate(given):
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            yield given[start:place].strip()
            start = place + 1
    yield given[start:].strip()


def seeds_of(section: Frozen, prefix: str) -> Iterator[tuple[str, int]]:
    """The keys of all seeds in a section of settings, which training draws from, and their values."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name == "seed":
            yield f"{prefix}.seed", value
        elif isinstance(value, Frozen):
            yield from seeds_of(value, f"{prefix}.{name}")


@dataclass(frozen=True)
class Planned:
    """One trial: the values at its point, in the grid's order, the number of its seed, and what it takes."""

    point: tuple[str, ...]
    seed: int
    cell: Cell

    @property
    def recipe(self) -> Recipe:
        spec = self.cell.spec
        return recipe_of(str(spec.recipe), spec.set, spec.method)

    def steps(self, scored: bool) -> list[Step]:
        """All that is needed: to the scores of the generated networks and of the originals, or to the run alone."""
        originals = Cell(self.cell.spec.model_copy(update={"show": "original"}))
        return in_order([*originals.steps(False), *self.cell.steps(False)] if scored else [self.cell.run])

    def done(self, scored: bool, failed: Mapping[Step, str]) -> Trial:
        """What came of it, when its steps are done, but for what failed."""
        run = self.cell.run.place
        about: dict[str, Any] = {"point": self.point, "seed": self.seed, "run": str(run)}
        if errors := [failed[step] for step in self.steps(scored) if step in failed]:
            return Trial(**about, error=errors[0])
        if not scored:
            losses = read_losses(Run(run))
            return Trial(**about, value=losses[-1][1] if losses else None)
        originals = Cell(self.cell.spec.model_copy(update={"show": "original"})).value()
        return Trial(**about, value=self.cell.value(), originals=originals)


@dataclass(frozen=True)
class Sweep:
    """All trials of a grid, those of a point one after another."""

    recipe: str
    method: str | None
    overrides: tuple[str, ...]
    grid: Grid
    seeds: int
    planned: tuple[Planned, ...]

    @cached_property
    def by_task(self) -> bool:
        """Whether networks are generated for tasks that one would have to name."""
        return bool(self.planned[0].recipe.task.conditions())

    def steps(self, scored: bool = True) -> list[Step]:
        """All steps of all trials, in order, each once."""
        return list(dict.fromkeys(step for one in self.planned for step in one.steps(scored and not self.by_task)))

    def carry_out(self, machine: Machine) -> SweepResult:
        """Do what is missing, or go on with it, and read what came out. A trial that fails stops no other. Raises what
        the stages raise besides.
        """
        unscored = "its networks are generated by task" if self.by_task else self._missing_data(machine)
        scored = unscored is None
        steps = self.steps(scored)
        with crew_of(machine, steps) as crew:
            failed = crew.finish(steps)
        trials = tuple(one.done(scored, failed) for one in self.planned)
        return SweepResult(
            recipe=self.recipe,
            method=self.method,
            settings=self.overrides,
            grid={key: tuple(values) for key, values in self.grid.items()},
            seeds=self.seeds,
            measure=self._metric(trials) if scored else "training loss",
            unscored=unscored,
            trials=trials,
        )

    def _missing_data(self, machine: Machine) -> str | None:
        """What is missing to score, if anything is."""
        tasks: list[Any] = []
        for one in self.planned:
            if one.recipe.task not in tasks:
                tasks.append(one.recipe.task)
        for task in tasks:
            try:
                task.build(machine.data_root, pick_device(machine.device))
            except MissingData as error:
                return brief(error)
        return None

    def _metric(self, trials: Sequence[Trial]) -> str:
        """The task's main metric, the first of any score."""
        good = [one.cell.drawn for one, trial in zip(self.planned, trials, strict=True) if trial.error is None]
        return next(iter(scores_of(good[0])[0].metrics)) if good else "score"


def plan_grid(recipe: str, method: str | None, grid: Grid, seeds: int, overrides: Sequence[str] = ()) -> Sweep:
    """The trials at every point of a grid, with `seeds` seeds each. Raises ValueError, before any work, for settings
    that do not exist or do not fit, and for points that are the same.
    """
    if again := {pair.partition("=")[0] for pair in overrides} & set(grid):
        raise ValueError(f"{min(again)} is given by --set and swept by --grid; expected one of the two")
    count = seeds
    for values in grid.values():
        count *= len(values)
    if count > LONGEST or seeds < 1:
        raise ValueError(f"a sweep of {count} runs; expected 1 to {LONGEST}: fewer values, or fewer --seeds")
    found: dict[str, tuple[str, ...]] = {}
    planned: list[Planned] = []
    for point in itertools.product(*grid.values()):
        pairs = [f"{key}={value}" for key, value in zip(grid, point, strict=True)]
        at = _sorted([*overrides, *pairs])
        plan = recipe_of(recipe, at, method)
        settings = repr((plan.task, plan.zoo, plan.method, plan.generate))
        if settings in found:
            raise ValueError(f"--grid: {', '.join(pairs)} is the same as {', '.join(found[settings])}; leave one out")
        found[settings] = tuple(pairs)
        planned += [Planned(point, seed, _cell(recipe, method, at, grid, seed)) for seed in range(seeds)]
    return Sweep(recipe, method, tuple(overrides), grid, seeds, tuple(planned))


def _sorted(pairs: Sequence[str]) -> tuple[str, ...]:
    """By key, so that a run's place does not depend on the order in which settings are given."""
    return tuple(sorted(pairs, key=lambda pair: pair.partition("=")[0]))


def _cell(recipe: str, method: str | None, at: tuple[str, ...], grid: Grid, seed: int) -> Cell:
    """Of one trial. Seed 0 is the recipe's own, in training and in drawing, and the others count on from it."""
    plain, plan = recipe_of(recipe, (), method), recipe_of(recipe, at, method)
    if plan.method is None or plan.generate is None or plain.generate is None:
        raise ValueError(f"recipe {plan.name} has no method to sweep; say which: --method rpg-tiny")
    own = dict(seeds_of(plan.method, "method"))
    if swept := set(grid) & {*own, "generate.seed"}:
        raise ValueError(f"{min(swept)} is a seed, of which --seeds takes several; expected another setting in --grid")
    seeded = _sorted([*at, *(f"{key}={value + seed}" for key, value in own.items() if seed)])
    before, asked = plain.generate.model_dump(mode="json"), plan.generate.model_dump(mode="json")
    drawn = {key: value for key, value in asked.items() if value != before.get(key)}
    if unknown := set(drawn) - {*DRAWN, "seed"}:
        name = min(unknown)
        raise ValueError(f"generate.{name} is no option of `rpg generate`, so it is not swept{suggest(name, DRAWN)}")
    if seed:
        drawn["seed"] = asked["seed"] + seed
    spec = Spec(show="generated", recipe=recipe, method=method, set=seeded, generate=drawn, statistic="mean")
    return Cell(spec)
