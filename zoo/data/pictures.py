"""Pictures in files of others: decoded, or refused with a reason. Pillow's ways to fail are many."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

from PIL import Image

from zoo.errors import brief

DEEP = ("I", "F")  # modes, and what they begin with, of which Pillow cuts all values above 255 off


def read_picture(file: IO[bytes] | Path, mode: str | None = "RGB") -> Image.Image:
    """The picture in an open file or at a path, converted to `mode`, or as it is with None.

    Raises ValueError for one that cannot be decoded, OSError for a file that cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return read_picture(opened, mode)
    if not file.read(1):
        raise ValueError("it is empty")
    file.seek(0)
    try:
        with Image.open(file) as found:
            found.load()
            if mode and found.mode.startswith(DEEP):
                raise ValueError(f"its values have more than 8 bits (mode {found.mode}); save it with 8")
            return found.convert(mode) if mode else found.copy()
    except Exception as error:  # OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(re.sub(r" ?<_io\.\w+[^>]*>", "", brief(error, 120))) from error
