"""Going through a zoo takes memory for a few values of each network, whatever the size of networks and zoo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "zoo_memory.py"
MB = 10**6


def risen(*argv: object) -> int:
    """Bytes by which resident memory rose."""
    command = [sys.executable, str(SCRIPT), *map(str, argv)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A zoo of 20 networks of 8 MB, and one of 5 of a quarter of that: by the bytes of all networks."""
    place = tmp_path_factory.mktemp("zoos")
    sizes = {5 * 4 * 500_000: (5, 500_000), 20 * 4 * 2_000_000: (20, 2_000_000)}
    for size, (count, values) in sizes.items():
        risen(count, values, place / str(size), "make")
    return {size: place / str(size) for size in sizes}


@pytest.mark.parametrize("what", ["columns", "gram", "noise", "soup", "gaussian"])
def test_memory_does_not_grow_with_the_zoo(zoos: dict[int, Path], what: str) -> None:
    small, large = (risen(0, 0, place, what) for _, place in sorted(zoos.items()))
    assert large < small + 6 * MB  # of a zoo 150 MB larger, with networks 6 MB larger
    assert large < 100 * MB  # pyarrow takes most of it, to write three rows
