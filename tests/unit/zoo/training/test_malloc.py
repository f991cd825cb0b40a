"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from zoo.training.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    first = torch.ones(2**24)  # 64 MB
    second = first * 2
    return first + second
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_block_that_was_freed_is_used_again_without_page_faults() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True).stdout)
        for how in ("given back", "kept")
    }
    assert faults["kept"] < faults["given back"] / 2
