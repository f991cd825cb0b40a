"""Rows "reconstructed" of a report: training and held-out networks, encoded and decoded by the runs that made the
generated ones (rpg.methods.ceiling). They bound what a method with a codec can make, and are no baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from rpg.methods.ceiling import codec_of, reconstruct, spread_out
from rpg.reports.compare import HELDOUT, Candidate
from rpg.run import Run
from zoo.store import Zoo

RECONSTRUCTED = "reconstructed"
BY, AND = " by ", " and "  # before the groups of whose codec a row is, and between them
ABOUT = {
    False: "training checkpoints, encoded and decoded: the ceiling of what the codec can make",
    True: "held-out originals, encoded and decoded: what the codec keeps of networks that it never saw",
}


def reconstructions(
    runs: Mapping[str, Run], groups: int, originals: Zoo, split: str, n: int, out: Path, device: torch.device
) -> list[Candidate]:
    """At most n training networks and n held-out ones of the `originals` after the codec of each run, as zoos under
    `out`. `runs` are those behind the groups of generated networks, of which there are so many; those without a codec
    are passed over.
    """
    codecs: dict[str, tuple[list[str], Run]] = {}
    for name, run in runs.items():
        if codec_of(run):
            codecs.setdefault(run.sha256, ([], run))[0].append(name)
    found = []
    for names, run in codecs.values():
        codec = codec_of(run)
        assert codec
        by = BY + AND.join(names) if groups > 1 else ""
        for heldout in (False, True):
            if heldout and (split == HELDOUT or all(entry.split != HELDOUT for entry in originals.entries)):
                continue
            entries = spread_out(originals.select(HELDOUT if heldout else split), n)
            row = RECONSTRUCTED + (f" {HELDOUT}" if heldout else "") + by
            place = out / f"{RECONSTRUCTED}-{HELDOUT if heldout else split}-{run.sha256[:16]}"
            zoo = reconstruct(run, codec, originals, entries, place, device)
            found.append(Candidate(row, zoo, "reconstructed", ABOUT[heldout]))
    return found


def is_of(row: str, group: str) -> bool:
    """Whether a row of these is of the codec behind a group."""
    _, by, names = row.partition(BY)
    return not by or group in names.split(AND)
