"""The same values of many networks side by side, piece by piece: what statistics over a zoo need (`Zoo.columns`).

Pieces are read at their place in the file, without memory maps, whose pages would count as memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from zoo.checkpoint import Stored, read_at, stored_bytes, stored_hash
from zoo.errors import Corrupt
from zoo.manifest import Entry
from zoo.structure import DTYPES, Kind, Structure, TensorSpec

COLUMN_VALUES = 2**21  # of all networks together; in float64, malloc still reuses its memory
VALUES: tuple[Kind, ...] = ("float", "running_var")  # what differs from network to network
CONSTANTS: tuple[Kind, ...] = ("constant",)


@dataclass(frozen=True, eq=False)
class Column:
    """Values `start` to `start + k` of a tensor, flattened: `block` is (networks, k), in the tensor's dtype."""

    spec: TensorSpec
    start: int
    block: Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """Where a checkpoint is: a file with this header, or a row of the stack in it."""

    path: Path
    row: int | None
    header: Mapping[str, Stored]

    def tensor(self, name: str) -> Stored:
        stored = self.header[name]
        return stored if self.row is None else stored.row(self.row)

    def tensors(self) -> dict[str, Stored]:
        """All of the checkpoint's. Raises Corrupt when the stack has no such row."""
        if self.row is not None and any(not t.shape or self.row >= t.shape[0] for t in self.header.values()):
            raise Corrupt(f"{self.path} has no row {self.row}")
        return {name: self.tensor(name) for name in self.header}


def check_place(place: Place, structure: Structure, entry: Entry, trusted: bool = False) -> None:
    """Raise Corrupt unless the entry's checkpoint is at this place: its tensors and, unless trusted, its bytes."""
    tensors, where = place.tensors(), f"{entry.id} in {place.path}"
    try:
        structure.check(
            {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in tensors.items()}, where
        )
    except ValueError as error:
        raise Corrupt(str(error)) from error
    if trusted:
        return
    with place.path.open("rb") as file:
        if stored_hash(file, tensors) != entry.sha256:
            raise Corrupt(f"{where} is not the checkpoint of the manifest (its SHA-256 differs)")
    with place.path.open("rb") as file, place.path.open("rb") as other:
        for spec in structure:
            if spec.tied_to and not _equal(file, tensors[spec.name], other, tensors[spec.tied_to]):
                raise Corrupt(f"{where}: {spec.name} and {spec.tied_to} are tied but differ")


def _equal(file: BinaryIO, a: Stored, other: BinaryIO, b: Stored) -> bool:
    pieces = zip(stored_bytes(file, a), stored_bytes(other, b), strict=True)
    return all(x == y for x, y in pieces)


def read_columns(specs: Sequence[TensorSpec], places: Sequence[Place], values: int) -> Iterator[Column]:
    """Columns of these tensors, of at most `values` values (but one of each place). Raises Corrupt for a short file."""
    width = max(values // max(len(places), 1), 1)
    members: dict[Path, list[int]] = {}
    for i, place in enumerate(places):
        members.setdefault(place.path, []).append(i)
    for spec in specs:
        for start in range(0, spec.numel, width):
            count = min(width, spec.numel - start)
            block = torch.empty(len(places), count, dtype=DTYPES[spec.dtype])
            size = count * block.itemsize
            data = block.view(torch.uint8).reshape(-1).numpy().data
            for path, rows in members.items():
                with path.open("rb", buffering=0) as file:
                    for i in rows:
                        offset = places[i].tensor(spec.name).offset + start * block.itemsize
                        read_at(file, offset, data[i * size : (i + 1) * size])
            yield Column(spec, start, block)
