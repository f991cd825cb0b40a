"""A zoo whose distribution is known, for tests of what learns it: a Gaussian of rank 3 in 40 values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpg.methods.base import DrawConfig
from rpg.methods.vectors import VectorMethod, Vectors
from rpg.run import Run
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

CPU = torch.device("cpu")
COUNT, SIZE, RANK = 100, 40, 3
FACTOR = torch.randn(SIZE, RANK, generator=generator(0, "factor"))
MEAN = 2 * torch.randn(SIZE, generator=generator(0, "mean"))


def network(seed: int) -> dict[str, Tensor]:
    """Drawn from N(MEAN, FACTOR FACTOR^T)."""
    values = MEAN + FACTOR @ torch.randn(RANK, generator=generator(seed, "network"))
    return {"weight": values[:32].view(4, 8), "bias": values[32:]}


def flat(weights: dict[str, Tensor]) -> Tensor:
    """The values of a network, (SIZE,)."""
    return torch.cat([weights["weight"].flatten(), weights["bias"]])


def gaussian_zoo(path: Path, first: int = 0, count: int = COUNT, **task: Any) -> Zoo:
    """So many networks, of seeds from `first` on."""
    origin = Origin(name="toy", kind="collected", task=task or {"name": "toy"}, command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of(network(0))) as writer:
        for seed in range(first, first + count):
            writer.add(f"net-{seed:04d}", network(seed), seed=seed, split="train")
        return writer.finish()


def values_of(zoo: Zoo) -> Tensor:
    """The values of its networks, (N, SIZE)."""
    return torch.stack([flat(zoo.load(entry)) for entry in zoo.entries])


def draws(run: Run, request: DrawConfig) -> Tensor:
    """The values of networks that are drawn all together, (request.n, SIZE)."""
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, VectorMethod)
    made = method.make(vectors, request, range(request.n), CPU).vectors
    return torch.stack([flat(vectors.weights(vector, {})) for vector in made])


def check_distribution(found: Tensor, given: Tensor) -> None:
    """That networks (n, SIZE) have the mean and covariance of given ones, lie on their plane, and are no copies."""
    assert ((found.mean(0) - given.mean(0)) / given.std(0)).abs().max() < 0.35
    expected, covariance = given.T.cov(), found.T.cov()
    assert (covariance - expected).norm() < 0.3 * expected.norm()
    plane = torch.linalg.eigh(expected).eigenvectors[:, -RANK:]
    assert (plane.T @ covariance @ plane).trace() > 0.9 * covariance.trace()
    nearest = torch.cdist(found, given).min(1).values.median()
    assert nearest > 0.3 * torch.cdist(given, given).fill_diagonal_(torch.inf).min(1).values.median()
