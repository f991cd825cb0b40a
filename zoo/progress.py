"""Progress of long work on stderr: a bar on a terminal, elsewhere a line a minute or every 5%, and one at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from time import monotonic
from typing import Protocol

from zoo.console import plain

EVERY = 60  # seconds between lines, at most
SHARE = 5  # percent between lines,
AT_LEAST = 5  # but so many seconds


class Bar(Protocol):
    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many more steps are done; the note is shown until the next one."""
        ...

    def skip(self, steps: int) -> None:
        """So many steps were done before this call, so they say nothing about its speed."""
        ...


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def skip(self, steps: int) -> None:
        pass


class _Rich:
    def __init__(self, bars, task) -> None:  # type: ignore[no-untyped-def]  # rich is imported where it is used
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=steps, **({"note": plain(note)} if note else {}))

    def skip(self, steps: int) -> None:
        self._bars.update(self._task, advance=steps)  # of its speed the first update is no part


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = self._skipped = 0
        self._note = ""
        self._start = self._last = monotonic()
        self._shown = 0  # percent

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self._note = note or self._note
        waited = monotonic() - self._last
        if waited >= EVERY or (waited >= AT_LEAST and self._percent >= self._shown + SHARE):
            self._last, self._shown = monotonic(), self._percent
            left = (self._total - self._done - self._skipped) * self._seconds_each()
            self._print(f"{duration(left)} left")

    def skip(self, steps: int) -> None:
        self._skipped += steps
        self._shown = self._percent

    def finish(self) -> None:
        """The last line; none where nothing had to be done."""
        if self._done:
            self._print(f"{duration(monotonic() - self._start)} in all")

    @property
    def _percent(self) -> int:
        return 100 * (self._done + self._skipped) // max(self._total, 1)

    def _seconds_each(self) -> float:
        return (monotonic() - self._start) / max(self._done, 1)

    def _print(self, time: str) -> None:
        done = self._done + self._skipped
        share = f"{done:,} of {self._total:,} ({self._percent}%)"
        parts = [share, self._note, _rate(self._seconds_each()), time]
        print(plain(f"{self._what}: {', '.join(filter(None, parts))}"), file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, show: bool = True) -> Iterator[Bar]:
    """Shows how far work of `total` steps is; `what` names it, as in `training digits`. `RPG_NO_PROGRESS=1` turns it
    off.
    """
    if not show or os.environ.get("RPG_NO_PROGRESS"):
        yield _Silent()
    elif sys.stderr.isatty() and parent_process() is None:  # bars of several workers would overwrite one another
        with _terminal(what, total) as bar:
            yield bar
    else:
        lines = _Lines(what, total)
        yield lines
        lines.finish()


@contextmanager
def _terminal(what: str, total: int) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Rich(bars, bars.add_task(plain(what), total=total, note=""))


def _rate(seconds_each: float) -> str:
    if seconds_each >= 1:
        return f"{seconds_each:.1f} s each"
    return f"{1 / seconds_each:,.1f}/s" if seconds_each else ""  # too quick for the clock


def duration(seconds: float) -> str:
    """In s, min or h, with three digits, or all before the point."""
    value, unit = (seconds, "s") if seconds < 60 else (seconds / 60, "min") if seconds < 3600 else (seconds / 3600, "h")
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
