"""What the site makes of the code when it is built: a page with the help of every command, and docstrings as Markdown.

A hook of MkDocs (`hooks:`), and an extension of griffe, which reads docstrings for mkdocstrings.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from mkdocs.structure.files import File, Files
from typer.main import get_command

WIDTH = 110  # characters of a line of help
ABOUT = {"rpg": "learn networks, generate new ones, judge them", "rpg-zoo": "make, look at and pass on zoos"}
EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?|^\.\.\. .*\n?)*)+", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the page of each program."""
    import rpg.cli
    import zoo.cli

    for program, app in (("rpg", rpg.cli.app), ("rpg-zoo", zoo.cli.app)):
        files.append(File.generated(config, f"reference/{program}.md", content=page(program, app)))
    return files


def page(program: str, app: Any) -> str:
    """Markdown: what `--help` of each command prints, in its groups."""
    group = get_command(app)
    parts = [f"# `{program}`: {ABOUT[program]}\n"]
    root = group.make_context(program, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
    headings = {command.rich_help_panel: None for command in group.commands.values()}
    for heading in headings:
        parts.append(f"## {heading}\n")
        for name, command in group.commands.items():
            if command.rich_help_panel == heading:
                context = type(root)(command, info_name=name, parent=root, terminal_width=WIDTH)
                parts.append(f"### `{program} {name}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def markdown(text: str) -> str:
    """A docstring as Markdown: examples in fences; `<recipe>` and `n_*` are what they say, not markup."""
    fenced = EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
    pieces = re.split(r"(```.*?```|`[^`]*`)", fenced, flags=re.DOTALL)
    return "".join(piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in pieces)


class Docstrings(griffe.Extension):
    """Docstrings of this project as Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
