"""A zoo of binary tasks with another choice of unseen tasks: the same checkpoints, nothing is trained again."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.conditions import Holdout, splits
from zoo.errors import Corrupt
from zoo.files import unwritable_is_failed, write_bytes
from zoo.manifest import Entry, FileRecord, Manifest
from zoo.store import INDEX, Zoo, write_index


def split_zoo(zoo: Zoo, holdout: Holdout, command: tuple[str, ...], path: Path) -> Zoo:
    """The same checkpoints as a zoo at `path`, with the splits that `holdout` gives their conditions. Its files are
    hard links, or copies where there can be none. It appears whole or not at all; doing it again changes nothing.

    Raises ValueError when there are entries without conditions, when nothing is left to train on or to test, or when
    `path` holds something else.
    """
    entries, old = _entries(zoo, holdout), zoo.manifest
    settings = {**old.origin.settings, "holdout": holdout.model_dump(mode="json")}
    made_by = {"parents": (zoo.sha256,), "settings": settings, "command": command}
    origin = old.origin.model_copy(update=made_by)
    if path.exists():
        there = Zoo.open(path) if (path / "manifest.json").is_file() else None
        if there is None or there.manifest.origin.model_copy(update={"command": command}) != origin:
            raise ValueError(f"{path} exists and is not this split of {zoo.path}; choose another place with --out")
        return there
    with _directory(path) as temporary:
        for name, record in old.files.items():
            if name != INDEX:
                _link(zoo.file(name), record, temporary / name)
        write_index(temporary / INDEX, entries)
        files = dict(old.files) | {INDEX: FileRecord.of(temporary / INDEX)}
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
    return tuple(entry.model_copy(update={"split": found[str(entry.condition)]}) for entry in zoo.entries)


def _link(source: Path, record: FileRecord, target: Path) -> None:
    source = source.resolve()  # files in the Hub's cache are links
    if not source.is_file() or source.stat().st_size != record.bytes:
        raise Corrupt(f"{source} is missing or has not {record.bytes} bytes; `rpg-zoo verify` says what else is wrong")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """A directory to fill, that becomes `path` when the block ends; what a kill left of an earlier one goes."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with unwritable_is_failed(path):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
