"""What the command lines print of zoos: lists as tables, a zoo in a few fields, and where a derived one goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.console import plain
from zoo.formats.sources import Sources
from zoo.hub.client import is_address
from zoo.manifest import Entry
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.table import Record, Table

SHOWN_FILES = 5  # in a sentence


def imported_files(zoo: Zoo) -> dict[str, str]:
    """Where each checkpoint was before it was imported, by its id; nothing for a zoo that was not."""
    found = Sources.of(zoo)
    return {id: record.file for id, record in found.networks.items()} if found else {}


def imported_text(zoo: Zoo) -> str:
    """`imported_files` in a line, for people, with its end; nothing where there are none."""
    files = list(imported_files(zoo).values())
    more = f" and {len(files) - SHOWN_FILES} more, which `rpg-zoo ls` lists" if len(files) > SHOWN_FILES else ""
    return f"imported from {plain(', '.join(files[:SHOWN_FILES]))}{more}\n" if files else ""


def checkpoints_table(entries: Sequence[Entry], files: Mapping[str, str]) -> Table:
    """A row per checkpoint, with the metrics that were measured while it was made and their standard errors, and the
    file that it was imported from.
    """
    records = []
    for entry in entries:
        record: Record = {"id": entry.id, "split": entry.split, "seed": entry.seed, "step": entry.step}
        if entry.id in files:
            record["source"] = files[entry.id]
        if entry.condition is not None:
            record["condition"] = entry.condition
        for metric in entry.metrics.values():
            record |= {metric.name: metric.value, f"{metric.name} ±": metric.stderr}
        records.append(record)
    table = Table.of(records)
    return Table(table.columns, table.rows, dict.fromkeys(table.columns, 3))


def recipes_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per recipe, out of its `task:` section."""
    return Table.of(
        [
            {
                "recipe": name,
                "task": task["name"],
                "network": str(task.get("model") or task["size"]),
                "data": task["data"],
            }
            for name, task in tasks.items()
        ]
    )


def recipe_problem(zoo: Zoo) -> list[str]:
    """What is wrong with the recipe in the manifest, if anything is."""
    try:
        if zoo.manifest.origin.task:
            task_of(zoo.manifest.origin)
    except ValueError as error:
        return [plain(f"the task in the manifest is broken: {error}")]
    return []


def derived_place(source: Path, zoo: Zoo, suffix: str, out: Path | None) -> Path:
    """Where a zoo derived from another goes: beside it, or where --out says."""
    return out or (Path("zoos") if is_address(source) else zoo.path.resolve().parent) / f"{zoo.name}-{suffix}"


def describe(zoo: Zoo) -> dict[str, object]:
    """A zoo in a few fields, for `--json`."""
    splits = [entry.split for entry in zoo.entries]
    return {
        "zoo": str(zoo.path),
        "sha256": zoo.sha256,
        "kind": zoo.manifest.origin.kind,
        "recipe": zoo.manifest.origin.name,
        "task": zoo.manifest.origin.family,
        "checkpoints": len(zoo.entries),
        "splits": {split: splits.count(split) for split in sorted(set(splits))},
        "values": zoo.structure.numel,
        "bytes": sum(record.bytes for record in zoo.manifest.files.values()),
    }
