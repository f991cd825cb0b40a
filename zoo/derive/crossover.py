"""Networks whose units come from several parents, each unit whole from one of them.

A unit is a row of a layer: what its tensors hold at one place of their first axis, a filter with its bias. A layer is a
module, so that a normalisation chooses for its channels by itself. Scalars are one unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.derive.mixtures import Draft, Drafts, Piece, shares
from zoo.derive.swap import layer_of
from zoo.manifest import Entry
from zoo.seeds import generator
from zoo.structure import DTYPES


@dataclass(frozen=True, eq=False)
class _Crossed(Draft):
    """Every unit from one of `rows`, all alike likely; the choice depends on the stream and the unit's layer."""

    def values(self, piece: Piece, rng: torch.Generator) -> Tensor:
        seed, name, k = self.stream
        shape = piece.spec.shape or (1,)
        choice = torch.randint(len(self.rows), shape[:1], generator=generator(seed, name, k, layer_of(piece.spec.name)))
        values = piece.of(self.rows)
        places = torch.arange(piece.start, piece.start + values.shape[1])
        units = places // max(piece.spec.numel // shape[0], 1)
        return values[choice[units], torch.arange(values.shape[1])].to(DTYPES[piece.spec.dtype])


def crossovers(entries: Sequence[Entry], seed: int, of: int) -> Drafts:
    """Networks of the units of `of` others each, drawn at random without replacement; there are so many at least."""

    def draft(k: int) -> Draft:
        order = torch.randperm(len(entries), generator=generator(seed, "crossover", "parents", k))
        rows = tuple(sorted(order[:of].tolist()))
        return _Crossed(rows, shares(of), rows, stream=(seed, "crossover", k))

    return draft
