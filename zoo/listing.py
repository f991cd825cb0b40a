"""What the command lines print of zoos: lists as tables, a zoo in a few fields, and where a derived one goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.console import plain
from zoo.formats.sources import Sources
from zoo.health import validated
from zoo.hub.client import is_address
from zoo.manifest import Entry
from zoo.recipe import load_recipe, recipe_names, task_of
from zoo.store import Zoo, absolute
from zoo.table import Record, Table
from zoo.training.collect import jobs

SHOWN_FILES = 5  # in a sentence
MB = 10**6


def imported_files(zoo: Zoo) -> dict[str, str]:
    """Where each checkpoint was before it was imported, by its id; nothing for a zoo that was not."""
    found = Sources.of(zoo)
    return {id: record.file for id, record in found.networks.items()} if found else {}


def imported_text(zoo: Zoo) -> str:
    """`imported_files` in a line, for people, with its end; nothing where there are none."""
    files = list(imported_files(zoo).values())
    more = f" and {len(files) - SHOWN_FILES} more, which `rpg-zoo ls` lists" if len(files) > SHOWN_FILES else ""
    return f"imported from {plain(', '.join(files[:SHOWN_FILES]))}{more}\n" if files else ""


def checkpoint_rows(zoo: Zoo) -> list[dict[str, Any]]:
    """The checkpoints with the files they were imported from, JSON-ready."""
    files = imported_files(zoo)
    rows = [entry.model_dump(mode="json") for entry in zoo.entries]
    return [row | ({"source": files[row["id"]]} if row["id"] in files else {}) for row in rows]


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
            title = f"{metric.name}, %" if metric.higher_is_better else metric.name
            record |= {title: metric.value, f"{metric.name} ±": metric.stderr}
        records.append(record)
    table = Table.of(records)
    return Table(table.columns, table.rows, dict.fromkeys(table.columns, 3))


def zoo_line(zoo: Zoo) -> str:
    """A zoo in a line, below the list of its checkpoints."""
    found = describe(zoo)
    conditions = f" of {found['conditions']} tasks" if found["conditions"] else ""
    splits = ", ".join(f"{count} {split}" for split, count in zoo_splits(zoo).items())
    size = sum(record.bytes for record in zoo.manifest.files.values()) / MB
    return f"{len(zoo.entries)} checkpoints{conditions} ({splits}) of {zoo.structure.numel:,} values, {size:.1f} MB"


def zoos_in(folder: Path) -> list[Zoo]:
    """The finished zoos in a directory. Raises ValueError where there is none."""
    found = [Zoo.open(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    if not found:
        raise ValueError(f"{folder} is no zoo and holds none; `rpg-zoo collect` makes one")
    return found


def zoos_table(zoos: Sequence[Zoo]) -> Table:
    """A row per zoo; the score is the mean on validation data."""
    records: list[Record] = []
    for zoo in zoos:
        origin, found = zoo.manifest.origin, validated(zoo)
        records.append(
            {
                "zoo": zoo.path.name,
                "kind": origin.kind,
                "recipe": origin.name,
                "checkpoints": len(zoo.entries),
                "splits": ", ".join(f"{count} {split}" for split, count in zoo_splits(zoo).items()),
                "tasks": len({entry.condition for entry in zoo.entries} - {None}) or None,
                "values": zoo.structure.numel,
                "MB": sum(record.bytes for record in zoo.manifest.files.values()) / MB,
                "validation, %": found.mean if found else None,
            }
        )
    return Table.of(records, {"MB": 1})


def zoo_splits(zoo: Zoo) -> dict[str, int]:
    """How many checkpoints each split has."""
    splits = [entry.split for entry in zoo.entries]
    return {split: splits.count(split) for split in sorted(set(splits))}


def recipes_found() -> dict[str, dict[str, Any]]:
    """All recipes that come with the package, JSON-ready: `task`, `checkpoints` of its zoo (all splits), `about`."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    return {
        name: {
            "task": recipe.task.model_dump(mode="json"),
            "checkpoints": recipe.zoo.saved * len(jobs(recipe.zoo, recipe.task.conditions())),
            "about": recipe.about.model_dump(mode="json") if recipe.about else None,
            "hours": recipe.about.total_hours if recipe.about else None,
        }
        for name, recipe in recipes.items()
    }


def recipes_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per recipe of `recipes_found`. Hours are of all stages, on the recipe's hardware; the score is what to
    expect of originals and generated networks.
    """
    records: list[Record] = []
    for name, one in found.items():
        task, about = one["task"], one["about"] or {}
        expected = about.get("expected") or {}
        records.append(
            {
                "recipe": name,
                "task": task["name"],
                "network": str(task.get("model") or task["size"]),
                "data": task["data"],
                "parameters": about.get("parameters"),
                "checkpoints": one["checkpoints"],
                "hours": one["hours"],
                "metric": expected.get("metric"),
                "originals": expected.get("originals"),
                "generated": expected.get("generated"),
            }
        )
    return Table.of(records, {"originals": 1, "generated": 1})


def recipe_problem(zoo: Zoo) -> list[str]:
    """What is wrong with the recipe in the manifest, if anything is."""
    try:
        if zoo.manifest.origin.task:
            task_of(zoo.manifest.origin)
    except ValueError as error:
        return [plain(f"the task in the manifest cannot be used here: {error}")]
    return []


def derived_place(source: str, zoo: Zoo, suffix: str, out: Path | None) -> Path:
    """Where a zoo derived from another goes: beside it, or beside the link to it, or where --out says."""
    return out or (Path("zoos") if is_address(source) else absolute(zoo.path).parent) / f"{zoo.name}-{suffix}"


def describe(zoo: Zoo) -> dict[str, object]:
    """A zoo in a few fields, for `--json`."""
    return {
        "zoo": str(zoo.path),
        "sha256": zoo.sha256,
        "kind": zoo.manifest.origin.kind,
        "recipe": zoo.manifest.origin.name,
        "task": zoo.manifest.origin.family,
        "checkpoints": len(zoo.entries),
        "splits": zoo_splits(zoo),
        "conditions": len({entry.condition for entry in zoo.entries} - {None}),
        "values": zoo.structure.numel,
        "bytes": sum(record.bytes for record in zoo.manifest.files.values()),
    }
