"""Lists that the command lines print, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.manifest import Entry
from zoo.table import Record, Table


def checkpoints_table(entries: Sequence[Entry]) -> Table:
    """A row per checkpoint, with the metrics that were measured while it was made and their standard errors."""
    records = []
    for entry in entries:
        record: Record = {"id": entry.id, "split": entry.split, "seed": entry.seed, "step": entry.step}
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
