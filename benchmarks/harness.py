"""What the benchmarks share: sides timed in turn, watched memory, the machine, results as JSON and as a table.

bench = Bench("tokens", arguments(__doc__).parse_args())
plain, fast = interleaved({"plain": f, "fast": g}, rounds=5).values()
bench.check("both give the same tokens", torch.equal(f(), g()))
bench.row(case="small", plain_s=plain.median, fast_s=fast.median, speedup=fast.speedup_over(plain))
bench.finish()  # prints the table, writes OUT/tokens.json and OUT/tokens.md
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from zoo import cuda
from zoo.console import pick_device
from zoo.files import write_bytes

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Timing:
    """Seconds of every round."""

    seconds: tuple[float, ...]

    @property
    def min(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def speedup_over(self, other: Timing) -> float:
        """How many times faster than `other`: the median over rounds, since the sides of a round share its weather."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time all sides in one run. Each round calls every side once, beginning with another one each time, so that what
    slows the machine for a while slows all of them. `warmup` rounds come first and are not counted.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-warmup, rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            cuda.synchronise_all()
            start = time.perf_counter()
            sides[name]()
            cuda.synchronise_all()
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process (Linux). `anonymous` is what it has allocated itself; `file` are mapped pages of
    files, which the system takes back whenever it needs room: they grow with the free memory, not with the need.
    """

    anonymous: int
    file: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(*(int(status.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "RssFile")))


def watch(work: Callable[..., Any], *values: Any) -> tuple[Memory, Memory, Any]:
    """Run `work(*values)` in a process of its own: its memory before, its peak, and what it returned.

    The process is a fresh copy of one that has only imported the benchmark. It is looked at from here every few
    milliseconds, so that nothing that it does can delay that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "diffusers"])  # which training imports when it begins
    here, there = context.Pipe()
    process = context.Process(target=_watched, args=(there, work, values), daemon=True)
    process.start()
    there.close()
    assert process.pid
    try:
        here.recv()
        before = Memory.of(process.pid)
        peaks = [before]
        here.send("go")
        while not here.poll(0.002):
            peaks.append(Memory.of(process.pid))
        result = here.recv()
    except (EOFError, OSError, KeyError):
        process.join()
        sys.exit(f"{work.__name__}{values} ended with exit code {process.exitcode}")
    process.join()
    return before, Memory(max(at.anonymous for at in peaks), max(at.file for at in peaks)), result


def _watched(pipe: Connection, work: Callable[..., Any], values: tuple[Any, ...]) -> None:
    pipe.send("ready")
    pipe.recv()
    pipe.send(work(*values))


class Served:
    """A side in a process of its own, with its own threads, memory and settings: `script --serve ARGUMENTS...` does a
    step for every line of stdin and answers with a number.
    """

    def __init__(self, script: str, *arguments: str) -> None:
        self.command = [sys.executable, script, "--serve", *arguments]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answers: list[float] = []

    def step(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(self.command)} ended")
        self.answers.append(float(answer))

    def stop(self) -> None:
        self.process.communicate()


def serve(step: Callable[[int], float]) -> None:
    """The other end of `Served`: `step` gets 0, 1, 2..."""
    for number, _ in enumerate(sys.stdin):
        print(step(number), flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; a benchmark may add its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="directory for the results; benchmarks/results without it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--device", default="cpu", help="what computes: cpu, cuda, cuda:1 or auto (default: cpu)")
    return parser


class Bench:
    """Collects the rows and checks of one benchmark."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.quick: bool = options.quick
        try:
            self.device = pick_device(options.device)
        except ValueError as error:
            sys.exit(f"bench_{name}: {error}")
        results = ROOT / "benchmarks" / "results"
        self.out: Path = options.out or (results / "quick" if self.quick else results)
        self.rows: list[dict[str, Any]] = []
        self.checks: list[str] = []

    def row(self, **values: str | float | bool | None) -> None:
        """A line of the table. Rows may have different columns; give units in the names (`step_ms`, `read_gb_s`)."""
        self.rows.append(values)

    def check(self, what: str, passed: bool) -> None:
        """Record that this was found true; a benchmark whose sides differ ends here, without a result."""
        if not passed:
            sys.exit(f"bench_{self.name}: not true: {what}")
        self.checks.append(what)

    def finish(self, **extra: Any) -> None:
        """Print the table, and save it."""
        print(self.save(**extra))

    def save(self, **extra: Any) -> str:
        """Write what there is so far as `<name>.json` (with `extra` beside the rows) and `<name>.md`, and return the
        latter: what may be cut short saves after each row.
        """
        command = " ".join(["python", *map(_relative, sys.argv)])
        found = machine() | {"device": cuda.name_of(self.device)}
        result = {
            "benchmark": self.name,
            "quick": self.quick,
            "command": command,
            "machine": found,
            "checks": self.checks,
            "rows": self.rows,
            **extra,
        }
        setting = "\n".join(f"- {key}: {value}" for key, value in found.items())
        checked = "\n".join(f"- checked: {what}" for what in self.checks)
        quick = "**--quick: these numbers mean nothing.**\n\n" if self.quick else ""
        text = f"# {self.name}\n\n{quick}{table(self.rows)}\n\n- command: `{command}`\n{setting}\n{checked}\n"
        write_bytes(self.out / f"{self.name}.json", json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
        write_bytes(self.out / f"{self.name}.md", text.encode())
        return text


def _relative(argument: str) -> str:
    """Paths below the repository without the machine's part."""
    return argument.removeprefix(f"{ROOT}/")


def machine() -> dict[str, str | int | float]:
    """What a number depends on beside the code: the device, threads, versions, commit and date."""
    found: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if gpus := cuda.names():
        found["gpu"] = gpus[0]
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The checked out commit, with `+` when tracked files differ from it."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    try:
        head, changes = (
            subprocess.run([*git, *what], capture_output=True, text=True, check=True).stdout.strip()
            for what in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown, a table for each run of rows with the same columns."""
    blocks: list[list[dict[str, Any]]] = []
    for row in rows:
        if not blocks or list(blocks[-1][0]) != list(row):
            blocks.append([])
        blocks[-1].append(row)
    return "\n\n".join(_block(block) for block in blocks)


def _block(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
