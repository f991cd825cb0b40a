"""A zoo of binary tasks with another choice of unseen tasks: the same checkpoints, nothing is trained again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from zoo.conditions import Holdout, splits
from zoo.files import write_bytes
from zoo.index import write_index
from zoo.links import link_file, new_directory
from zoo.manifest import EARLY, Entry, FileRecord, Manifest, settings_of, versions
from zoo.store import INDEX, Zoo


def split_zoo(zoo: Zoo, holdout: Holdout, command: tuple[str, ...], path: Path) -> Zoo:
    """The same checkpoints as a zoo at `path`, with the splits that `holdout` gives their conditions. Its files are
    hard links, or copies where there can be none. It appears whole or not at all; doing it again changes nothing.

    Raises ValueError when there are entries without conditions, when nothing is left to train on or to test, or when
    `path` holds something else.
    """
    return relink(zoo, _entries(zoo, holdout), {"holdout": settings_of(holdout)}, command, path)


def relink(
    zoo: Zoo, entries: tuple[Entry, ...], settings: Mapping[str, JsonValue], command: tuple[str, ...], path: Path
) -> Zoo:
    """A zoo at `path` of these entries of a zoo, as they are given here, with the files that they need; `settings` say
    what was done. Raises ValueError when `path` holds something else.
    """
    old = zoo.manifest
    made_by = {
        "parents": (zoo.sha256,),
        "settings": {**old.origin.settings, **settings},
        "command": command,
        "versions": versions(),
    }
    origin = old.origin.model_copy(update=made_by)
    if path.exists():
        if not (path / "manifest.json").is_file():
            raise ValueError(f"{path} exists and is not a zoo; choose another place with --out")
        there = Zoo.open(path)
        if changed := there.manifest.origin.differences(origin):
            raise ValueError(f"{path} holds another zoo: {'; '.join(changed[:3])}; choose another place with --out")
        return there
    dropped = {entry.file for entry in zoo.entries} - {entry.file for entry in entries}
    with new_directory(path) as temporary:
        kept = {name: record for name, record in old.files.items() if name != INDEX and name not in dropped}
        for name, record in kept.items():
            link_file(zoo.file(name), record, temporary / name)
        write_index(temporary / INDEX, entries)
        files = kept | {INDEX: FileRecord.of(temporary / INDEX)}
        manifest = Manifest(origin=origin, structure=old.structure, frozen=old.frozen, files=files, entries=entries)
        write_bytes(temporary / "manifest.json", manifest.to_json(indent=1).encode())
    return Zoo.open(path)


def plan_split(zoo: Zoo, holdout: Holdout) -> dict[str, int]:
    """How many checkpoints each split would have. Raises as `split_zoo` does."""
    return dict(sorted(Counter(entry.split for entry in _entries(zoo, holdout)).items()))


def _entries(zoo: Zoo, holdout: Holdout) -> tuple[Entry, ...]:
    if bare := [entry.id for entry in zoo.entries if entry.condition is None]:
        raise ValueError(f"{bare[0]} of {zoo.path} has no condition; expected a zoo of binary tasks")
    found = splits(sorted({str(entry.condition) for entry in zoo.entries}), holdout)
    return tuple(
        entry if entry.split == EARLY else entry.model_copy(update={"split": found[str(entry.condition)]})
        for entry in zoo.entries
    )
