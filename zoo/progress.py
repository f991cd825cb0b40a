"""Progress bars on stderr for long work, when stderr is a terminal; nothing otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    def advance(self, steps: int = 1, note: str = "") -> None: ...


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class _Rich:
    def __init__(self, bars, task) -> None:  # type: ignore[no-untyped-def]  # rich is imported where it is used
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=steps, note=note)


@contextmanager
def progress(what: str, total: int, show: bool = True) -> Iterator[Bar]:
    """A bar for `total` steps. `RPG_NO_PROGRESS=1` turns bars off."""
    if not show or not sys.stderr.isatty() or os.environ.get("RPG_NO_PROGRESS"):
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        "{task.description:>9}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Rich(bars, bars.add_task(what, total=total, note=""))
