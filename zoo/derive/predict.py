"""Networks for tasks that nobody trained, from those of other tasks and without a generator: what a generator with
conditions has to beat.

| kind         | the network for a condition is                                                                    |
|--------------|---------------------------------------------------------------------------------------------------|
| `nearest`    | the last checkpoint of the task that labels the fewest classes differently (the first of equals)  |
| `neighbours` | the mean of all checkpoints of all such tasks: where there are any, of its one-bit neighbours     |
| `regression` | what linear least squares says from the bits, for every weight                                    |

For a task that is itself among the given ones, `nearest` and `neighbours` look at the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.conditions import bits, distance
from zoo.derive.mixtures import Draft, shares, write
from zoo.manifest import Entry, Origin, settings_of
from zoo.store import Zoo, derivation
from zoo.structure import Frozen
from zoo.writer import ZooWriter


class PredictConfig(Frozen):
    """What to make: one network for each of `conditions`."""

    kind: Literal["nearest", "neighbours", "regression"]
    conditions: tuple[str, ...] = Field(min_length=1)


def predict(config: PredictConfig, zoo: Zoo, entries: Sequence[Entry], origin: Origin, path: Path) -> Zoo:
    """Make a zoo at `path` from these entries, or continue it. Kind, parent and settings of the origin are filled in.

    Raises ValueError when an entry has no condition, or when there is no other task to take.
    """
    if bare := [entry.id for entry in entries if entry.condition is None]:
        raise ValueError(f"{bare[0]} of {zoo.path} has no condition; expected a zoo of binary tasks")
    made_by = derivation(zoo, entries, "predict", settings_of(config))
    drafts = regressions(entries) if config.kind == "regression" else partial(_mean, config.kind, entries)
    conditions = list(dict.fromkeys(config.conditions))
    ids = [f"{config.kind}-{condition}" for condition in conditions]
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        write(writer, zoo, entries, ids, lambda k: drafts(conditions[k]), seed=0, split=config.kind)
        return writer.finish()


def _mean(kind: str, entries: Sequence[Entry], condition: str) -> Draft:
    rows = closest(entries, condition)
    if kind == "nearest":
        task = entries[rows[0]].condition
        rows = (max((row for row in rows if entries[row].condition == task), key=lambda row: entries[row].step),)
    return Draft(rows, shares(len(rows)), rows, condition=condition)


def closest(entries: Sequence[Entry], condition: str) -> tuple[int, ...]:
    """Which entries are the other tasks' at the smallest distance. Raises ValueError when there is no other task."""
    others = [(distance(str(e.condition), condition), row) for row, e in enumerate(entries) if e.condition != condition]
    if not others:
        raise ValueError(f"there is no task but {condition} to predict its network from")
    least = min(bits_apart for bits_apart, _ in others)
    return tuple(row for bits_apart, row in others if bits_apart == least)


def regressions(entries: Sequence[Entry]) -> Callable[[str], Draft]:
    """What least squares of every weight on a constant and the bits says for a condition, as a combination of the
    entries' networks. The solution of least norm where the tasks do not decide.
    """
    everything = tuple(range(len(entries)))
    x = torch.stack([_features(str(entry.condition)) for entry in entries])
    inverse = torch.linalg.pinv(x.T @ x, hermitian=True, rtol=1e-10)

    def draft(condition: str) -> Draft:
        return Draft(everything, x @ (inverse @ _features(condition)), everything, condition=condition)

    return draft


def _features(condition: str) -> Tensor:
    return torch.cat([torch.ones(1), bits(condition)]).double()
