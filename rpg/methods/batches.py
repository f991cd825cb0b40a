"""Batches of networks for methods that contrast them, and vectors in the length that a run keeps them in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rpg.methods.base import TrainingSet
from rpg.methods.vectors import Vectors


def check_several(data: TrainingSet) -> None:
    """Raise ValueError unless there are two networks to tell apart."""
    if len(data.entries) < 2:
        raise ValueError(f"{data.zoo.path} has {len(data.entries)} network to learn from; expected 2 or more")


def distinct_rows(networks: int, count: int, rng: torch.Generator) -> np.ndarray:
    """Numbers of at most `count` networks, drawn without replacement, as no network may be its own contrast."""
    return torch.randperm(networks, generator=rng)[:count].numpy()


def padded(values: Tensor, vectors: Vectors) -> Tensor:
    """Vectors (n, D) as long as those of the run."""
    return F.pad(values, (0, vectors.size - values.shape[1]))
