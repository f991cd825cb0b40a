"""Command-line options that both programs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _import(named: list[str]) -> list[str]:
    from zoo.plugins import let_in

    for module in named:
        let_in(module)
    return named


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made and stop.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write, instead of the default place.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's short name, or a YAML file.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the recipe, as in zoo.epochs=3, method.train.steps=500 or generate.n=20.",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="RPG_DATA", help="Where data sets are; without it, from the Hub.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, or auto.")]
Precision = Annotated[str, typer.Option("--precision", help="float32, or bfloat16 (faster on GPUs); scores say which.")]
Import = Annotated[
    list[str],
    typer.Option(
        "--import",
        metavar="FILE|MODULE",
        callback=_import,
        help="Code of your own that you trust: what it registers, and its networks for task.model. Can be repeated.",
    ),
]
