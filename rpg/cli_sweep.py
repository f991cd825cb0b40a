"""`rpg sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpg.options import Method, StepWorkers, Tables
from rpg.program import app
from zoo.cli_options import Engine
from zoo.command_help import LEARN, examples
from zoo.console import emit, say
from zoo.options import DataRoot, Device, DryRun, Import, Json, RecipeName, Set

GridOption = Annotated[
    list[str],
    typer.Option("--grid", metavar="KEY=VALUE,...", help="Values of a setting; several settings: all combinations."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs at each point, with other seeds in training.")]


@app.command(
    rich_help_panel=LEARN,
    epilog=examples(
        "rpg sweep digits --grid method.train.learning_rate=1e-3,3e-3 --seeds 3",
        "rpg sweep digits --grid method.train.steps=100,250 --grid method.train.batch_size=4,8 --dry-run",
    ),
)
def sweep(
    recipe: RecipeName,
    grid: GridOption = [],  # noqa: B006  # typer reads the default, nobody writes to it
    seeds: Seeds = 1,
    method: Method = None,
    overrides: Set = [],  # noqa: B006
    out: Tables = Path("sweeps"),
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: StepWorkers = None,
    engine: Engine = "local",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Train and score a recipe at every point of a grid of settings; one table with mean and deviation over seeds.

    Run it again to continue. Without the task's data the training loss takes the place of scores. A run that fails
    stops no other; the exit code is then 1.
    """
    from rpg.api import find_device
    from rpg.reproduce.collected import Machine
    from rpg.reproduce.plan import outlook_of
    from rpg.reproduce.result import make_writable
    from rpg.reproduce.sweeping import parse_grid, plan_grid
    from zoo.training.engines import check_engine

    check_engine(engine)
    plan = plan_grid(recipe, method, parse_grid(grid), seeds, overrides)
    # What it takes is asked before any work in any case, since this refuses settings that do not fit together.
    found = outlook_of(f"Sweep of {recipe}: {len(plan.planned)} runs", plan.steps(), find_device(device))
    if dry_run:
        about = {"recipe": recipe, "hours": found.hours, "bytes": found.bytes, "device": found.device}
        emit({**about, "steps": found.steps}, as_json, found.text())
        return 0
    if found.missing:
        say(f"{len(plan.planned)} runs. {found.total()}")
    make_writable(out)
    result = plan.carry_out(Machine(device, data_root, engine, workers))
    written = result.write(out)
    emit({"table": str(written), **result.model_dump(mode="json")}, as_json, f"{result.text()}\n\n{written}")
    return 1 if result.errors else 0
