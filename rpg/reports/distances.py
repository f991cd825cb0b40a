"""Distances between networks of several zoos, summed tensor by tensor and piece by piece.

All zoos are read in step, a piece of every network at a time: memory holds pieces and the matrices of distances, so it
grows neither with the networks' size nor with their number. Legend: A networks of a group, B of the first group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaluators.similarity import Float64Array, squared_distances, squared_distances_within
from zoo.manifest import Entry
from zoo.progress import progress
from zoo.store import Zoo

PIECE = 2**21  # values at a time, of all networks together

Part = tuple[Zoo, Sequence[Entry]]
"""Networks of one zoo; a group consists of one or more."""


@dataclass(frozen=True)
class Distances:
    """Euclidean distances of a group's networks: float64 (A, B) to those of the first group, (A, A) to one another, and
    (A, H) to those held out, where there are some.
    """

    to_first: Float64Array
    within: Float64Array
    to_heldout: Float64Array | None = None


def distances(groups: Sequence[Sequence[Part]], heldout: int | None = None) -> list[Distances]:
    """The distances of each group, over all floating-point tensors, tied ones once. All zoos have one structure.
    `heldout` is the number of the group of those held out, if there is one; it is not the first.

    A network is at 0 from itself; other distances from or to weights that are not finite are not finite.
    """
    sizes = [sum(len(entries) for _, entries in group) for group in groups]
    to_first = [np.zeros((size, sizes[0])) for size in sizes]
    to_heldout = [np.zeros((size, 0 if heldout is None else sizes[heldout])) for size in sizes]
    within = [np.zeros((size, size)) for size in sizes]
    width = max(1, PIECE // sum(sizes))
    streams = [zoo.columns(entries, values=width * len(entries)) for group in groups for zoo, entries in group]
    with progress("measuring distances", groups[0][0][0].structure.numel) as bar:
        for columns in zip(*streams, strict=True):  # the same piece of the same tensor
            first, *others = blocks = torch.cat([column.block for column in columns]).split(sizes)
            within[0] += squared_distances_within(first)
            for k, block in enumerate(others, 1):
                to_first[k] += squared_distances(block, first)
                within[k] += squared_distances_within(block)
                if heldout not in (None, k):
                    to_heldout[k] += squared_distances(block, blocks[heldout])
            bar.advance(first.shape[1])
    to_first[0] = within[0]
    if heldout is None:
        return [Distances(np.sqrt(a), np.sqrt(b)) for a, b in zip(to_first, within, strict=True)]
    to_heldout[0], to_heldout[heldout] = to_first[heldout].T, within[heldout]
    return [Distances(*map(np.sqrt, three)) for three in zip(to_first, within, to_heldout, strict=True)]
