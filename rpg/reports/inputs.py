"""What a comparison was made of, and whether a directory already holds the report of another one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.errors import Corrupt
from zoo.files import parse_json, read_limited
from zoo.manifest import Entry

REPORT = "report.json"
BEGUN = {REPORT, "baselines", "scores.jsonl", "plots"}  # some of these are there first
OURS = {*BEGUN, "report.csv", "report.md", "report.html"}
REPORT_BYTES = 2**28  # a larger report is none of ours

Inputs = dict[str, str]
"""What decides a comparison's numbers, in words, by what it is: networks by their contents, test data by protocol."""


def networks(parts: Sequence[Sequence[Entry]]) -> str:
    """The identity of a group's networks, by their contents, in their order and in their parts."""
    hashes = [[entry.sha256 for entry in part] for part in parts]
    digest = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
    return f"{sum(map(len, parts))} networks {digest}"


def refuse_foreign(out: Path) -> None:
    """Raise ValueError when `out` holds files and is no report, finished or begun."""
    if out.is_file():
        raise ValueError(f"{out} is a file; expected a directory for the report, choose another place with --out")
    names = {path.name for path in out.glob("[!.]*")} if out.is_dir() else set()
    if names and (names - OURS or not names & BEGUN):
        raise ValueError(f"{out} exists and is not a report; choose another place with --out")


def claim(out: Path, inputs: Mapping[str, str]) -> None:
    """Raise ValueError when `out` holds the report of other inputs, naming what differs; Corrupt when what it holds is
    no report.
    """
    refuse_foreign(out)
    path = out / REPORT
    if not path.exists():
        return
    found = parse_json(read_limited(path, REPORT_BYTES), path)
    there = found.get("inputs") if isinstance(found, dict) else None
    if not isinstance(there, dict):
        raise Corrupt(f"{path} is not a report of ours; choose another place with --out")
    differences = [
        f"{key}: {there.get(key, 'none')} there, {inputs.get(key, 'none')} now"
        for key in dict.fromkeys([*inputs, *there])
        if there.get(key) != inputs.get(key)
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ValueError(
            f"{out} holds another report ({'; '.join(differences[:3])}{more}); choose another place with --out or "
            "remove it"
        )


def discard(out: Path) -> None:
    """Remove a report, but not the scores and baselines that it was made of, which another one can use."""
    for name in OURS - BEGUN | {REPORT}:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "plots", ignore_errors=True)
