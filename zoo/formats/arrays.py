"""Plain pickles of NumPy arrays, as detectron2 publishes its weights, read without running anything.

Such a file is no torch.save, so torch's own unpickler does not read it. This one knows the few names that a pickle of
arrays needs, and nothing behind any of them is NumPy's: they give inert records of shape, type and bytes, of which
tensors are made afterwards, when the three fit together. Any other name is refused, so no code of a file ever runs.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import Corrupt, brief

TYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
DEEPEST = 8  # containers in each other
MOST_AXES = 16


class Inert(Exception):
    """A file holds something that is no array, container, number or text."""


def load_arrays(path: Path) -> object:
    """What the file holds: dicts, lists, numbers, text, and tensors for arrays. Raises Corrupt for a file that is
    damaged or wants more than that.
    """
    try:
        with path.open("rb") as file:
            return _plain(_unpickler(file, path.stat().st_size).load(), 0)
    except Exception as error:  # whatever the unpickler stumbles over
        raise Corrupt(f"{path} is damaged, or a pickle that needs more than arrays ({brief(error, 120)})") from error


def _unpickler(file: Any, limit: int) -> pickle.Unpickler:
    """One whose names stand for new classes and functions each time: a file that changes them changes nothing else. Its
    arrays have at most `limit` bytes together.
    """
    unfolded = [0]

    class Type:
        """numpy.dtype("f4"), whose state begins with a version and the order of bytes."""

        def __init__(self, name: object, *_: object) -> None:
            self.name: Any = name
            self.order: Any = "|"

        def __setstate__(self, state: Any) -> None:
            self.order = state[1]

    class Array:
        """An array whose state is version, shape, type, whether columns come first, and bytes."""

        made: Tensor | None = None  # one, however often the file names it

        def __setstate__(self, state: Any) -> None:
            _, self.shape, self.type, self.columns_first, self.data = state

        def tensor(self) -> Tensor:
            if self.made is None:
                self.made = _tensor(self.shape, self.type.name, self.type.order, self.columns_first, self.data)
                unfolded[0] += self.made.nbytes
                if unfolded[0] > limit:
                    raise Inert("it would unfold to more than its own size")
            return self.made

    def reconstruct(*_: object) -> Array:
        return Array()

    def encode(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise Inert(f"it has bytes in {str(encoding)[:20]!r}")
        return text.encode("latin1")

    def empty() -> bytes:
        return b""

    known: dict[str, Callable[..., object]] = {
        **{f"numpy.{core}.multiarray._reconstruct": reconstruct for core in ("core", "_core")},
        "numpy.dtype": Type,
        "numpy.ndarray": Array,
        "_codecs.encode": encode,
        "__builtin__.bytes": empty,  # how old protocols write b""
        "collections.OrderedDict": OrderedDict,
    }

    class Unpickler(pickle.Unpickler):  # of which the two ways out are closed
        def find_class(self, module: str, name: str) -> Any:
            if (found := known.get(f"{module}.{name}")) is None:
                raise Inert(f"it wants {module[:60]}.{name[:60]}")
            return found

        def persistent_load(self, pid: object) -> Any:
            raise Inert("it refers to something outside")

    return Unpickler(file, encoding="latin1")


def _plain(value: Any, depth: int) -> object:
    """The value with tensors for arrays. Raises Inert for anything that is not plain."""
    if depth > DEEPEST:
        raise Inert("it is nested too deep")
    if type(value) in (dict, OrderedDict):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item, depth + 1) for item in value]
    if type(value) in (str, int, float, bool, bytes, type(None)):
        return value
    if callable(getattr(value, "tensor", None)):
        return value.tensor()
    raise Inert(f"it holds a {type(value).__name__}")


def _key(key: object) -> object:
    if type(key) not in (str, int):
        raise Inert(f"it has a key of type {type(key).__name__}")
    return key


def _tensor(shape: Any, name: Any, order: Any, columns_first: Any, data: Any) -> Tensor:
    """A tensor of these bytes, a copy. Raises Inert unless they are as many as shape and type say."""
    data = data.encode("latin1") if isinstance(data, str) else data  # what Python 2 called a string
    if name not in TYPES or order not in ("<", "|", "="):
        raise Inert(f"it has an array of type {str(order)[:5]}{str(name)[:20]}")
    if type(shape) is not tuple or len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise Inert(f"it has an array of shape {str(shape)[:60]}")
    dtype = TYPES[name]
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise Inert(f"it has an array of shape {str(shape)[:60]} whose bytes are others")
    if not data:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    if columns_first:
        return flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return flat.reshape(shape)
