"""Views of a network: the same function with its hidden units in another order, as orders of the values of a vector."""

from __future__ import annotations

import torch
from torch import Tensor

from rpg.tokens.layout import generated
from zoo.manifest import Origin
from zoo.recipe import task_of
from zoo.structure import Structure
from zoo.symmetry.action import act, random_element
from zoo.symmetry.specification import Specification

MOST_VALUES = 2**22  # of orders that are made at once


class Permutations:
    """The orders in which the units of networks of this structure may stand. Raises ValueError when the specification
    is of other networks.
    """

    def __init__(self, specification: Specification, structure: Structure) -> None:
        specification.check(structure)
        others = [name for name, group in specification.groups.items() if group.kind != "permutation"]
        self.specification = specification.without([*others, *specification.diagonals])
        self.structure = structure
        self.values = sum(spec.numel for spec in generated(structure))

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Orders drawn uniformly, int64 (count, D): value i of a view is value `order[i]` of the network's vector."""
        element = random_element(self.specification, count, rng)
        own, start = {}, 0
        for spec in generated(self.structure):
            numbers = torch.arange(start, start + spec.numel).view(spec.shape)
            own[spec.name] = numbers.expand(count, *spec.shape)
            start += spec.numel
        sources = {s.name: s.tied_to or s.name for s in self.structure if s.kind != "constant"}
        constants = {s.name: torch.zeros(count, *s.shape) for s in self.structure if s.kind == "constant"}
        moved = act(self.specification, element, {name: own[source] for name, source in sources.items()} | constants)
        return torch.cat([moved[name].reshape(count, -1) for name in own], 1)

    def view(self, vectors: Tensor, rng: torch.Generator) -> Tensor:
        """A view of each of these vectors (B, D or more), some at a time: (B, D)."""
        size = max(1, MOST_VALUES // max(self.values, 1))
        return torch.cat([part.gather(1, self.draw(len(part), rng)) for part in vectors.split(size)])


def permutations_of(origin: Origin, structure: Structure, remedy: str) -> Permutations:
    """The orders of a zoo's networks. Raises ValueError, with the remedy, where nobody knows which there are."""
    found = task_of(origin).symmetries() if origin.task else None
    if found is None:
        raise ValueError(
            f"nobody knows which units of the networks of {origin.name} may be permuted, so there are no permuted "
            f"views of them; {remedy}"
        )
    return Permutations(found, structure)


def reordered(networks: Tensor, mask: Tensor, permutations: Permutations, rng: torch.Generator) -> Tensor:
    """Networks as padded vectors (S, N, D) with their hidden units in another order, drawn anew for each of the N and
    shared by its S versions; `mask` bool (D,) says which values are a network's.
    """
    moved = torch.zeros_like(networks)
    index = permutations.draw(networks.shape[1], rng).expand(len(networks), -1, -1)
    moved[..., mask] = networks[..., mask].gather(2, index)
    return moved
