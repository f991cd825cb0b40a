"""Distances after alignment: networks that compute alike lie together, however their units are ordered.

All networks are aligned to the universe of the originals (zoo.derive.alignment), each by its own, so that these are
upper bounds of distances in the quotient by the symmetries. What is written for that goes again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from rpg.reports.distances import Distances, Part, distances
from rpg.reports.distribution import Distribution
from zoo.derive.align import align
from zoo.derive.alignment import AlignConfig
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Frozen
from zoo.symmetry.specification import Specification
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)

MOST_VALUES = 2**28  # of all networks: aligning more takes longer than all else in a report
PLACE = ".aligned"  # below the report's directory


class InQuotient(Frozen):
    """What weights say of a group after alignment, as `rpg.reports.compare.Group` says it of them as they are.
    `novel_and_good` is there where scores are, `distribution` where originals were held out.
    """

    nearest: tuple[float, ...]
    nearest_ratio: tuple[float, ...]
    spread: float
    novel_and_good: float | None
    distribution: Distribution | None = None


def aligned_distances(
    groups: Sequence[Sequence[Part]],
    symmetries: Callable[[], Specification | None],
    out: Path,
    heldout: int | None = None,
) -> list[Distances] | None:
    """The distances of each group as `distances` gives them, after alignment; None where there is nothing to align, or
    too much. `symmetries` gives what is known of them. The first group are the originals, which alone decide where the
    others are taken.
    """
    zoo = groups[0][0][0]
    networks = sum(len(entries) for group in groups for _, entries in group)
    if (values := networks * zoo.structure.numel) > MOST_VALUES:
        log.info(f"distances after alignment are left out: {values:,} values, and at most {MOST_VALUES:,} are aligned")
        return None
    specification = symmetries()  # which may have to be traced
    if specification is None or not specification.groups:
        return None
    place = out / PLACE
    shutil.rmtree(place, ignore_errors=True)
    try:
        whole, ids = _together(groups, place / "whole")
        aligned = align(AlignConfig(), whole, specification, whole.manifest.origin, place / "aligned")
        return distances([[(aligned, [aligned.entry(id) for id in own])] for own in ids], heldout)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _together(groups: Sequence[Sequence[Part]], path: Path) -> tuple[Zoo, list[list[str]]]:
    """All networks in one zoo, and the ids there of each group's. Originals keep their runs; of the others nobody knows
    any, so each has a seed of its own.
    """
    first, number, ids = groups[0][0][0], count(), []
    origin = Origin(name=first.manifest.origin.name, kind="derived", command=("rpg report",), versions={})
    with ZooWriter(path, origin, first.structure, first.frozen()) as writer:
        for k, group in enumerate(groups):
            own: list[str] = []
            for zoo, entries in group:
                for entry, weights in zip(entries, zoo.checkpoints(entries), strict=True):
                    own.append(f"network-{next(number):06d}")
                    seed, split = (len(own), f"group-{k}") if k else (entry.seed, "train")
                    writer.add(own[-1], weights, seed=seed, split=split, step=entry.step, condition=entry.condition)
            ids.append(own)
        return writer.finish(), ids
