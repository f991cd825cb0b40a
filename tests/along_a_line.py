"""A zoo of trainings whose networks lie on lines: weights move with the loss, each training has its own line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators.metrics import Metric
from zoo.manifest import EARLY, Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

SIZE = 40
LOSSES = (2.0, 1.6, 1.2, 0.8, 0.4)


def _drawn(name: str) -> Tensor:
    return torch.randn(SIZE, generator=generator(0, name))


PLACE, WAY, APART = _drawn("place"), _drawn("way"), 0.5 * _drawn("apart")


def network(seed: int, loss: float) -> dict[str, Tensor]:
    """The one of a training with this loss: PLACE, some of APART, and loss times WAY."""
    values = PLACE + torch.randn((), generator=generator(seed, "training")) * APART + loss * WAY
    return {"weight": values[:32].view(4, 8).clone(), "bias": values[32:].clone()}


def flat(weights: dict[str, Tensor]) -> Tensor:
    """The values of a network, (SIZE,)."""
    return torch.cat([weights["weight"].flatten(), weights["bias"]])


def away(weights: dict[str, Tensor], seed: int, loss: float) -> float:
    """How far a network is from that of a training with this loss, in units of loss."""
    return float((flat(weights) - flat(network(seed, loss))).norm() / WAY.norm())


def trainings_zoo(path: Path, seeds: Iterable[int], losses: Sequence[float] = LOSSES, **about: Any) -> Zoo:
    """Checkpoints at these losses, all of them but the last early ones."""
    origin = Origin(name="lines", kind="collected", command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of(network(0, 1.0))) as writer:
        for seed in seeds:
            for step, loss in enumerate(losses):
                split = EARLY if step < len(losses) - 1 else "train"
                metrics = [Metric("loss", loss, 10, 0.0, higher_is_better=False)]
                given = {"seed": seed, "step": step, "split": split, "metrics": metrics, **about}
                writer.add(f"net-{seed:04d}-{step}", network(seed, loss), **given)
        return writer.finish()
