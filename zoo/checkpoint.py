"""Checkpoints as files: the only place that touches safetensors.

A file holds one checkpoint under the model's own tensor names, loadable as it is by timm, peft or plain torch; or,
for small models, a stack of them, every tensor with a leading axis over checkpoints. The header carries `{"format":
"pt"}` and nothing else, so equal tensors give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from zoo.errors import Corrupt, Failed
from zoo.files import atomic_path, parse_json
from zoo.structure import DTYPES, MAX_VALUES, Structure

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HEADER_BYTES = 10**8  # the format's own limit
MAX_AXES = 64  # torch's own limit
PIECE_BYTES = 2**20  # read at a time where bytes are only looked at


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's content: names, dtypes, shapes and bytes, whatever the file around them.

    Equal for the same weights stored alone or in a stack, on every machine.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(_hash_header(name, tensor.dtype, tensor.shape))
        digest.update(_bytes(tensor))
    return digest.hexdigest()


@lru_cache(maxsize=10_000)  # for checkpoints of one structure after another
def _hash_header(name: str, dtype: torch.dtype, shape: torch.Size) -> bytes:
    return json.dumps([name, str(dtype).removeprefix("torch."), list(shape)]).encode()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file atomically. Tied tensors are written under each of their names, so that the file is
    complete.
    """
    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(whole, temporary, metadata={"format": "pt"})
            temporary.chmod(mode)  # safetensors makes a file of its own, which nobody else may read, and renames it
        except SafetensorError as error:  # its wrapper of the operating system's error
            raise Failed(
                f"cannot write {path}: {error}; what was finished is kept, make room and run the same command again"
            ) from error


@dataclass(frozen=True)
class Stored:
    """Where a safetensors file keeps a tensor: dtype, shape, and the byte of the file at which its values begin."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def row(self, index: int) -> Stored:
        """Checkpoint `index` of this tensor of a stack."""
        one = Stored(self.dtype, self.shape[1:], self.offset)
        return Stored(self.dtype, one.shape, self.offset + index * one.nbytes)


def read_header(path: Path) -> dict[str, Stored]:
    """Where a file's tensors are, for reading them in pieces; no tensor is read.

    Raises Corrupt for what is not whole safetensors with tensors of our dtypes, and when the file is missing.
    """
    if not path.is_file():
        raise Corrupt(f"{path} is missing")
    with path.open("rb") as file:
        size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES, size - 8):
            raise Corrupt(f"{path} is not a whole safetensors file: it has no header")
        header = parse_json(file.read(length), f"the header of {path}")
    begin = 8 + length
    try:
        stored = {name: _stored(header[name], begin) for name in header if name != "__metadata__"}
    except (LookupError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is not a whole safetensors file: its header is not that of one") from error
    end = begin
    for tensor in sorted(stored.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != end:
            raise Corrupt(f"{path} is not a whole safetensors file: its tensors overlap or leave gaps")
        end += tensor.nbytes
    if end != size:
        raise Corrupt(f"{path} is not a whole safetensors file: it has {size} bytes, its header says {end}")
    return stored


def _stored(record: Any, begin: int) -> Stored:
    """One tensor of a header. Raises LookupError, TypeError or ValueError for anything else."""
    shape, (first, last) = tuple(record["shape"]), record["data_offsets"]
    if len(shape) > MAX_AXES or not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError("sizes are natural numbers")
    tensor = Stored(SAFETENSORS_DTYPES[record["dtype"]], shape, begin + first)
    if math.prod(max(size, 1) for size in shape) > MAX_VALUES or last - first != tensor.nbytes:
        raise ValueError("the size is not that of the shape")
    return tensor


def read_at(file: BinaryIO, offset: int, into: memoryview) -> None:
    """Fill `into` with the file's bytes from `offset` on. Raises Corrupt when the file ends before."""
    file.seek(offset)
    while into:
        count = file.readinto(into)  # type: ignore[attr-defined]  # files have it, BinaryIO does not
        if not count:
            raise Corrupt(f"{file.name} is not a whole safetensors file: it ends before byte {offset + len(into)}")
        offset, into = offset + count, into[count:]


def stored_bytes(file: BinaryIO, tensor: Stored) -> Iterator[memoryview]:
    """The tensor's bytes in pieces; each piece is gone when the next is asked for."""
    buffer = memoryview(bytearray(min(PIECE_BYTES, tensor.nbytes)))
    for start in range(0, tensor.nbytes, PIECE_BYTES):
        piece = buffer[: tensor.nbytes - start]
        read_at(file, tensor.offset + start, piece)
        yield piece


def stored_hash(file: BinaryIO, tensors: Mapping[str, Stored]) -> str:
    """`content_hash` of the checkpoint that these tensors of the file make, read in pieces."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_hash_header(name, tensors[name].dtype, torch.Size(tensors[name].shape)))
        for piece in stored_bytes(file, tensors[name]):
            digest.update(piece)
    return digest.hexdigest()


class TensorFile:
    """A safetensors file that is filled piece by piece, in any order, with a piece in memory: when all values are there
    its bytes are those of `save_tensors`. Values of a tensor are also written to those tied to it.
    """

    def __init__(self, file: BinaryIO, structure: Structure) -> None:
        self._file = file
        self._specs = {spec.name: spec for spec in structure}
        self._names = {source: [s.name for s in structure if source in (s.name, s.tied_to)] for source in self._specs}
        self._missing = {spec.name: spec.numel for spec in structure}
        header, offsets = _header(structure)
        file.write(header)
        self._stored = {
            spec.name: Stored(DTYPES[spec.dtype], spec.shape, len(header) + offsets[spec.name]) for spec in structure
        }

    def put(self, name: str, start: int, values: Tensor) -> None:
        """Write flat values of the tensor, in its dtype, from index `start` on. Each value is written once."""
        values = values.detach().cpu().contiguous()
        spec = self._specs[name]
        assert values.dtype == DTYPES[spec.dtype], f"{name} is {spec.dtype}, not {values.dtype}"
        assert 0 <= start <= start + len(values) <= spec.numel, f"{name} has {spec.numel} values"
        for tied in self._names[name]:
            self._file.seek(self._stored[tied].offset + start * values.itemsize)
            self._file.write(_bytes(values))
            self._missing[tied] -= len(values)

    def content_hash(self) -> str:
        """`content_hash` of the whole checkpoint, read back in pieces."""
        assert not any(self._missing.values()), f"values are missing: {self._missing}"
        return stored_hash(self._file, self._stored)


@contextmanager
def write_tensors(path: Path, structure: Structure) -> Iterator[TensorFile]:
    """A file to fill piece by piece, which appears at `path` when the block ends, unless it fails. Raises Failed when
    the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        yield TensorFile(file, structure)


def _header(structure: Structure) -> tuple[bytes, dict[str, int]]:
    """What `save_tensors` writes before the data, and where in the data each tensor begins."""
    # safetensors orders tensors by dtype and name; from empty ones it tells how, in whatever version is installed.
    empty = save({spec.name: torch.empty(0, dtype=DTYPES[spec.dtype]) for spec in structure}, metadata={"format": "pt"})
    header = json.loads(empty[8:])
    specs, offset = {spec.name: spec for spec in structure}, 0
    offsets: dict[str, int] = {}
    for name in (name for name in header if name in specs):
        size = specs[name].numel * DTYPES[specs[name].dtype].itemsize
        header[name] |= {"shape": list(specs[name].shape), "data_offsets": [offset, offset + size]}
        offsets[name] = offset
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, memory-mapped: what is not looked at is not read.

    Raises Corrupt when the file is not whole safetensors, or uses what this PyTorch does not know.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except FileNotFoundError:
        raise
    except Exception as error:  # its own, and what torch says to sizes and dtypes that pass its checks
        raise Corrupt(f"{path} is not a whole safetensors file: {error}") from error


def take_row(stack: Mapping[str, Tensor], row: int, path: Path) -> dict[str, Tensor]:
    """A copy of checkpoint `row` of a stack, which was loaded from `path`. Raises Corrupt when there is no such row."""
    if any(tensor.ndim == 0 or row >= len(tensor) for tensor in stack.values()):
        raise Corrupt(f"{path} has no row {row}")
    return {name: tensor[row].clone() for name, tensor in stack.items()}


def save_stack(path: Path, checkpoints: Sequence[Mapping[str, Tensor]]) -> None:
    """Write checkpoints of one structure as a stack: each tensor (n, *shape)."""
    save_tensors(path, {name: torch.stack([c[name] for c in checkpoints]) for name in checkpoints[0]})


def restore(structure: Structure, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The checkpoint in the structure's order, with tied names on one tensor again.

    Raises ValueError when the tensors do not fit the structure, Corrupt when two tied tensors hold different values.
    """
    structure.check(tensors, what)
    restored: dict[str, Tensor] = {}
    for spec in structure:
        if spec.tied_to is None:
            restored[spec.name] = tensors[spec.name]
        elif torch.equal(tensors[spec.name], tensors[spec.tied_to]):
            restored[spec.name] = restored[spec.tied_to]
        else:
            raise Corrupt(f"{what}: {spec.name} and {spec.tied_to} are tied but differ")
    return restored
