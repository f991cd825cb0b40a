"""What the command lines say of themselves."""

import subprocess
import sys
from importlib.metadata import version
from typing import get_args

import pytest
from typer.main import get_command

import rpg.cli
import zoo.cli
from command_lines import problem
from rpg.config import Sampler
from zoo import command_help
from zoo.console import run_cli
from zoo.names import recipe_meant, recipe_names
from zoo.table import FORMATS

PROGRAMS = {"rpg": rpg.cli.app, "rpg-zoo": zoo.cli.app}


def said(program, *arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as exit:
        run_cli(PROGRAMS[program], program)
    return exit.value.code, capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_all_commands_once_and_in_groups(program, monkeypatch, capsys):
    code, text = said(program, "--help", monkeypatch=monkeypatch, capsys=capsys)
    commands = get_command(PROGRAMS[program]).commands
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()[0] in commands]
    assert code == 0
    assert sorted(listed) == sorted(commands)
    headings = {command.rich_help_panel for command in commands.values()}
    assert len(headings) == 4
    assert all(f"\n{heading}:\n" in text for heading in headings)
    assert "\nCommands:" not in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_has_examples_that_are_its_own(program):
    for name, command in get_command(PROGRAMS[program]).commands.items():
        lines = command.epilog.splitlines()[2:]
        assert lines, name
        for line in lines:
            assert line.split()[:2] == [program, name]
            assert problem(line) is None, problem(line)


@pytest.mark.parametrize("module", ["rpg", "zoo"])
def test_version_and_running_as_a_module(module):
    run = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"rpg-zoo {version('rpg-zoo')}\n"


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("zoos/digits/manifest.json", "zoos/unfinished/journal.jsonl", "runs/mine/trained.json"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    assert command_help.recipes("dig") == [name for name in sorted(recipe_names()) if name.startswith("dig")] != []
    assert "rpg-tiny" in command_help.methods("rpg-")
    assert command_help.zoos("") == ["digits"]
    assert command_help.runs("m") == ["mine"]
    assert command_help.runs("x") == []
    assert command_help.samplers("dd") == ["ddim", "ddpm"]
    assert command_help.samplers("") == sorted(get_args(Sampler))
    assert set(command_help.table_formats("")) == set(FORMATS) - {"markdown"}  # as `rpg compare --help` says
    assert "digits" in command_help.recipes_or_zoos("d")


def test_messages_name_the_recipe_that_is_meant():
    assert recipe_meant("digits") == "digits"
    assert recipe_meant("digits-gaussian-generated") == "digits"
    assert recipe_meant("cifar10-cnn-medium-generated") == "cifar10-cnn-medium"
    assert recipe_meant("digitsy") == recipe_meant("mine") == "RECIPE"


def test_a_shell_that_completes_does_not_wait_for_torch():
    code = "import sys, zoo.command_help as c; c.recipes(''); print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
