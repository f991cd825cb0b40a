"""`rpg reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rpg.options import StepWorkers, Tables
from rpg.program import app
from zoo.cli_options import Engine
from zoo.command_help import JUDGE, examples, tables
from zoo.console import emit, say
from zoo.options import DataRoot, Device, DryRun, Json

Name = Annotated[str, typer.Argument(metavar="NAME", help="table1 ... figure10, or all.", autocompletion=tables)]
Rows = Annotated[list[str], typer.Option("--rows", metavar="ROW", help="Only this row; can be repeated.")]
IsSmall = Annotated[bool, typer.Option("--small", help="With small networks of the same families, on two cores.")]
PageFile = Annotated[Path, typer.Option("--page", help="With all: the page about every table and figure.")]


@app.command(
    rich_help_panel=JUDGE,
    epilog=examples(
        "rpg reproduce table1 --dry-run", "rpg reproduce figure4 --small", "rpg reproduce all --small --workers 2"
    ),
)
def reproduce(
    name: Name,
    rows: Rows = [],  # noqa: B006  # typer reads the default, nobody writes to it
    small: IsSmall = False,
    out: Tables = Path("reproduced"),
    page: PageFile = Path("docs/paper.md"),
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: StepWorkers = None,
    engine: Engine = "local",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Make a table or figure of the paper, beside the paper's values: collect, train, generate and score what is
    missing, and write it as Markdown, CSV, LaTeX and HTML. Tables share zoos and runs; run it again to continue.

    A training that fails does not stop the other cells, nor a table the others; the exit code is then 1. Workers are
    one with --engine local; with --engine ray, whose nodes must share this directory, as many as its cluster has room
    for.
    """
    from rpg.reproduce.collected import Machine
    from rpg.reproduce.crew import crew_of
    from rpg.reproduce.plan import outlook, steps_of
    from rpg.reproduce.result import make_writable
    from rpg.reproduce.stage import ALL, plans_of, reproduce_all, reproduce_one
    from zoo.training.engines import check_engine

    if rows and name == ALL:
        raise ValueError("--rows are of one table; give its name instead of all")
    check_engine(engine)
    plans = plans_of(name, small, rows)
    if dry_run:
        found = outlook(plans, device)
        about: dict[str, Any] = {"hours": found.hours, "bytes": found.bytes, "device": found.device}
        emit({"name": name, "small": small, **about, "steps": found.steps}, as_json, found.text())
        return 0
    make_writable(out)
    with crew_of(Machine(device, data_root, engine, workers), steps_of(plans)) as crew:
        if name != ALL:
            result, written, text = reproduce_one(plans[0], crew, out)
            emit({"table": str(written), **result.model_dump(mode="json")}, as_json, f"{text}\n\n{written}")
            return 1 if result.errors else 0
        failed = reproduce_all(plans, crew, out, page)
    for table, error in failed.items():
        say(f"{table}: {error}")
    text = f"{len(plans) - len(failed)} of {len(plans)} tables and figures are there; {page} says more"
    emit({"page": str(page), "failed": failed}, as_json, text)
    return 1 if failed else 0
