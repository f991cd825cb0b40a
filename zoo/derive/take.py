"""A zoo of fewer training seeds, to learn how many a generator needs: the same checkpoints, nothing is trained."""

from __future__ import annotations

from pathlib import Path

from zoo.derive.split import relink
from zoo.manifest import EARLY, Entry
from zoo.store import Zoo


def take(zoo: Zoo, seeds: int, command: tuple[str, ...], path: Path) -> Zoo:
    """The checkpoints of the first `seeds` training seeds, and all that are not for training, as a zoo at `path`. Its
    files are hard links, or copies where there can be none. It appears whole or not at all; doing it again changes
    nothing.

    Raises ValueError when the zoo has fewer training seeds, or when `path` holds something else.
    """
    return relink(zoo, taken(zoo, seeds), {"take": {"seeds": seeds}}, command, path)


def taken(zoo: Zoo, seeds: int) -> tuple[Entry, ...]:
    """The entries that `take` keeps. Raises ValueError when the zoo has fewer training seeds."""
    known = list(dict.fromkeys(entry.seed for entry in zoo.entries if entry.split == "train"))
    if not 0 < seeds <= len(known):
        raise ValueError(
            f"{zoo.path} has {len(known)} training seeds, so it cannot give {seeds}; take 1 to {len(known)}"
        )
    left_out = set(known[seeds:])
    return tuple(e for e in zoo.entries if e.split not in ("train", EARLY) or e.seed not in left_out)
