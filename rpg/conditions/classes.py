"""Classes that generators are told as a set: for each a vector, with the sign of its label.

Legend: N networks, K classes, F values of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg.conditions.bits import stacked
from zoo.checkpoint import load_tensors
from zoo.errors import Corrupt

NAME = "classes"  # of the file and of the tensor in it


def signed(conditions: Sequence[str], features: Tensor) -> Tensor:
    """For binary tasks the `features` (K, F) of their classes, times 1 where a class is labelled 1 and -1 where it is
    labelled 0: float32 (N, K, F).
    """
    return (2 * stacked(conditions) - 1)[..., None] * features


def load_features(path: Path) -> Tensor:
    """Those of a run's classes, (K, F). Raises Corrupt for anything else."""
    features = load_tensors(path).get(NAME)
    if features is None or features.dim() != 2 or features.dtype != torch.float32 or not features.isfinite().all():
        raise Corrupt(f"{path} does not hold the classes of a run; remove {path.parent} and train again")
    return features
