"""What G.pt is told of networks, and the pairs of them that it learns from.

Legend: N networks, D values of a padded vector, R trainings, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.conditions import MetricTarget
from zoo.files import read_limited
from zoo.manifest import MANIFEST_BYTES, Entry
from zoo.structure import Frozen

if TYPE_CHECKING:
    from rpg.run import Run


class Prompts(Frozen):
    """`prompts.json` of a run. `target` is what can be asked for; `first` the mean metric of networks before training,
    None if there were none, and `shared` the id of the one network where all trainings began; weights are `factor`
    times what they are.
    """

    target: MetricTarget
    first: float | None
    factor: float
    shared: str | None = None

    @classmethod
    def of(cls, run: Run) -> Prompts:
        """Raises Corrupt for a file that is damaged."""
        path = prompts_path(run)
        return cls.parse(read_limited(path, MANIFEST_BYTES), path)

    def scaled(self, values: Tensor) -> Tensor:
        """A metric's values as the transformer is told them: 0 to 1 in training."""
        return (values - self.target.low) / (self.target.high - self.target.low)


def prompts_path(run: Run) -> Path:
    """Where a run keeps them."""
    return run.path / "prompts.json"


@dataclass(frozen=True, eq=False)
class Trainings:
    """The checkpoints of R trainings among N entries: `rows` int64 (R, most), those of a training by step, of which the
    first `counts` int64 (R,) are; `metric` float64 (N,) of each entry; `first`, the mean of it before training;
    `shared`, the id of the network that several of them began with, where it is one.
    """

    rows: Tensor
    counts: Tensor
    metric: Tensor
    first: float | None
    shared: str | None

    def pairs(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of an earlier and of a later checkpoint of one training, int64 (P,) each: a training is drawn, then how
        many checkpoints lie between the two, then the earlier one.
        """
        training = torch.randint(len(self.rows), (count,), generator=rng)
        most = self.counts[training]
        apart = 1 + (torch.rand(count, generator=rng, dtype=torch.float64) * (most - 1)).long()
        first = (torch.rand(count, generator=rng, dtype=torch.float64) * (most - apart)).long()
        return self.rows[training, first], self.rows[training, first + apart]


def trainings(entries: Sequence[Entry], metric: str) -> Trainings:
    """The trainings that these checkpoints lie along, those with one alone left out. Raises ValueError when there is
    none, when the metric was not recorded or never changes, and for networks of binary tasks.
    """
    _refuse(entries, metric)
    found: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        found.setdefault(entry.seed, []).append(row)
    several = [sorted(rows, key=lambda row: entries[row].step) for rows in found.values() if len(rows) > 1]
    if not several:
        raise ValueError(
            f"g.pt learns from pairs of checkpoints of one training, and of each of these {len(entries)} there is one "
            "alone; collect a zoo with more, as in --set zoo.save.along=10"
        )
    for rows in several:
        steps = [entries[row].step for row in rows]
        if len(set(steps)) < len(steps):
            raise ValueError(
                f"{entries[rows[0]].id} and others of seed {entries[rows[0]].seed} have the same step {steps[0]}; g.pt "
                "learns from checkpoints along trainings, in their order"
            )
    values = torch.tensor([entry.metrics[metric].value for entry in entries], dtype=torch.float64)
    if values.min() == values.max():
        raise ValueError(
            f"{metric} is {values[0]:g} of all {len(entries)} checkpoints; expected one that training changes"
        )
    most = max(map(len, several))
    table = torch.tensor([[*rows, *[rows[-1]] * (most - len(rows))] for rows in several])
    untrained = [row for row, entry in enumerate(entries) if entry.step == 0]
    first = values[untrained].mean().item() if untrained else None
    one = len(untrained) > 1 and len({entries[row].sha256 for row in untrained}) == 1
    shared = entries[untrained[0]].id if one else None
    return Trainings(table, torch.tensor(list(map(len, several))), values, first, shared)


def _refuse(entries: Sequence[Entry], metric: str) -> None:
    for entry in entries:
        if entry.condition is not None:
            raise ValueError(
                f"{entry.id} is of binary task {entry.condition}, and g.pt is told a metric; expected networks of one "
                "task, or take cond-p-diff or rpg with conditions"
            )
        if metric not in entry.metrics:
            known = ", ".join(entry.metrics) or "none"
            raise ValueError(f"{entry.id} has no {metric} on record; method.metric may be one it has: {known}")
