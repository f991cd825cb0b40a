"""Baselines for generators with conditions: networks for tasks that were never trained, made from the networks of other
tasks.

| kind         | the network for a condition is                                                                    |
|--------------|---------------------------------------------------------------------------------------------------|
| `nearest`    | the last checkpoint of the task that labels the fewest classes differently (the first of equals)  |
| `neighbours` | the mean of all checkpoints of all such tasks: where there are any, of its one-bit neighbours     |
| `regression` | what linear least squares says from the bits, for every weight                                    |

For a task that is itself among the given ones, `nearest` and `neighbours` look at the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.conditions import BITS, bits, distance
from zoo.manifest import Entry, Origin
from zoo.ops import finished, floats, moments_of
from zoo.store import Zoo, ZooWriter
from zoo.structure import Frozen


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
    made_by = {"kind": "perturbed", "parents": (zoo.sha256,), "settings": config.model_dump(mode="json")}
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        fitted = fit(zoo, entries) if config.kind == "regression" and not writer.complete else {}
        for condition in config.conditions:
            id = f"{config.kind}-{condition}"
            if id in writer.done:
                continue
            if config.kind == "regression":
                parents, values = list(entries), {name: _features(condition) @ c for name, c in fitted.items()}
                values = {spec.name: values[spec.name].view(spec.shape) for spec in floats(zoo.structure)}
            else:
                parents = closest(entries, condition)
                if config.kind == "nearest":
                    parents = [max((e for e in parents if e.condition == parents[0].condition), key=lambda e: e.step)]
                values = moments_of(zoo, parents)[0]
            weights = finished(zoo.structure, values, zoo.load(parents[0]))
            hashes = [parent.sha256 for parent in parents]
            writer.add(id, weights, seed=0, split=config.kind, condition=condition, parents=hashes)
        return writer.finish()


def closest(entries: Sequence[Entry], condition: str) -> list[Entry]:
    """The checkpoints of the other tasks at the smallest distance. Raises ValueError when there is no other task."""
    others = [(distance(str(e.condition), condition), e) for e in entries if e.condition != condition]
    if not others:
        raise ValueError(f"there is no task but {condition} to predict its network from")
    least = min(bits_apart for bits_apart, _ in others)
    return [entry for bits_apart, entry in others if bits_apart == least]


def fit(zoo: Zoo, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Least squares of every weight on a constant and the bits: float64 (1 + BITS, values) per tensor. The solution of
    least norm where the tasks do not decide. One checkpoint in memory at a time.
    """
    gram = torch.zeros(1 + BITS, 1 + BITS, dtype=torch.float64)
    sums: dict[str, Tensor] = {}
    for entry, weights in zip(entries, zoo.checkpoints(entries), strict=True):
        x = _features(str(entry.condition))
        gram += torch.outer(x, x)
        for spec in floats(zoo.structure):
            product = torch.outer(x, weights[spec.name].double().reshape(-1))
            sums[spec.name] = sums[spec.name] + product if spec.name in sums else product
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10)
    return {name: inverse @ total for name, total in sums.items()}


def _features(condition: str) -> Tensor:
    return torch.cat([torch.ones(1), bits(condition)]).double()
