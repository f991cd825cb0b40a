"""Parts exchanged between two networks (paper, Figure 2): does a network work whose parts come from two?

| parts    | what is taken from the other network                                                           |
|----------|------------------------------------------------------------------------------------------------|
| `layer`  | whole layers, drawn at random: all tensors of a module, that is, whose names differ in the end |
| `random` | single values, each with the probability `share`                                               |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from zoo.derive.mixtures import Draft, Piece, shares, write
from zoo.derive.worth import floats
from zoo.manifest import Entry, Origin, settings_of
from zoo.seeds import Seed, generator
from zoo.store import Zoo, derivation
from zoo.structure import DTYPES, Frozen, Structure
from zoo.writer import ZooWriter


class SwapConfig(Frozen):
    """What to make: `n` networks for each of the `shares` of values (of layers) that come from the other network."""

    parts: Literal["layer", "random"] = "layer"
    shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = (0.1,)
    n: PositiveInt = 10
    seed: Seed = 0

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({split_of(share) for share in self.shares}) < len(self.shares):
            raise ValueError(f"shares = {list(self.shares)} must hold different shares")
        return self


def split_of(share: float) -> str:
    """The split of the networks with this share."""
    return f"share-{share:g}"


def swap(config: SwapConfig, zoo: Zoo, first: Entry, other: Entry, origin: Origin, path: Path) -> Zoo:
    """Make a zoo at `path`, or continue it, of networks that are `first` with parts of `other`. Network k of a share
    depends on (seed, share, k) alone. Kind, parent and settings of the origin are filled in.

    Raises ValueError when both are the same network.
    """
    if first.id == other.id:
        raise ValueError(f"{first.id} is given twice; expected two networks of {zoo.path}")
    about = {**settings_of(config), "first": first.id, "other": other.id}
    made_by = derivation(zoo, [first], "swap", about)
    layers = layers_of(zoo.structure)
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        for share in config.shares:
            split = split_of(share)
            ids = [f"{split}-{k:04d}" for k in range(config.n)]
            drafts = _drafts(config, split, share, layers)
            write(writer, zoo, [first, other], ids, drafts, seed=config.seed, split=split)
        return writer.finish()


def layers_of(structure: Structure) -> list[str]:
    """The layers of a network, in order: what the names of its tensors have in common but for their last part."""
    return list(dict.fromkeys(layer_of(spec.name) for spec in floats(structure)))


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to; a tensor outside all modules is a layer of its own."""
    return tensor.rpartition(".")[0] or tensor


@dataclass(frozen=True, eq=False)
class _Exchange(Draft):
    """The first network, with the other's values of these `layers`, or where there are none of a `share` at random."""

    layers: frozenset[str] | None = None
    share: float = 0.0

    def values(self, piece: Piece, rng: torch.Generator) -> Tensor:
        mine, theirs = piece.of(self.rows)
        if self.layers is not None:
            chosen = theirs if layer_of(piece.spec.name) in self.layers else mine
        else:
            chosen = torch.where(torch.rand(len(mine), generator=rng) < self.share, theirs, mine)
        return chosen.to(DTYPES[piece.spec.dtype])


def _drafts(config: SwapConfig, split: str, share: float, layers: list[str]) -> Callable[[int], Draft]:
    def draft(k: int) -> Draft:
        stream = (config.seed, f"swap {config.parts} {split}", k)
        if config.parts == "random":
            return _Exchange((0, 1), shares(2), (0, 1), stream=stream, share=share)
        order = torch.randperm(len(layers), generator=generator(*stream)).tolist()
        count = max(1, round(share * len(layers))) if share else 0  # none would be a copy
        chosen = frozenset(layers[i] for i in order[:count])
        return _Exchange((0, 1), shares(2), (0, 1), stream=stream, layers=chosen)

    return draft
