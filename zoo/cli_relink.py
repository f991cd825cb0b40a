"""`rpg-zoo split` and `rpg-zoo take`: the same checkpoints as another zoo."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from zoo import cli_options as given
from zoo.console import command_line, emit
from zoo.options import DryRun, Json, Out


def split(
    path: given.ZooPath,
    holdout: Annotated[str, typer.Option(help="published, random or no-neighbours.")],
    n: Annotated[int | None, typer.Option("-n", help="How many tasks to hold out (default: 20).")] = None,
    seed: int = 0,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo with other tasks held out from one of binary tasks, without training (default place:
    zoos/<zoo>-<holdout>).
    """
    from zoo.conditions import Holdout
    from zoo.derive.split import plan_split, split_zoo
    from zoo.listing import derived_place, describe
    from zoo.recipe import validate
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    target = derived_place(path, zoo, holdout, out)
    settings = {"kind": holdout, "seed": seed} | ({} if n is None else {"n": n})
    config = validate(Holdout, settings, "")
    if dry_run:
        counts = plan_split(zoo, config)
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        emit({"out": str(target), **settings, "splits": counts}, as_json, f"would write {text} to {target}")
        return
    made = split_zoo(zoo, config, command_line("rpg-zoo"), target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


def take(
    path: given.ZooPath,
    seeds: Annotated[int, typer.Option(help="How many training seeds to keep, the first ones.")],
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo of fewer training seeds, to learn how many a generator needs; what is held out stays (default place:
    zoos/<zoo>-<seeds>).
    """
    from zoo.derive.take import take as take_seeds
    from zoo.derive.take import taken
    from zoo.listing import derived_place, describe
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    target = derived_place(path, zoo, str(seeds), out)
    if dry_run:
        counts = Counter(entry.split for entry in taken(zoo, seeds))
        text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        emit({"out": str(target), "seeds": seeds, "splits": counts}, as_json, f"would write {text} to {target}")
        return
    made = take_seeds(zoo, seeds, command_line("rpg-zoo"), target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")
