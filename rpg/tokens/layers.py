"""A network's vector as layers, whose rows are neurons, and as tokens of one size.

A layer is what the tensors of one module with the same first axis make side by side: of a linear map or a convolution a
row for each output, its incoming weights and its bias; of a BatchNorm a row for each channel. The vector holds the
values of all tensors that are generated, one after the other, in the structure's order.

Legend: B networks, D values of a vector, T tokens, S values of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rpg.tokens.layout import generated
from zoo.structure import Structure


@dataclass(frozen=True)
class Layer:
    """`rows` neurons. `pieces` are its tensors: where each begins in the vector, and its values per row."""

    name: str
    rows: int
    pieces: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> int:
        """Values of a neuron."""
        return sum(width for _, width in self.pieces)


class Layers:
    """The layers of a structure, in its order. `values` is D."""

    def __init__(self, structure: Structure) -> None:
        found: dict[tuple[str, int], list[tuple[int, int]]] = {}
        start = 0
        for spec in generated(structure):
            rows = spec.shape[0] if spec.shape else 1
            if spec.numel:
                place = spec.name.rpartition(".")[0], rows
                found.setdefault(place, []).append((start, spec.numel // rows))
            start += spec.numel
        self.values = start
        self.layers = tuple(Layer(name, rows, tuple(pieces)) for (name, rows), pieces in found.items())

    @property
    def rows(self) -> int:
        """Neurons of all layers."""
        return sum(layer.rows for layer in self.layers)

    def matrices(self, vectors: Tensor) -> list[Tensor]:
        """Of vectors (B, D or more) every layer's (B, rows, columns)."""
        return [
            torch.cat([vectors[:, s : s + layer.rows * w].unflatten(1, (layer.rows, w)) for s, w in layer.pieces], -1)
            for layer in self.layers
        ]

    def vectors(self, matrices: Iterable[Tensor]) -> Tensor:
        """The inverse: (B, D)."""
        parts: list[tuple[int, Tensor]] = []
        for layer, matrix in zip(self.layers, matrices, strict=True):
            columns = matrix.split([width for _, width in layer.pieces], -1)
            parts += [(start, part.flatten(1)) for (start, _), part in zip(layer.pieces, columns, strict=True)]
        return torch.cat([part for _, part in sorted(parts, key=lambda found: found[0])], 1)

    def spread(self, numbers: Tensor) -> Tensor:
        """A number for each layer (layers,), for each of its values: (D,)."""
        pairs = zip(numbers, self.layers, strict=True)
        return self.vectors(number.expand(1, layer.rows, layer.columns) for number, layer in pairs)[0]

    def statistics(self, vectors: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
        """Mean and population deviation of each layer's values over all vectors (D or more,), float64 (layers,).
        `vectors` gives a fresh iterable at each of two calls.
        """
        mean, squares = (torch.zeros(len(self.layers), dtype=torch.float64) for _ in range(2))
        count = 0
        for vector in vectors():
            mean += torch.stack([matrix.double().mean() for matrix in self.matrices(vector[None])])
            count += 1
        mean /= count
        for vector in vectors():
            matrices = self.matrices(vector[None])
            squares += torch.stack([(m.double() - mu).square().mean() for m, mu in zip(matrices, mean, strict=True)])
        return mean, (squares / count).sqrt()


class Chunks:
    """Every neuron's values cut into tokens of `size`, the last of them padded with zeros; T in all."""

    def __init__(self, layers: Layers, size: int) -> None:
        self.layers, self.size = layers, size
        self._per_row = [-(-layer.columns // size) for layer in layers.layers]

    @property
    def count(self) -> int:
        """T."""
        return sum(layer.rows * n for layer, n in zip(self.layers.layers, self._per_row, strict=True))

    def split(self, vectors: Tensor) -> Tensor:
        """Vectors (B, D or more) -> tokens (B, T, S)."""
        parts = []
        for matrix, layer, n in zip(self.layers.matrices(vectors), self.layers.layers, self._per_row, strict=True):
            padded = F.pad(matrix, (0, n * self.size - layer.columns))
            parts.append(padded.reshape(len(vectors), layer.rows * n, self.size))
        return torch.cat(parts, 1)

    def join(self, tokens: Tensor) -> Tensor:
        """The inverse: tokens (B, T, S) -> vectors (B, D)."""
        counts = [layer.rows * n for layer, n in zip(self.layers.layers, self._per_row, strict=True)]
        matrices = [
            part.reshape(len(tokens), layer.rows, n * self.size)[..., : layer.columns]
            for part, layer, n in zip(tokens.split(counts, 1), self.layers.layers, self._per_row, strict=True)
        ]
        return self.layers.vectors(matrices)

    def mask(self) -> Tensor:
        """bool (T, S), False where there is padding."""
        return self.split(torch.ones(1, self.layers.values))[0] > 0

    def positions(self) -> Tensor:
        """int64 (T, 3): of every token its number, that of its layer, and that of its neuron in the layer."""
        found = []
        for number, (layer, n) in enumerate(zip(self.layers.layers, self._per_row, strict=True)):
            neuron = torch.arange(layer.rows).repeat_interleave(n)
            found.append(torch.stack([torch.full_like(neuron, number), neuron], 1))
        positions = torch.cat(found)
        return torch.cat([torch.arange(len(positions))[:, None], positions], 1)

    @property
    def most(self) -> tuple[int, int, int]:
        """One more than the largest position of each kind."""
        return self.count, len(self.layers.layers), max(layer.rows for layer in self.layers.layers)


def windows(count: int, window: int, halo: int) -> Sequence[tuple[slice, slice]]:
    """How to see `count` tokens through windows of at most `window`: for each, which tokens it sees, and which of these
    it answers for. It sees `halo` more on either side than it answers for; all tokens are answered for once.
    """
    core = window - 2 * halo if count > window else count
    found = []
    for start in range(0, count, core):
        end = min(start + core, count)
        first, last = max(start - halo, 0), min(end + halo, count)
        found.append((slice(first, last), slice(start - first, end - first)))
    return found
