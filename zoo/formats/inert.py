"""Pickles of others without their code: what a file names beside tensors becomes an inert stand-in.

torch's unpickler (`weights_only=True`) knows tensors, plain containers and numbers, and refuses everything else. People
keep more beside weights: an `argparse.Namespace`, NumPy's numbers, a log's buffers, settings in classes of their own.
Here an object of whatever class becomes a dictionary that only remembers the class's name, and a call of a few known
constructors of data becomes an `Inert`, as does what looks like the member of an enumeration. No module is imported, no
class is looked up, nothing is called that a pickle names: a pickle that wants any other call stays refused.
"""

from __future__ import annotations

import pickle
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch

from zoo.errors import Corrupt
from zoo.formats.protocols import as_protocol_2

CLASSES = (
    "argparse.Namespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "omegaconf.dictconfig.DictConfig",
)
"""Known in advance; others are learnt from the error of a first try."""
CONSTRUCTORS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("collections.defaultdict", "collections.deque", "types.SimpleNamespace"),
    *(f"builtins.{name}" for name in ("getattr", "set", "frozenset", "complex", "slice", "range", "bytearray")),
)
"""What is called to make values that others keep beside weights. Of `getattr` (how HistoryBuffer names its methods)
nothing is looked up, and what stands for its result cannot be called.
"""
MOST_STAND_INS = 128  # for one file
TEXT = {
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"<!doctype html": "a page of HTML, not a checkpoint; the download went wrong",
    b"<html": "a page of HTML, not a checkpoint; the download went wrong",
}
"""How files begin that are none of ours, in lower case."""


class Inert:
    """The result of a constructor that was not called."""

    def __setstate__(self, state: object) -> None:
        """Its state is dropped."""


class _Refusing(type):
    """Classes that are not called, unless for a member of an enumeration, which pickles name so: by its value."""

    def __call__(cls, *args: object, **options: object) -> Any:
        if len(args) == 1 and isinstance(args[0], str | int | float | tuple | None) and _may_enumerate(cls.__name__):
            return Inert()
        raise pickle.UnpicklingError(f"it wants to call {cls.__name__}")


def _may_enumerate(name: str) -> bool:
    """Whether a name is that of a class, in the usual spelling, and not one of Python's own, which do things."""
    module, _, own = name.partition(".")
    pythons_own = module in sys.stdlib_module_names or any(name.partition(".")[0] == module for name in IMPORT_MAPPING)
    return own.rpartition(".")[2][:1].isupper() and not pythons_own  # pickles of protocol 2 have names of Python 2


def _constructor(name: str) -> Any:
    """What stands for a constructor: any arguments give an Inert, or a container where items follow."""
    container: Any = {"collections.defaultdict": OrderedDict, "types.SimpleNamespace": OrderedDict}.get(name, Inert)
    container = list if name == "collections.deque" else container

    def construct(*args: object, **options: object) -> object:
        return container()

    return construct


def _class(name: str) -> type:
    """What stands for a class: a new object of it is a dictionary, which takes items and attributes."""

    def new(cls: type, *args: object, **options: object) -> object:
        made: OrderedDict[object, object] = OrderedDict()
        vars(made)["stands_for"] = name
        return made

    return _Refusing(name, (), {"__new__": new})


def stands_for(value: object) -> str | None:
    """The name of the class that `value` is a stand-in of, if it is one."""
    return str(vars(value).get("stands_for") or "") or None if isinstance(value, OrderedDict) else None


@cache
def _known() -> list[Any]:
    """The stand-ins that pickles usually ask for, with the names that they go by."""
    classes = [(_class(name), name) for name in CLASSES]
    return [(Inert, f"{__name__}.Inert"), *classes, *((_constructor(name), name) for name in CONSTRUCTORS)]


def load_pickle(path: Path) -> object:
    """What torch.save wrote: plain containers, numbers, text, tensors, and stand-ins for everything else.

    Nothing of a pickle is run: a file that needs it, or is damaged, is Corrupt, and so is one that would unfold to more
    than its own size.
    """
    if not path.is_file():
        raise Corrupt(f"{path} is missing, or not a regular file")
    if reason := no_weights(path) or _other_archive(path):
        raise Corrupt(f"{path} is {reason}")
    return _loaded(path, path)


def _loaded(path: Path, source: Path | IO[bytes]) -> object:
    """What `source` holds: the file at `path`, or a copy of it in another protocol."""
    stand_ins: list[Any] = []  # none at first: most files need none, and torch looks through all of them at every step
    while True:
        try:
            return _torch_load(source, stand_ins)
        except Exception as error:  # whatever the unpickler stumbles over
            if source is path and "Unsupported operand" in str(error):
                with as_protocol_2(path) as copy:
                    return _loaded(path, copy)
            wanted = re.search(r"GLOBAL (\w[\w.]*)", str(error))
            known = {name for _, name in stand_ins}
            blocked = "is blocked" in str(error)
            if wanted and not blocked and wanted[1] not in known and len(known) < MOST_STAND_INS:
                stand_ins = stand_ins or list(_known())
                known = {name for _, name in stand_ins}
                stand_ins += [(_class(name), name) for name in _spellings(wanted[1]) if name not in known]
                continue
            raise _refusal(path, error, wanted[1] if wanted else None) from error


def _torch_load(source: Path | IO[bytes], stand_ins: list[Any]) -> object:
    """Memory-mapped, where it is an archive: what is not looked at is not read."""
    if not isinstance(source, Path):
        source.seek(0)
    mapped = isinstance(source, Path) and zipfile.is_zipfile(source)
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # about protocols and deprecated storages
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _spellings(name: str) -> tuple[str, ...]:
    """A name as errors have it, and as pickles have it where they differ: errors leave `builtins.` out."""
    return (name,) if "." in name else (name, f"builtins.{name}")


def _refusal(path: Path, error: Exception, wanted: str | None) -> Corrupt:
    detail = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the doc")[0].split())
    if call := re.search(r"it wants to call ([\w.]+)", detail):
        wanted = call[1]
    reason = f"it wants {wanted}" if wanted else f"{type(error).__name__}, {_cut(detail)}"
    return Corrupt(f"{path} is damaged, or a pickle that needs more than tensors ({reason})")


def _cut(text: str, limit: int = 120) -> str:
    """The beginning of a text, whole words."""
    return text if len(text) <= limit else text[:limit].rpartition(" ")[0] + " ..."


def no_weights(path: Path) -> str | None:
    """What a file is instead of weights, where its beginning says so. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        return "empty"
    return next((what for beginning, what in TEXT.items() if start.startswith(beginning)), None)


def _other_archive(path: Path) -> str | None:
    """What a zip archive is instead of torch.save's, if it is one, or what is wrong with it."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            names = [part.filename for part in archive.infolist()]
            if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
                return "a TorchScript archive; save its state_dict() with torch.save, or as safetensors"
            if not any(name.endswith("data.pkl") for name in names):
                return "a zip archive that torch.save did not write"
            # torch stores without compression: anything else is a bomb
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                return "damaged, or made to unfold: its parts are larger than the file"
            _check_sums(archive)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        return f"damaged: {_cut(' '.join(str(error).split()))}"
    return None


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile for a part that has changed since it was written: torch does not look at the checksums of what
    it maps into memory. One of 0 is none (torch.serialization.set_crc32_options).
    """
    for part in archive.infolist():
        if part.CRC:
            with archive.open(part) as file:
                while file.read(2**20):
                    pass
