"""The program `rpg`, to which command lines add their commands."""

from __future__ import annotations

import typer

from zoo.command_help import Grouped, Version

app = typer.Typer(
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="`rpg`: train the recurrent diffusion on a zoo, generate networks, score them, report honestly.",
)


@app.callback()
def _program(version: Version = False) -> None:
    pass
