"""`rpg reproduce`: a table planned (which steps its cells take, what they cost) and carried out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rpg.api import find_device
from rpg.devices import DEVICES, Device
from rpg.reproduce.collected import Collected, Cost, Machine
from rpg.reproduce.crew import Crew
from rpg.reproduce.measures import Cell, plus_signs
from rpg.reproduce.paper import NOT_RUN, PaperTable, load_table
from rpg.reproduce.result import Found, Result
from rpg.reproduce.steps import Reported, Scored, Step, in_order, require_same, shown
from zoo.errors import MissingExtra
from zoo.table import Record, Table

ESTIMATED_ON = "h100"  # the paper's device, for tables in full where there is no GPU


@dataclass(frozen=True)
class Plan:
    """One table, or some of its `rows`, in full or in small."""

    name: str
    table: PaperTable
    small: bool
    rows: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        return {where: Cell(spec) for where, spec in self.table.cells(self.small, self.rows).items()}

    def state(self, row: str, column: str) -> str:
        """Why a cell stays without a value; nothing where it gets one."""
        if self.table.print_of(row, column) in NOT_RUN:
            return "not run"
        return "not available" if self.cells[row, column].missing else ""

    @cached_property
    def steps(self) -> list[Step]:
        """All steps of all cells that are run, in order, each once."""
        plotted = bool(set(self.table.plots) - {"lines"})
        wanted = [
            step
            for (row, column), cell in self.cells.items()
            if not self.state(row, column)
            for step in cell.steps(plotted)
        ]
        return in_order(wanted)

    def carry_out(self, crew: Crew) -> Result:
        """Do what is missing, or go on with it; then read every cell's value. What fails leaves the cells that need it
        without one. Raises what the stages raise besides.
        """
        failed = crew.finish(self.steps)
        broken = {where: self._failure(cell, failed) for where, cell in self.cells.items()}
        states = {where: self.state(*where) or ("failed" if broken[where] else "") for where in self.cells}
        values = {where: None if states[where] else cell.value() for where, cell in self.cells.items()}
        signs = self._signs(values)
        found = [
            Found(
                row=row,
                column=column,
                value=signs.get((row, column), values[row, column]),
                state=states[row, column] or ("done" if values[row, column] is not None else "not on record"),
                error=broken[row, column],
                printed=self.table.print_of(row, column),
                recipe=cell.spec.recipe,
                method=cell.spec.method,
                settings=(*cell.spec.set, *(f"generate.{key}={value}" for key, value in cell.spec.generate.items())),
            )
            for (row, column), cell in self.cells.items()
        ]
        return Result(name=self.name, small=self.small, rows=self.rows, cells=tuple(found))

    @staticmethod
    def _failure(cell: Cell, failed: dict[Step, str]) -> str | None:
        """Why a step of the cell has failed, if one has."""
        if not failed or cell.missing:
            return None
        return next((failed[step] for step in in_order(cell.steps(plotted=False)) if step in failed), None)

    def _signs(self, values: dict[tuple[str, str], float | None]) -> dict[tuple[str, str], str | None]:
        """The cells that show how sensitive a model is among the others of its column."""
        found: dict[tuple[str, str], str | None] = {}
        for column in self.table.columns:
            places = [w for w, cell in self.cells.items() if w[1] == column and cell.spec.show == "sensitivity"]
            found |= dict(zip(places, plus_signs([values[place] for place in places]), strict=True))
        return found

    def device(self, name: str) -> Device:
        """Whose hours a plan counts: the machine's own for tables in small and where there is a GPU, or the paper's."""
        here = find_device(name)
        return here if self.small or here.cuda or name != "auto" else DEVICES[ESTIMATED_ON]


def plan_table(name: str, small: bool = False, rows: Sequence[str] = ()) -> Plan:
    """The plan of a table by its name. Raises ValueError for an unknown name or row, and where there is no small
    version.
    """
    plan = Plan(name, load_table(name), small, tuple(rows))
    assert plan.cells  # which refuses rows that are not there
    return plan


@dataclass(frozen=True)
class Outlook:
    """What is to be done: a row for each step, the hours and bytes of those that are missing. `assumed`: the device is
    the paper's, which is not here.
    """

    title: str
    steps: list[Record]
    hours: float
    unknown: int
    bytes: int
    device: str
    assumed: bool = False

    @property
    def missing(self) -> list[Record]:
        return [one for one in self.steps if one["there"] == "no"]

    def text(self) -> str:
        """For people: the steps, the commands that make the missing ones, and what they take."""
        titles = ("step", "place", "hours", "GB", "there")
        found = [self.title, "", Table.of([{title: one[title] for title in titles} for one in self.steps]).text()]
        if not self.missing:
            return "\n".join([*found, "", f"all {len(self.steps)} steps are done; what is left is to write the result"])
        commands = [str(one["command"]) for one in self.missing]
        found += [
            "",
            "What is missing, by the commands that make it (without --dry-run all of it is done, or continued):",
            *commands,
        ]
        recipes = {str(one["place"]): str(one["what"]) for one in self.missing if one["what"]}
        if recipes:
            found += ["", "What is collected (data sets: --data-root, or the Hub where they are there):"]
            found += [f"{place}: {what}" for place, what in recipes.items()]
        lacking = {str(one["lacks"]): None for one in self.missing if one["lacks"]}
        if lacking:
            found += ["", "What is not installed, so that some of the steps cannot be done here:", *lacking]
        return "\n".join([*found, "", self.total()])

    def total(self) -> str:
        """In a sentence, what is missing and takes."""
        where = f"{self.device}{', the paper has one and there is no GPU here' * self.assumed}"
        free = shutil.disk_usage(".").free
        uncounted = f", and {self.unknown} steps whose time nobody knows" if self.unknown else ""
        return (
            f"{len(self.missing)} of {len(self.steps)} steps are missing. They take at least {self.hours:.3g} hours "
            f"({where}; collecting: as the recipes say){uncounted}; {self.bytes / 1e9:.3g} GB of disk, where "
            f"{free / 1e9:.3g} are free"
        )


def steps_of(plans: Sequence[Plan]) -> list[Step]:
    """The steps of all plans, in order, each once."""
    return list(dict.fromkeys(step for plan in plans for step in plan.steps))


def outlook(plans: Sequence[Plan], device: str) -> Outlook:
    """What these plans do together; steps that they share count once. Where the library of a recipe's networks is
    missing, its steps say so, and nobody knows what they cost.
    """
    machine = plans[0].device(device)
    steps = steps_of(plans)
    one = len(plans) == 1
    title = f"{plans[0].table.heading(plans[0].small)}" if one else f"{len(plans)} tables and figures"
    found = outlook_of(title, steps, machine)
    return replace(found, assumed=machine is DEVICES[ESTIMATED_ON] and device == "auto")


def _cost(step: Step, machine: Device) -> tuple[Cost, str | None]:
    """What a step costs, and which extra it lacks, if one is."""
    try:
        return step.cost(machine), None
    except MissingExtra as error:
        return Cost(None), str(error)


def outlook_of(title: str, steps: Sequence[Step], machine: Device) -> Outlook:
    """What these steps take."""
    rows: list[Record] = []
    hours, unknown, size = 0.0, 0, 0
    for step in steps:
        cost, lacks = _cost(step, machine)
        if done := step.done:
            require_same(step, Machine())
        there = done or (isinstance(step, Scored | Reported) and step.on_record)
        rows.append(
            {
                "step": step.stage,
                "place": str(step.place),
                "hours": cost.hours,
                "GB": cost.bytes / 1e9,
                "there": "yes" if there else "no",
                "command": shown(step),
                "what": step.what if isinstance(step, Collected) else None,
                "lacks": lacks,
            }
        )
        if not there:
            hours, size = hours + (cost.hours or 0), size + cost.bytes
            unknown += cost.hours is None
    return Outlook(title, rows, hours, unknown, size, machine.name)
