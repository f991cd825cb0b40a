"""Directories for what is made on the spot: of this process, and gone with it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="rpg-zoo-")  # removed when the interpreter ends


def directory_of_process(name: str) -> Path:
    """An empty directory of this name, which goes when the process ends. It must be a new one."""
    place = Path(_kept().name) / name
    place.mkdir()
    return place
