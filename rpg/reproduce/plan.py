"""`rpg reproduce`: a table planned (which steps its cells take, what they cost) and carried out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rpg.api import find_device
from rpg.devices import DEVICES, Device
from rpg.reproduce.collected import Machine
from rpg.reproduce.measures import Cell, plus_signs
from rpg.reproduce.paper import NOT_RUN, PaperTable, load_table
from rpg.reproduce.result import Found, Result
from rpg.reproduce.steps import Step, in_order, shown
from zoo.table import Record, Table

log = logging.getLogger(__name__)

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

    def carry_out(self, machine: Machine) -> Result:
        """Do what is missing, or go on with it; then read every cell's value. Raises what the stages raise."""
        for number, step in enumerate(self.steps, start=1):
            if not step.done:
                log.info("[%d/%d] %s %s", number, len(self.steps), step.stage, step.name)
                step.carry_out(machine)
        values = {where: None if self.state(*where) else cell.value() for where, cell in self.cells.items()}
        signs = self._signs(values)
        found = [
            Found(
                row=row,
                column=column,
                value=signs.get((row, column), values[row, column]),
                state=self.state(row, column) or ("done" if values[row, column] is not None else "not on record"),
                printed=self.table.print_of(row, column),
                recipe=cell.spec.recipe,
                method=cell.spec.method,
                settings=(*cell.spec.set, *(f"generate.{key}={value}" for key, value in cell.spec.generate.items())),
            )
            for (row, column), cell in self.cells.items()
        ]
        return Result(name=self.name, small=self.small, rows=self.rows, cells=tuple(found))

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
    """What is to be done: a row for each step, the hours and bytes of those that are missing."""

    steps: list[Record]
    commands: list[str]
    hours: float
    unknown: int
    bytes: int
    device: str

    def text(self) -> str:
        missing = [one for one in self.steps if one["there"] == "no"]
        table = Table.of([{k: v for k, v in one.items() if k != "command"} for one in self.steps]).text()
        unknown = f", and {self.unknown} steps whose time nobody knows" if self.unknown else ""
        total = (
            f"{len(missing)} of {len(self.steps)} steps are missing: at least {self.hours:.3g} hours on {self.device}"
        )
        return "\n".join([table, "", *self.commands, "", f"{total}{unknown}; {self.bytes / 1e9:.3g} GB of disk"])


def outlook(plans: Sequence[Plan], device: str) -> Outlook:
    """What these plans do together; steps that they share count once. Raises MissingExtra where the library of a
    recipe's networks is missing.
    """
    machine = plans[0].device(device)
    steps = list(dict.fromkeys(step for plan in plans for step in plan.steps))
    rows: list[Record] = []
    hours, unknown, size = 0.0, 0, 0
    for step in steps:
        cost = step.cost(machine)
        rows.append(
            {
                "step": step.stage,
                "place": str(step.place),
                "hours": cost.hours,
                "GB": cost.bytes / 1e9,
                "there": "yes" if step.done else "no",
                "command": shown(step),
            }
        )
        if not step.done:
            hours, size = hours + (cost.hours or 0), size + cost.bytes
            unknown += cost.hours is None
    return Outlook(rows, [shown(s) for s in steps if not s.done], hours, unknown, size, machine.name)
