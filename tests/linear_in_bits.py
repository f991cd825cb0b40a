"""A zoo of binary tasks whose networks are linear in the bits, for tests of what is told them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from zoo.conditions import all_conditions, bits
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

CLASSES, SIZE, NOISE = 4, 40, 0.1
UNSEEN = ("0110", "1001")
PLACE = torch.randn(SIZE, generator=generator(0, "place"))
OF_BITS = torch.randn(CLASSES, SIZE, generator=generator(0, "bits"))


def centre(condition: str) -> Tensor:
    """The mean of the networks of a task, (SIZE,)."""
    return PLACE + (2 * bits(condition) - 1) @ OF_BITS


def network(condition: str, seed: int) -> dict[str, Tensor]:
    """Its mean and noise."""
    noise = NOISE * torch.randn(SIZE, generator=generator(seed, "network", condition))
    values = centre(condition) + noise
    return {"weight": values[:32].view(4, 8).clone(), "bias": values[32:].clone()}


def flat(weights: dict[str, Tensor]) -> Tensor:
    """The values of a network, (SIZE,)."""
    return torch.cat([weights["weight"].flatten(), weights["bias"]])


def bits_zoo(path: Path, seeds: Iterable[int] = range(8)) -> Zoo:
    """So many networks of each task on four classes, two tasks of which are held out."""
    origin = Origin(name="bits", kind="collected", command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of(network("0001", 0))) as writer:
        for seed in seeds:
            for condition in all_conditions(CLASSES):
                split = "unseen" if condition in UNSEEN else "train"
                weights = network(condition, seed)
                writer.add(f"{condition}-{seed:04d}", weights, seed=seed, split=split, condition=condition)
        return writer.finish()


def error(found: Tensor, condition: str) -> float:
    """How far the mean of networks (n, SIZE) is from that of a task, where the distance of a flipped bit is 1."""
    unit = 2 * OF_BITS.norm(dim=1).mean()
    return float((found.mean(0) - centre(condition)).norm() / unit)
