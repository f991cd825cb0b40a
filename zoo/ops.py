"""Zoo -> Zoo, without any learning: the baselines that a generator has to beat (CONTRIBUTING, Honesty).

| kind       | each new network is                                                                                |
|------------|----------------------------------------------------------------------------------------------------|
| `noise`    | a training network plus Gaussian noise, `sigma` times the standard deviation of each tensor        |
| `mean`     | the mean of all training networks (there is only one)                                              |
| `average`  | the mean of `average_of` training networks drawn at random                                         |
| `gaussian` | a draw from independent Gaussians fitted to every value over the training networks                 |

Constants (integer buffers) are those of the first network involved. Running variances get their noise in log space,
as in the published code, and stay non-negative. Means are accumulated in float64, one checkpoint in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from zoo.manifest import Entry, Origin, settings_of
from zoo.seeds import Seed, generator
from zoo.store import Zoo, ZooWriter
from zoo.structure import DTYPES, Frozen, Structure, TensorSpec

Weights = Mapping[str, Tensor]
VARIANCE_FLOOR = 1e-12  # keeps the log of a dead channel's running variance finite


class PerturbConfig(Frozen):
    """What to make: `n` networks (`mean` gives one). `sigma` is for noise, `average_of` for averages."""

    kind: Literal["noise", "mean", "average", "gaussian"]
    n: PositiveInt = 10
    seed: Seed = 0
    sigma: Annotated[float, Field(ge=0)] = 0.05
    average_of: PositiveInt = 16


def perturb(config: PerturbConfig, zoo: Zoo, entries: Sequence[Entry], origin: Origin, path: Path) -> Zoo:
    """Make a zoo at `path` of perturbed `entries`, or continue it. Network k depends on (seed, k) only.

    `origin` says how the networks came about; kind, parent and settings are filled in here. Raises ValueError when
    `average_of` networks are asked from fewer.
    """
    if config.kind == "average" and config.average_of > len(entries):
        raise ValueError(f"cannot average {config.average_of} networks of {zoo.path}, there are {len(entries)}")
    made_by = {"kind": "derived", "parents": (zoo.sha256,), "settings": {"perturb": settings_of(config)}}
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        moments = moments_of(zoo, entries) if config.kind in ("mean", "gaussian") and not writer.complete else None
        for k in range(1 if config.kind == "mean" else config.n):
            id = f"{config.kind}-{k:04d}"
            if id not in writer.done:
                parents, values = _perturbed(config, zoo, entries, moments, generator(config.seed, config.kind, k))
                weights = finished(zoo.structure, values, zoo.load(parents[0]))
                hashes = [parent.sha256 for parent in parents]
                writer.add(id, weights, seed=config.seed, split=config.kind, parents=hashes)
        return writer.finish()


Moments = tuple[dict[str, Tensor], dict[str, Tensor]]


def _perturbed(
    config: PerturbConfig, zoo: Zoo, entries: Sequence[Entry], moments: Moments | None, rng: torch.Generator
) -> tuple[list[Entry], dict[str, Tensor]]:
    """One new network: the entries it was made from, and its values in float64."""
    if moments is not None:
        mean, std = moments
        if config.kind == "mean":
            return list(entries), mean
        return list(entries), {name: mean[name] + std[name] * _normal(mean[name], rng) for name in mean}
    if config.kind == "average":
        parents = [entries[i] for i in torch.randperm(len(entries), generator=rng)[: config.average_of].tolist()]
        return parents, moments_of(zoo, parents)[0]
    parent = entries[int(torch.randint(len(entries), (), generator=rng))]
    return [parent], _noised(zoo.structure, zoo.load(parent), config.sigma, rng)


def moments_of(zoo: Zoo, entries: Iterable[Entry]) -> Moments:
    """Mean and standard deviation (over checkpoints, ddof 1) of every value, in float64, by Welford's update."""
    mean: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for count, weights in enumerate(zoo.checkpoints(entries), 1):
        for spec in floats(zoo.structure):
            value = weights[spec.name].double()
            delta = value - mean.get(spec.name, 0.0)
            mean[spec.name] = mean.get(spec.name, 0.0) + delta / count
            squares[spec.name] = squares.get(spec.name, 0.0) + delta * (value - mean[spec.name])
    return mean, {name: (square / max(count - 1, 1)).sqrt() for name, square in squares.items()}


def _noised(structure: Structure, weights: Weights, sigma: float, rng: torch.Generator) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for spec in floats(structure):
        value = weights[spec.name].double()
        value = value.clamp_min(VARIANCE_FLOOR).log() if spec.kind == "running_var" else value
        value = value + sigma * value.std(correction=0) * _normal(value, rng)
        values[spec.name] = value.exp() if spec.kind == "running_var" else value
    return values


def finished(structure: Structure, values: Weights, constants: Weights) -> dict[str, Tensor]:
    """Values in float64 back as a checkpoint: own dtypes, ties, constants of an original."""
    out: dict[str, Tensor] = {}
    for spec in structure:
        if spec.tied_to is not None:
            out[spec.name] = out[spec.tied_to]
        elif spec.kind == "constant":
            out[spec.name] = constants[spec.name]
        else:
            value = values[spec.name].clamp_min(0) if spec.kind == "running_var" else values[spec.name]
            out[spec.name] = value.to(DTYPES[spec.dtype])
    return out


def floats(structure: Structure) -> list[TensorSpec]:
    return [spec for spec in structure if spec.kind != "constant" and spec.tied_to is None]


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=torch.float64)
