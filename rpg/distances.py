"""Distances between networks of several zoos, summed tensor by tensor and piece by piece.

All zoos are read in step, a piece of every network at a time: memory holds pieces and the matrices of distances, so it
grows neither with the networks' size nor with their number. Legend: A networks of a group, B of the first group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluators.similarity import Float64Array, squared_distances, squared_distances_within
from zoo.manifest import Entry
from zoo.progress import progress
from zoo.store import Column, Zoo

PIECE = 2**22  # values at a time, of all networks together

Part = tuple[Zoo, Sequence[Entry]]
"""Networks of one zoo; a group consists of one or more."""


@dataclass(frozen=True)
class Distances:
    """Euclidean distances of a group's networks: float64 (A, B) to those of the first group, (A, A) to one another."""

    to_first: Float64Array
    within: Float64Array


def distances(groups: Sequence[Sequence[Part]]) -> list[Distances]:
    """The distances of each group, over all floating-point tensors, tied ones once. All zoos have one structure.

    A network is at 0 from itself; other distances from or to weights that are not finite are not finite.
    """
    parts = [part for group in groups for part in group]
    networks = sum(len(entries) for _, entries in parts)
    sizes = [sum(len(entries) for _, entries in group) for group in groups]
    to_first = [np.zeros((size, sizes[0])) for size in sizes]
    within = [np.zeros((size, size)) for size in sizes]
    streams = [zoo.columns(entries, values=max(1, PIECE * len(entries) // networks)) for zoo, entries in parts]
    with progress("distances", parts[0][0].structure.numel) as bar:
        for blocks in in_step(streams):
            first, *others = torch.cat(blocks).split(sizes)
            within[0] += squared_distances_within(first)
            for k, block in enumerate(others, 1):
                to_first[k] += squared_distances(block, first)
                within[k] += squared_distances_within(block)
            bar.advance(first.shape[1])
    to_first[0] = within[0]
    return [Distances(np.sqrt(a), np.sqrt(b)) for a, b in zip(to_first, within, strict=True)]


def in_step(streams: Sequence[Iterable[Column]]) -> Iterator[list[Tensor]]:
    """The same values of every stream, a block (networks, k) of each, whatever pieces each of them is cut into."""
    rest = [iter(stream) for stream in streams]
    blocks = [torch.empty(0, 0)] * len(rest)
    while True:
        for k, stream in enumerate(rest):
            while not blocks[k].shape[1]:
                column = next(stream, None)
                if column is None:
                    return
                blocks[k] = column.block
        width = min(block.shape[1] for block in blocks)
        yield [block[:, :width] for block in blocks]
        blocks = [block[:, width:] for block in blocks]
