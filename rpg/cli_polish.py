"""`rpg polish`."""

from __future__ import annotations

from typing import Annotated

import typer

from rpg.program import app
from zoo.cli_options import ZooPath
from zoo.command_help import LEARN, examples
from zoo.console import command_line, emit
from zoo.options import DataRoot, Device, DryRun, Import, Json, Out, Set


@app.command(rich_help_panel=LEARN, epilog=examples("rpg polish digits --steps 20"))
def polish(
    path: ZooPath,
    steps: Annotated[int, typer.Option(help="Steps of training for each network.")],
    learning_rate: Annotated[float, typer.Option(help="Of the first step; it falls along a cosine.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Training samples in a step.")] = 125,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    seed: Annotated[int, typer.Option(help="Of the order of training samples.")] = 0,
    split: Annotated[str | None, typer.Option(help="Which networks (default: train, or all there are).")] = None,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train the networks of a zoo for a few steps on their task's training data (default place:
    zoos/<zoo>-polish-<steps>). Run it again to continue after an interruption.
    """
    from zoo.derive.polish import images_seen, plan_polish
    from zoo.listing import derived_place, describe
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    target = derived_place(path, zoo, f"polish-{steps}", out)
    settings = {"learning_rate": learning_rate, "batch_size": batch_size, "optimizer": optimizer, "seed": seed}
    plan = plan_polish(
        zoo,
        {"steps": steps, **settings},
        target,
        command_line("rpg"),
        split=split,
        overrides=overrides,
        data_root=data_root,
        device=device,
    )
    plan.check()
    seen = f"{steps} steps, {images_seen(plan.config):,} training samples each"
    if dry_run:
        emit({"out": str(target), "steps": steps, **settings}, as_json, f"would write {target}: {seen}")
        return
    made = plan.carry_out()
    emit(describe(made) | {"steps": steps}, as_json, f"{len(made.entries)} networks in {target}: {seen}")
