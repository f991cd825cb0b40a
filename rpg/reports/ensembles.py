"""Ensembles of a group's networks: what they know together, by the mean of their class probabilities.

Networks that are only one another's copies gain nothing from each other; independent seeds do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rpg.methods.ceiling import spread_out
from rpg.reports.distances import Part
from zoo.scoring import Scorer
from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.wrapped import unwrapped

SIZE = 16
MOST_VALUES = 2**28  # of all networks of an ensemble, which are in memory together


class Ensemble(nn.Module):
    """Networks that answer together: inputs (B, ...) -> logarithms of the means of their class probabilities (B, C)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        mean = torch.stack([member(inputs).float().softmax(-1) for member in self.members]).mean(0)
        return mean.log()


def ensemble_accuracy(parts: Sequence[Part], task: Task, out: Path) -> float | None:
    """The headline metric of SIZE of these networks together, at equal steps through them, on test data, in percent; a
    score of its own in `out/scores.jsonl`. None where there are fewer, where they do not classify, or are too large.
    """
    networks = [(zoo, entry) for zoo, entries in parts for entry in entries]
    zoo, classifies = parts[0][0], isinstance(unwrapped(task), ClassificationTask)
    if len(networks) < SIZE or SIZE * zoo.structure.numel > MOST_VALUES or not classifies:
        return None
    chosen = spread_out(networks, SIZE)
    sha256 = hashlib.sha256("".join(entry.sha256 for _, entry in chosen).encode()).hexdigest()
    with Scorer(task, out, zoo.frozen()) as scorer:
        found = scorer.known_content(sha256)
        if found is None:
            members = []
            for source, entry in chosen:
                members.append(task.build(0))
                task.load(members[-1], {**source.load(entry), **scorer.frozen})
            found = scorer.score_model(f"ensemble-of-{SIZE}", sha256, Ensemble(members))
    return found.metrics[task.main_metric].value
