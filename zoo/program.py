"""The program `rpg-zoo`, to which command lines add their commands."""

from __future__ import annotations

import typer

from zoo.command_help import Grouped, Version

app = typer.Typer(
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="`rpg-zoo`: make, import, look at, check, score and perturb zoos.",
)


@app.callback()
def _program(version: Version = False) -> None:
    pass
