"""What a GPU does with all of this, in nine minutes at most: `make gpu`, or `python benchmarks/gpu.py`.

Each part is a process with a time limit. Whatever becomes of it, DIR/PART.json says so: its status, its seconds, the
end of what it printed, and the rows that it had found until then. A part that fails or is cut short keeps none of the
others from running. DIR/gpu.md has all tables. DIR is `--out`, or benchmarks/results/gpu, and is said at the end.

    python benchmarks/gpu.py --device cpu --quick     # the same way with tiny sizes, without a GPU: measures nothing

The exit code is 1 when a part failed or was cut short, 2 where the device is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness import ROOT, machine, table
from zoo import cuda
from zoo.console import pick_device
from zoo.files import write_bytes

HERE = ROOT / "benchmarks"
ALL_SECONDS = 525  # of the nine minutes; the rest is for starting and writing
TAIL = 4000  # characters of what a part printed that its record keeps


@dataclass(frozen=True)
class Part:
    """A process, the seconds that it may take, and what it is for."""

    name: str
    seconds: int
    what: str
    script: str | None = None  # of benchmarks/; None: the tests


PARTS = (
    Part("tests", 75, "tests that need a GPU"),
    Part("kernels", 45, "mamba-ssm's kernels against the scan in PyTorch", "gpu_kernels"),
    Part("steps", 165, "a training step of the four sizes", "gpu_steps"),
    Part("sampling", 125, "Tables 7 and 13: generating a network", "gpu_sampling"),
    Part("together", 45, "many small networks at once", "gpu_together"),
    Part("collect", 70, "collecting cifar10-resnet18", "gpu_collect"),
)


def command(part: Part, device: str, quick: bool, folder: Path) -> list[str]:
    """What to run; results go to the folder."""
    if part.script:
        line = [sys.executable, str(HERE / f"{part.script}.py"), "--device", device, "--out", str(folder)]
        return [*line, "--quick"] if quick else line
    # Without a GPU those of them that also compute on a CPU.
    files = [str(file) for file in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in file.read_text("utf-8")]
    chosen = ["-m", "gpu"] if device.startswith("cuda") else ["-k", "on_a_device and cpu"]
    return [sys.executable, "-m", "pytest", "-q", "-rs", *chosen, f"--junitxml={folder / 'tests.xml'}", *files]


def run(part: Part, device: str, quick: bool, most: float) -> dict[str, Any]:
    """Run a part for `most` seconds at most; its record."""
    environment = os.environ | {"RPG_NO_PROGRESS": "1", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, start = folder / "log", time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(part, device, quick, folder),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(timeout=most)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                    process.wait()
        return {
            "part": part.name,
            "what": part.what,
            "status": "cut short" if code is None else "done" if code == 0 else "failed",
            "exit_code": code,
            "seconds": round(time.perf_counter() - start, 1),
            "limit_s": round(most, 1),
            "result": result(part, folder, whole=code is not None),
            "log": log.read_text("utf-8", errors="replace")[-TAIL:],
        }


def result(part: Part, folder: Path, whole: bool) -> dict[str, Any]:
    """What the part wrote: rows at least, maybe none. pytest writes at its end, the others after each row."""
    if part.script:
        file = folder / f"{part.script}.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {"rows": []}
    file = folder / "tests.xml"
    if not whole or not file.is_file():
        return {"rows": []}
    rows = []
    for case in ElementTree.parse(file).iter("testcase"):  # noqa: S314  # which pytest just wrote
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        said = "passed" if outcome is None else outcome.tag
        why = "" if outcome is None else outcome.get("message", "").splitlines()[:1]
        rows.append(
            {"test": case.get("name"), "outcome": said, "seconds": float(case.get("time", 0)), "why": "".join(why)}
        )
    return {"rows": rows}


def summary(records: list[dict[str, Any]], quick: bool) -> str:
    """All parts as Markdown."""
    keys = ("part", "what", "status", "seconds", "limit_s")
    lines = ["# One GPU", "", *(["**--quick: these numbers mean nothing.**", ""] if quick else [])]
    lines += [table([{key: record[key] for key in keys} for record in records]), ""]
    lines += [f"- {key}: {value}" for key, value in machine().items()]
    for record in records:
        lines += ["", f"## {record['part']}: {record['what']}", ""]
        rows = record["result"].get("rows", [])
        lines += [table(rows) if rows else "No rows."]
        if record["status"] != "done":
            lines += ["", f"{record['status']} after {record['seconds']} s; the end of what it printed:", ""]
            lines += [f"    {line}" for line in record["log"].splitlines()[-15:]]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu", help="directory for the records")
    parser.add_argument("--device", default="cuda", help="what computes (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="only this; repeatable")
    options = parser.parse_args()
    try:
        device = pick_device(options.device)
    except ValueError as error:
        print(f"{error}, or --device cpu --quick, which goes the same way in small", file=sys.stderr)
        return 2
    print(f"on {cuda.name_of(device)}, at most {ALL_SECONDS} s; records go to {options.out}", flush=True)
    end, records = time.perf_counter() + ALL_SECONDS, []
    for part in PARTS:
        if options.part and part.name not in options.part:
            continue
        most = max(1.0, min(part.seconds, end - time.perf_counter()))
        record = run(part, str(device), options.quick, most)
        records.append(record)
        write_bytes(options.out / f"{part.name}.json", json.dumps(record, indent=1).encode() + b"\n")
        write_bytes(options.out / "gpu.md", summary(records, options.quick).encode())
        print(f"{part.name}: {record['status']} in {record['seconds']} s", flush=True)
    print(f"\n{summary(records, options.quick)}\nrecords: {options.out}")
    return 0 if all(record["status"] == "done" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
