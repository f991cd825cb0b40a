"""Going through a zoo, and making networks of it, takes memory for a few values of each network: none for the size of
networks and zoo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "zoo_memory.py"
MB = 10**6


def risen(count: int, values: int, place: Path) -> int:
    """Bytes by which resident memory rose, for a zoo of so many networks of so many values."""
    command = [sys.executable, str(SCRIPT), str(count), str(values), str(place)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_zoo(tmp_path: Path) -> None:
    small, large = risen(5, 250_000, tmp_path / "small"), risen(20, 2_000_000, tmp_path / "large")
    assert large < small + 15 * MB  # of a zoo of 160 MB beside one of 5, in files of 8 MB beside 1
    assert large < 60 * MB
