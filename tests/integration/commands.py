"""Runs command lines of `rpg-zoo` and `rpg` in the process of the test."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import rpg.cli
import zoo.cli
from zoo.console import run_cli

TINY = str(Path(__file__).parent / "tiny.yaml")
APPS = {"rpg-zoo": zoo.cli.app, "rpg": rpg.cli.app}


def run(command: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    argv = command.split()
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as exit:
            run_cli(APPS[argv[0]], argv[0])
    return int(exit.value.code or 0), out.getvalue(), err.getvalue()


def call(command: str, code: int = 0) -> str:
    """What the command writes to stdout; where it is to fail, the one line on stderr that says why, the last."""
    found, out, err = run(command)
    assert found == code, err
    if code == 0:
        return out
    lines = err.splitlines()
    assert [line for line in lines if line.startswith(f"{command.split()[0]}: ")] == lines[-1:], err
    return lines[-1]


def make_tiny(place: Path) -> None:
    """Collect, train and generate `tiny` in a directory, in the default places there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command in (f"rpg-zoo collect {TINY}", f"rpg train {TINY}", "rpg generate tiny"):
            call(command)
