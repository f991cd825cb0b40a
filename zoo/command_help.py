"""What the command lines say of themselves: commands in groups, examples, the version, names that a shell completes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zoo.names import method_names, recipe_names, table_names

FIRST, LEARN, JUDGE, AROUND = "To begin with", "Learn and generate", "Judge", "Look around and publish"
MAKE, LOOK, DERIVE, SHARE = "Make zoos", "Look at zoos", "Make zoos of zoos", "Pass on"
HEADINGS = (FIRST, LEARN, JUDGE, AROUND, MAKE, LOOK, DERIVE, SHARE)
"""Headings of commands, in the order in which a program's help shows those it has."""


class Grouped(TyperGroup):
    """A program whose help lists its commands under the headings that they name (`rich_help_panel`)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            groups.setdefault(command.rich_help_panel, []).append(command)
        limit = formatter.width - 6 - max(len(name) for name in self.list_commands(ctx))
        for heading in sorted(groups, key=HEADINGS.index):
            with formatter.section(heading):
                formatter.write_dl([(one.name, one.get_short_help_str(limit)) for one in groups[heading]])


def examples(*lines: str) -> str:
    """The end of a command's help: lines to type, as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rpg-zoo {version('rpg-zoo')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]


def _starting(names: Iterable[str], typed: str) -> list[str]:
    return [name for name in sorted(names) if name.startswith(typed)]


def _finished(folder: str, seal: str) -> list[str]:
    return [path.parent.name for path in Path(folder).glob(f"*/{seal}")]


def recipes(incomplete: str) -> list[str]:
    """Short names of recipes."""
    return _starting(recipe_names(), incomplete)


def tables(incomplete: str) -> list[str]:
    """Names of the paper's tables and figures, and `all`."""
    return _starting(("all", *table_names()), incomplete)


def methods(incomplete: str) -> list[str]:
    """Names of methods' settings."""
    return _starting(method_names(), incomplete)


def data_sets(incomplete: str) -> list[str]:
    """Names of the data sets that can be fetched."""
    return _starting(("ade20k", "coco", "commonsense", "imagenet"), incomplete)


def zoos(incomplete: str) -> list[str]:
    """Names of the zoos under zoos/."""
    return _starting(_finished("zoos", "manifest.json"), incomplete)


def runs(incomplete: str) -> list[str]:
    """Names of the trained runs under runs/."""
    return _starting(_finished("runs", "trained.json"), incomplete)


def recipes_or_zoos(incomplete: str) -> list[str]:
    return sorted({*recipes(incomplete), *zoos(incomplete)})


def zoos_or_reports(incomplete: str) -> list[str]:
    return sorted({*zoos(incomplete), *_starting(_finished("reports", "report.json"), incomplete)})


def samplers(incomplete: str) -> list[str]:
    return _starting(("ddpm", "ddim", "dpm++"), incomplete)


def table_formats(incomplete: str) -> list[str]:
    return _starting(("table", "csv", "latex", "json"), incomplete)
