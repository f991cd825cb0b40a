"""The stage that reproduces: one table, or all of them and the page about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rpg.reproduce.crew import Crew
from rpg.reproduce.paper import Small, load_table
from rpg.reproduce.paper_page import paper_page
from rpg.reproduce.pictures import pictures
from rpg.reproduce.plan import Plan, plan_table
from rpg.reproduce.result import Result, notes, side_by_side, write_result
from zoo.errors import Corrupt, Failed, MissingData, MissingExtra
from zoo.files import write_bytes
from zoo.names import table_names

log = logging.getLogger(__name__)

ALL = "all"


def plans_of(name: str, small: bool, rows: Sequence[str]) -> list[Plan]:
    """The plan of a table, or of all that there are: in small, all that have a small version. Raises ValueError as
    `plan_table` does.
    """
    if name != ALL:
        return [plan_table(name, small, rows)]
    names = [one for one in table_names() if not small or isinstance(load_table(one).small, Small)]
    return [plan_table(one, small) for one in names]


def reproduce_one(plan: Plan, crew: Crew, out: Path) -> tuple[Result, Path, str]:
    """Make a table and write it below `out`: its numbers, its page, and the same as text. Raises what stages raise."""
    result = plan.carry_out(crew)
    written = write_result(plan.table, result, out, pictures(plan, result))
    text = "\n".join(
        [plan.table.heading(plan.small), "", side_by_side(plan.table, result).text(), "", *notes(plan.table, result)]
    )
    return result, written, text


def reproduce_all(plans: Sequence[Plan], crew: Crew, out: Path, page: Path) -> dict[str, str]:
    """Make all these tables and the page about them, which is renewed after each. The errors of those that failed, by
    name.
    """
    failed: dict[str, str] = {}
    for number, plan in enumerate(plans, start=1):
        log.info("%s, %d of %d", plan.name, number, len(plans))
        try:
            result, _, _ = reproduce_one(plan, crew, out)
            if result.errors:
                failed[plan.name] = "; ".join(result.errors)
        except (Corrupt, Failed, MissingData, MissingExtra, ValueError) as error:
            failed[plan.name] = " ".join(str(error).split())
        write_bytes(page, paper_page(out, failed).encode())
    return failed
