"""A comparison takes as much memory for many networks as for few."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import watch
from rpg.reports.compare import Candidate, compare
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="many", kind="imported", command=("x",), versions={})
VALUES = 2**20  # a network of 4 MB
FEW, MANY, MADE = 6, 48, 6
ALLOWED = 80e6  # bytes: pieces, in their own dtype and in float64, and what the allocator keeps


def make(path: Path, count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with ZooWriter(path, ORIGIN, Structure.of({"w": torch.zeros(VALUES)})) as writer:
        for k in range(count):
            writer.add(f"n{k:02d}", {"w": torch.randn(VALUES, generator=rng)}, seed=k, split="train")
        writer.finish()


def compared(originals: Path, made: Path, out: Path) -> list[float]:
    """What is watched. Returns what has to be right as well."""
    comparison = compare(Zoo.open(originals), "train", [Candidate("made", Zoo.open(made), "generated")], None, out)
    return list(comparison.group("made").nearest)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_zoo(tmp_path: Path) -> None:
    make(tmp_path / "made", MADE, 0)
    growths = []
    for count in (FEW, MANY):
        make(tmp_path / f"{count}", count, 1)
        before, peak, nearest = watch(compared, tmp_path / f"{count}", tmp_path / "made", tmp_path / f"report-{count}")
        assert nearest == pytest.approx([(2 * VALUES) ** 0.5] * MADE, rel=0.01)  # of independent normal draws
        growths.append(peak.anonymous - before.anonymous)
    few, many = growths
    assert many < ALLOWED, growths  # the originals alone are 200 MB
    assert many < few + 32e6, growths  # the originals of the second are 168 MB more; the allocator keeps some of each
