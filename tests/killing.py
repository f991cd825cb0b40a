"""What tests of durability share: the files of a directory, and work that is killed at each of its disk operations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

MOST_OPERATIONS = 200


class Killed(BaseException):
    """Not an Exception: nothing on the way may handle it, as nothing handles SIGKILL."""


def content(path: Path) -> dict[str, bytes]:
    """The files of a directory by their paths there."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def check_kills(
    work: Callable[[Path], object],
    place: Path,
    expected: dict[str, bytes],
    files: Callable[[Path], dict[str, bytes]] = content,
) -> int:
    """Kill `work` on a new directory in `place` before its first disk operation, before its second, and so on until it
    ends; the same work again has to give the `expected` files each time. Returns the number of operations.
    """
    real, finished, kill_at = os.fsync, False, 0
    while not finished:
        assert kill_at < MOST_OPERATIONS
        path, calls = place / f"killed-{kill_at}", iter(range(10**6))

        def fsync(descriptor: int, calls=calls, kill_at=kill_at) -> None:
            if next(calls) == kill_at:
                raise Killed
            real(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                work(path)
                finished = True
            except Killed:
                pass
        work(path)
        assert files(path) == expected
        shutil.rmtree(path)
        kill_at += 1
    return kill_at
