"""Commands as they are shown to people: found in Markdown, and parsed by the programs' own parsers, without running."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from typer.main import get_command

import rpg.cli
import zoo.cli
from zoo.names import method_names, recipe_names
from zoo.recipe import load_method, load_recipe

PROGRAMS = {"rpg": get_command(rpg.cli.app), "rpg-zoo": get_command(zoo.cli.app)}
BLOCK = re.compile(r"^( *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
SHELLS = ("", "sh", "bash", "shell", "console")


def shown(page: str) -> Iterator[tuple[str, bool]]:
    """Every command of ours in a Markdown page, and whether it is whole: in a block it is, in a sentence it may be the
    beginning of one.
    """
    for block in BLOCK.finditer(page):
        if block["language"] in SHELLS:
            for line in block["text"].replace("\\\n", " ").splitlines():
                yield from ((part, True) for part in _ours(re.sub(r"(^|\s)#.*", "", line)))
    for span in INLINE.findall(BLOCK.sub("", page)):
        yield from ((part, False) for part in _ours(" ".join(span.split())))


def _ours(line: str) -> list[str]:
    parts = [part.strip().removeprefix("$ ") for part in re.split(r"&&|;|\| ", line)]
    return [part for part in parts if re.match(r"(rpg|rpg-zoo)( |$)", part)]


def problem(line: str, whole: bool = True) -> str | None:
    """What is wrong with a command line, if anything is: its command, options, arguments, recipe or settings. Of one
    that is not `whole` arguments, and the value of an option, may be missing.
    """
    program, *words = shlex.split(line)
    group: Any = PROGRAMS[program]
    if not words or words[0].startswith("-"):
        known = {"--help", "--version", "--install-completion"}
        return None if set(words) <= known else f"{program} has no {words[0]}"
    command = group.commands.get(words[0])
    if command is None:
        return f"{program} has no command {words[0]}"
    try:
        with patch("zoo.plugins.let_in"):  # `--import` of a page's files, which are not here
            context = command.make_context(words[0], words[1:])
        _check_recipe(words[0], context.params)
    except Exception as error:  # whatever the parser says
        if not whole and type(error).__name__ in ("MissingParameter", "BadOptionUsage"):  # `rpg report --script`
            return None
        return f"{type(error).__name__}: {error}"
    return None


def _check_recipe(command: str, options: dict[str, Any]) -> None:
    """Raise ValueError unless the settings of `--set` are those of the recipe, or the method, that is named."""
    settings = options.get("overrides") or ()
    method = options.get("method") if options.get("method") in method_names() else None
    named = [options.get(key) for key in ("what", "recipe", "task", "recipes")]
    names = [name for item in named for name in (item if isinstance(item, list | tuple) else [item])]
    if command == "demo":
        names = ["digits"]
    for name in (name for name in names if isinstance(name, str)):
        if name in recipe_names():
            load_recipe(name, settings, method)
        elif re.fullmatch(r"[a-z][a-z0-9-]*", name) and name not in method_names():
            raise ValueError(f"there is no recipe {name!r}")
    if method and not any(name in recipe_names() for name in names):
        load_method(method, [pair for pair in settings if pair.startswith(("method.", "generate."))])
