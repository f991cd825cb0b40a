"""What a board shows: the artefacts of one directory by their names, and which were made from which.

Names come from the address bar, so from anyone: none leads out of the directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rpg.listing import own_scores
from rpg.reports.inputs import REPORT, REPORT_BYTES, networks
from rpg.run import Run
from zoo.errors import Corrupt, MissingData
from zoo.files import parse_json, read_limited
from zoo.manifest import Origin
from zoo.scoring import Score, read_scores
from zoo.store import Zoo

FOLDERS = {"zoo": "zoos", "run": "runs", "scores": "scores", "report": "reports"}
"""Where artefacts of a kind are."""
KINDS = {FOLDERS[kind]: kind for kind in FOLDERS}
MEDIA = {
    ".html": "text/html",
    ".json": "application/json",
    ".csv": "text/csv",
    ".md": "text/plain",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".pdf": "application/pdf",
}
"""The files of reports that are shown as they are."""
LONGEST = 255  # bytes of a file's name
DAMAGED = (Corrupt, MissingData, ValueError, OSError)
"""What reading an artefact raises that is not whole."""


class Unknown(LookupError):
    """What was asked for is not in the directory."""


@dataclass(frozen=True)
class Item:
    """An artefact of the directory. `known_by` are hashes of it and of what is in it, `made_of` those that it names as
    its own origin.
    """

    kind: str
    name: str
    known_by: frozenset[str]
    made_of: frozenset[str]


@dataclass(frozen=True)
class Kin:
    """What an artefact was made from, what was made from it, and hashes of parents that are not in the directory."""

    parents: tuple[Item, ...]
    children: tuple[Item, ...]
    elsewhere: tuple[str, ...]


class Shelf:
    """The artefacts under one directory."""

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()

    def path(self, kind: str, name: str) -> Path:
        """The directory of an artefact. Raises Unknown when there is none of this name, Corrupt when it is a link out
        of the directory.
        """
        if not _is_plain(name):
            raise Unknown(f"no {kind} of that name")
        path = self.place / FOLDERS[kind] / name
        if not path.is_dir():
            raise Unknown(f"no {kind} named {name}")
        self._refuse_outside(path)
        return path

    def zoo(self, name: str) -> Zoo:
        """Raises Unknown as `path` does, Corrupt or MissingData for one that is damaged or unfinished."""
        return Zoo.open(self.path("zoo", name))

    def scores(self, name: str) -> list[Score]:
        """The scores of the zoo of that name (rpg.listing.own_scores). Raises Unknown and Corrupt."""
        return own_scores(self.path("scores", name))

    def file(self, name: str) -> tuple[Path, str]:
        """A file of a report, or a zoo's manifest, and its media type. Raises Unknown for all else, Corrupt for a link
        out of the directory.
        """
        parts = name.split("/")
        suffix = Path(parts[-1]).suffix
        served = (parts[0] == "reports" and len(parts) > 2) or (parts[0] == "zoos" and parts[2:] == ["manifest.json"])
        plain = not {"", ".", ".."} & set(parts) and not {"\\", "\0"} & set(name)
        fits = all(len(os.fsencode(part)) <= LONGEST for part in parts) and len(os.fsencode(name)) < 4096 - LONGEST
        if not (served and plain and fits and suffix in MEDIA and (self.place / name).is_file()):
            raise Unknown("no file of that name is shown")
        self._refuse_outside(self.place / name)
        return self.place / name, MEDIA[suffix]

    def _refuse_outside(self, path: Path) -> None:
        try:
            inside = path.resolve().is_relative_to(self.place)
        except (OSError, RuntimeError) as error:  # a loop of links
            raise Corrupt(f"{path} cannot be read: {error}") from error
        if not inside:
            raise Corrupt(f"{path} is a link out of the directory that is shown")

    def names(self, kind: str, file: str) -> list[str]:
        """The artefacts of a kind that have this file, those apart that `path` refuses."""
        folder = self.place / FOLDERS[kind]
        found = sorted(path.parent for path in folder.glob(f"*/{file}"))
        return [path.name for path in found if _is_plain(path.name) and path.resolve().is_relative_to(self.place)]

    def items(self) -> list[Item]:
        """All artefacts that are whole: others are listed elsewhere, with what is wrong."""
        return [*self._items("zoo", "manifest.json", _zoo), *self._items("run", "trained.json", _run),
                *self._items("scores", "scores.jsonl", _scored), *self._items("report", REPORT, _report)]  # fmt: skip

    def kin(self, kind: str, name: str) -> Kin:
        """What an artefact was made from and what was made from it; nothing of one that is not whole."""
        items = self.items()
        mine = next((item for item in items if (item.kind, item.name) == (kind, name)), None)
        if mine is None:
            return Kin((), (), ())
        others = [item for item in items if item is not mine]
        parents = [item for item in others if item.known_by & mine.made_of]
        children = [item for item in others if item.made_of & mine.known_by]
        hashes = mine.made_of if kind in ("zoo", "run") else frozenset()
        return Kin(tuple(parents), tuple(children), tuple(sorted(hashes.difference(*(i.known_by for i in parents)))))

    def _items(self, kind: str, file: str, read: Callable[[Path], tuple[set[str], set[str]]]) -> Iterator[Item]:
        for name in self.names(kind, file):
            try:
                known_by, made_of = read(self.place / FOLDERS[kind] / name)
            except DAMAGED:  # the list of all artefacts says what is wrong with it
                continue
            yield Item(kind, name, frozenset(known_by), frozenset(made_of))


def _is_plain(name: str) -> bool:
    """Whether a name can be that of an artefact's directory in an address."""
    plain = name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
    return plain and len(os.fsencode(name)) <= LONGEST


def _zoo(path: Path) -> tuple[set[str], set[str]]:
    zoo = Zoo.open(path)
    splits = {entry.split for entry in zoo.entries}
    groups = [networks([zoo.entries]), *(networks([zoo.select(split)]) for split in splits)]
    return {zoo.sha256, *groups, *(entry.sha256 for entry in zoo.entries)}, _made_of(zoo.manifest.origin)


def _run(path: Path) -> tuple[set[str], set[str]]:
    run = Run(path)
    return {run.sha256}, _made_of(run.record().origin)


def _made_of(origin: Origin) -> set[str]:
    return {*origin.parents, *([origin.source.zoo] if origin.source else [])}


def _scored(path: Path) -> tuple[set[str], set[str]]:
    return set(), {score.sha256 for score in read_scores(path)}


def _report(path: Path) -> tuple[set[str], set[str]]:
    found = parse_json(read_limited(path / REPORT, REPORT_BYTES), path / REPORT)
    inputs = found.get("inputs") if isinstance(found, dict) else None
    return set(), {value for value in inputs.values() if isinstance(value, str)} if isinstance(inputs, dict) else set()
