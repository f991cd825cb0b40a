"""Zoo -> Zoo, without any learning: the baselines that a generator has to beat (CONTRIBUTING, Honesty).

| kind       | each new network is                                                                                |
|------------|----------------------------------------------------------------------------------------------------|
| `noise`    | a training network plus Gaussian noise, `sigma` times the standard deviation of each tensor        |
| `soup`     | the mean of `of` training networks drawn at random; of all, if it is not given (there is only one) |
| `gaussian` | a draw from independent Gaussians fitted to every value over the training networks                 |

Constants (integer buffers) are those of the first training network. Noise acts on running variances in log space, as in
the published code; where sums leave them negative they are cut off at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from zoo.derive.mixtures import Draft, Drafts, Piece, numbered, piece_values, shares, tensor_deviations, write
from zoo.manifest import Entry, Origin, settings_of
from zoo.seeds import Seed, generator
from zoo.store import Zoo, derivation
from zoo.structure import Frozen
from zoo.writer import ZooWriter


class PerturbConfig(Frozen):
    """What to make: `n` networks (a soup of all gives one). `sigma` is for noise, `of` for soups."""

    kind: Literal["noise", "soup", "gaussian"]
    n: PositiveInt = 10
    seed: Seed = 0
    sigma: Annotated[float, Field(ge=0)] = 0.05
    of: PositiveInt | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.kind != "noise" and self.sigma != type(self).model_fields["sigma"].default:
            raise ValueError(f"sigma = {self.sigma:g} is for noise, not for kind {self.kind}; leave it out")
        if self.kind != "soup" and self.of is not None:
            raise ValueError(f"of = {self.of} is for soups, not for kind {self.kind}; leave it out")
        return self


def perturb(config: PerturbConfig, zoo: Zoo, entries: Sequence[Entry], origin: Origin, path: Path) -> Zoo:
    """Make a zoo at `path` of perturbed `entries`, or continue it. Network k depends on (seed, k) only.

    `origin` says how the networks came about; kind, parent and settings are filled in here. Raises ValueError when
    there are fewer networks than a soup takes or a Gaussian needs.
    """
    made_by = derivation(zoo, entries, "perturb", settings_of(config))
    drafts, n = _drafts(config, zoo, entries)
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        ids = numbered(config.kind, n)
        write(writer, zoo, entries, ids, drafts, seed=config.seed, split=config.kind)
        return writer.finish()


def _drafts(config: PerturbConfig, zoo: Zoo, entries: Sequence[Entry]) -> tuple[Drafts, int]:
    """What to draw, and how many networks."""
    if config.kind == "noise":
        return noised(zoo, entries, config.seed, config.sigma), config.n
    if config.kind == "gaussian":
        return gaussians(zoo, entries, config.seed), config.n
    only_one = config.of in (None, len(entries))
    return soups(zoo, entries, config.seed, config.of), 1 if only_one else config.n


def noised(zoo: Zoo, entries: Sequence[Entry], seed: int, sigma: float) -> Drafts:
    """A training network each, drawn at random, plus Gaussian noise of `sigma` times the deviation of each of its
    tensors: the baseline of Zeng et al. (2025, arXiv 2506.07998), with the relative scale of p-diff and RPG.
    """
    size = piece_values(len(entries))
    scales = cache(lambda row: tensor_deviations(zoo, entries[row], size))  # of those that are drawn

    def draft(k: int) -> Draft:
        row = int(torch.randint(len(entries), (), generator=generator(seed, "noise", "parent", k)))

        def deviation(piece: Piece) -> float:
            return sigma * scales(row)[piece.spec.name]

        return Draft((row,), shares(1), (row,), deviation, (seed, "noise", k), log_variances=True)

    return draft


def soups(
    zoo: Zoo, entries: Sequence[Entry], seed: int, of: int | None, mix: Literal["uniform", "positive"] = "uniform"
) -> Drafts:
    """Means of `of` networks (None: all), drawn at random without replacement: model soups, Wortsman et al. (2022,
    arXiv 2203.05482). They count alike, or with weights uniform on the simplex (Dirichlet(1)).

    Raises ValueError when there are fewer networks.
    """
    if of is not None and of > len(entries):
        raise ValueError(
            f"cannot mix {of} networks of {zoo.path}, there are {len(entries)}; use --of {len(entries)} or fewer"
        )
    count = of or len(entries)

    def draft(k: int) -> Draft:
        rng = generator(seed, "soup", k)
        rows = tuple(sorted(torch.randperm(len(entries), generator=rng)[:count].tolist()))
        if mix == "uniform":
            return Draft(rows, shares(count), rows)
        weights = torch.empty(count, dtype=torch.float64).exponential_(generator=rng)
        return Draft(rows, weights / weights.sum(), rows)

    return draft


def gaussians(zoo: Zoo, entries: Sequence[Entry], seed: int, width: float = 1.0) -> Drafts:
    """Draws from a Gaussian for every value, with its mean and `width` times its deviation (ddof 1) over the entries:
    the baseline of Zeng et al. (2025, arXiv 2506.07998). Raises ValueError for a single network.
    """
    check_several(zoo, entries)
    everything, mean = tuple(range(len(entries))), shares(len(entries))

    def deviation(piece: Piece) -> Tensor:
        return width * piece.deviation

    return lambda k: Draft(everything, mean, everything, deviation, (seed, "gaussian", k))


def check_several(zoo: Zoo, entries: Sequence[Entry]) -> None:
    """Raise ValueError unless there are networks that can differ."""
    if len(entries) < 2:
        raise ValueError(f"{zoo.path} has 1 network to learn from, whose values have no spread; expected 2 or more")
