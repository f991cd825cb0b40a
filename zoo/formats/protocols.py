"""Pickles of protocols 3 to 5 in the words of protocol 2, all that torch's unpickler (`weights_only=True`) knows.

Texts are written out wherever they are used, so that a global's name, which newer protocols take from the stack, can
stand in its place. Sets become lists and bytearrays bytes: they are not weights. Nothing is unpickled here.
"""

from __future__ import annotations

import io
import pickletools
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from zoo.errors import Corrupt

LEGACY_PICKLES = 5  # at the beginning of what torch.save wrote before zip archives; the values of tensors follow
IN_MEMORY = 2**26  # bytes; a larger copy goes to the disk
MOST_GROWTH, ALLOWANCE = 16, 2**16  # what texts that are written out may add
DAMAGED = (
    ValueError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
SAME = {"EMPTY_SET": b"]", "ADDITEMS": b"e", "FROZENSET": b"t", "NEWOBJ_EX": b"\x86\x81"}
"""Operations as those of protocol 2. `(class, arguments, options)` becomes `(class, (arguments, options))`."""


def as_protocol_2(path: Path) -> IO[bytes]:
    """A copy of what torch.save wrote with a newer protocol. Raises Corrupt for what is none, or is damaged."""
    copy = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # closed below, or by who asked for it
    try:
        if zipfile.is_zipfile(path):
            _copy_archive(path, copy)
        else:
            copy.write(_translated(path.read_bytes(), LEGACY_PICKLES))
    except BaseException as error:
        copy.close()
        if isinstance(error, DAMAGED):
            raise Corrupt(f"{path} is damaged: {' '.join(str(error).split())[:120]}") from error
        raise
    return copy


def _copy_archive(path: Path, copy: IO[bytes]) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for part in old.infolist():
            about = zipfile.ZipInfo(part.filename)
            about.file_size = part.file_size
            with old.open(part) as source, new.open(about, "w") as target:
                if part.filename.endswith("/data.pkl"):
                    target.write(_translated(source.read(), 1))
                else:
                    shutil.copyfileobj(source, target)


def _translated(data: bytes, pickles: int) -> bytes:
    """The data with this many pickles at its beginning translated."""
    file, found = io.BytesIO(data), bytearray()
    for _ in range(pickles):
        found += _Translation(file).run(MOST_GROWTH * len(data) + ALLOWANCE)
    return bytes(found + file.read())


class _Translation:
    """One pickle, word by word. `texts` are those that the pickle remembers, `waiting` up to two that were put on the
    stack last and may turn out to be the name of a global.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._found = bytearray(b"\x80\x02")
        self._texts: dict[int, str] = {}
        self._remembered: set[int] = set()
        self._waiting: list[str] = []
        self._words: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), self._text),
            **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), self._bytes),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            "MEMOIZE": lambda _: self._remember(len(self._remembered)),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), self._recall),
            "STACK_GLOBAL": lambda _: self._global(),
        }

    def run(self, limit: int) -> bytes:
        """Raises ValueError for what is no pickle, or becomes longer than `limit`."""
        start = self._file.tell()
        for word, argument, _ in pickletools.genops(self._file):
            end = self._file.tell()
            if word.name in self._words:
                self._words[word.name](argument)
            else:
                self._settle()
                self._file.seek(start)
                own = self._file.read(end - start)
                self._found += SAME.get(word.name, own)
            start = end
            if len(self._found) > limit:
                raise ValueError("its texts unfold to many times its size")
        return bytes(self._found)

    def _text(self, text: str) -> None:
        self._waiting.append(text)
        self._settle(keep=2)

    def _settle(self, keep: int = 0) -> None:
        """Write what waits, but for the last."""
        while len(self._waiting) > keep:
            data = self._waiting.pop(0).encode("utf-8", "surrogatepass")
            self._found += b"X" + struct.pack("<I", len(data)) + data

    def _bytes(self, data: bytes) -> None:
        """As protocol 2 has bytes: what a text of them encodes to."""
        self._settle()
        self._found += b"c_codecs\nencode\n"
        self._text(bytes(data).decode("latin-1"))
        self._text("latin1")
        self._settle()
        self._found += b"\x86R"

    def _remember(self, number: int) -> None:
        self._remembered.add(number)
        self._texts.pop(number, None)
        if self._waiting:
            self._texts[number] = self._waiting[-1]
        else:
            self._found += b"r" + struct.pack("<I", number)

    def _recall(self, number: int) -> None:
        if number in self._texts:
            self._text(self._texts[number])
        else:
            self._settle()
            self._found += b"j" + struct.pack("<I", number)

    def _global(self) -> None:
        if len(self._waiting) < 2 or "\n" in "".join(self._waiting):
            raise ValueError("a global whose name is no text")
        module, name = self._waiting
        self._waiting.clear()
        self._found += f"c{module}\n{name}\n".encode()
