"""Binary tasks that generators are told: their bits, for networks of a zoo and for those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.conditions import bits, check_condition, example
from zoo.manifest import Entry
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import RunRecord


def conditions_of(zoo: Zoo, entries: Sequence[Entry], needing: str, otherwise: str) -> tuple[str, ...]:
    """The condition of each checkpoint. Raises ValueError, with the remedy, when one has none; `needing` is what."""
    for entry in entries:
        if entry.condition is None:
            raise ValueError(
                f"{entry.id} of {zoo.path} has no condition, which {needing} needs; expected a zoo of binary tasks, "
                f"or {otherwise}"
            )
    classes = len(str(entries[0].condition))
    return tuple(check_condition(str(entry.condition), classes) for entry in entries)


def classes_of(record: RunRecord) -> int:
    """How many bits the conditions of a run's zoo have."""
    return len(next(iter(record.conditions.values()))[0])


def require_conditions(name: str, conditions: Sequence[str], classes: int) -> None:
    """Raise ValueError unless there are conditions, each of so many classes; `name` is that of a run's networks."""
    if not conditions:
        raise ValueError(
            f"the run of {name} generates for a condition; say which: --condition {example(classes)}, or --split with "
            "a split of its zoo, as in --split unseen"
        )
    for condition in conditions:
        check_condition(condition, classes)


def stacked(conditions: Sequence[str]) -> Tensor:
    """Their bits, float32 (N, classes)."""
    return torch.stack([bits(condition) for condition in conditions])
