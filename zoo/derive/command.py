"""`rpg-zoo split`, `take` and `swap`: the same networks in other sets, or with parts of one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from zoo import cli_options as given
from zoo.command_help import DERIVE, examples
from zoo.console import command_line, emit
from zoo.options import DryRun, Json, Out
from zoo.program import app

if TYPE_CHECKING:
    from zoo.conditions import Holdout
    from zoo.store import Zoo

Parts = Annotated[str, typer.Option(help="What is exchanged: whole layers (layer), or single values (random).")]
Shares = Annotated[str, typer.Option("--share", help="How much comes from B, of 1; several as in 0.1,0.5.")]


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


@app.command(rich_help_panel=DERIVE, epilog=examples("rpg-zoo split binary-cifar10-cnn --holdout random -n 50"))
def split(
    path: given.ZooPath,
    holdout: Annotated[str, typer.Option(help="published, random, no-neighbours or classes.")],
    n: Annotated[
        int | None, typer.Option("-n", help="How many tasks (default: 20), or with `classes` how many classes.")
    ] = None,
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
        what = {"out": str(target), **settings, "splits": counts}
        emit(what, as_json, f"would write {_in_words(counts)} to {target}")
        return
    made = split_zoo(zoo, config, command_line("rpg-zoo"), target)
    text = f"{_in_words(Counter(entry.split for entry in made.entries))}; {_held_out(made, config)}"
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}: {text}")


def _held_out(made: Zoo, holdout: Holdout) -> str:
    from zoo.conditions import never_one

    tasks = len({entry.condition for entry in made.select("unseen")})
    if holdout.kind == "classes":
        held = never_one(str(entry.condition) for entry in made.select("train"))
        return f"{tasks} tasks are held out: those learnt label no image of classes {', '.join(map(str, held))} with 1"
    if tasks < holdout.n:
        return f"{tasks} tasks are held out of {holdout.n} asked for: it has no networks of the others, ask for more"
    return f"{tasks} tasks are held out"


@app.command(rich_help_panel=DERIVE, epilog=examples("rpg-zoo take digits --seeds 1"))
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
        what = {"out": str(target), "seeds": seeds, "splits": counts}
        emit(what, as_json, f"would write {_in_words(counts)} to {target}")
        return
    made = take_seeds(zoo, seeds, command_line("rpg-zoo"), target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


@app.command(
    rich_help_panel=DERIVE, epilog=examples("rpg-zoo swap digits seed00000-0049 seed00000-0000 --share 0.1,0.5")
)
def swap(
    path: given.ZooPath,
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, as `rpg-zoo ls ZOO` names it.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The one whose parts A gets.")],
    parts: Parts = "layer",
    shares: Shares = "0.1",
    n: Annotated[int, typer.Option("-n", help="How many networks to make for each share.")] = 10,
    seed: int = 0,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo of networks that are A with parts of B (default place: zoos/<zoo>-swap). Of two networks that were
    trained apart, hardly any such network works (the paper's Figure 2); score them with `rpg-zoo score`.
    """
    from zoo.derive.swap import SwapConfig
    from zoo.derive.swap import swap as swap_parts
    from zoo.listing import derived_place, describe
    from zoo.recipe import validate
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    mine, theirs = zoo.entry(first), zoo.entry(other)
    target = derived_place(path, zoo, "swap", out)
    settings = {"parts": parts, "shares": _shares(shares), "n": n, "seed": seed}
    config = validate(SwapConfig, settings, "")
    if dry_run:
        count = n * len(config.shares)
        text = f"would write {count} networks that are {first} with parts of {other} to {target}"
        emit({"out": str(target), "first": first, "other": other, **settings}, as_json, text)
        return
    origin = zoo.manifest.origin.model_copy(update={"command": command_line("rpg-zoo")})
    made = swap_parts(config, zoo, mine, theirs, origin, target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


def _shares(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--share {text}: expected numbers from 0 to 1, as in 0.1,0.5") from error
