"""Zoo: a directory of checkpoints with a manifest. zoo.writer makes one.

manifest.json                written last
index.parquet                a row per checkpoint, for people and viewers; we never read it back
checkpoints/*.safetensors    one file per checkpoint, or stacks of them for models under a million values
frozen.safetensors           tensors that all its networks share, if only some of a network's are its weights
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from zoo.checkpoint import (
    content_hash,
    load_tensors,
    read_header,
    restore,
    take_row,
)
from zoo.columns import COLUMN_VALUES, VALUES, Column, Place, check_place, read_columns
from zoo.errors import Corrupt, MissingData
from zoo.files import read_limited
from zoo.hub import client as hub
from zoo.manifest import EARLY, MANIFEST_BYTES, Entry, Manifest, Source, versions
from zoo.names import recipe_meant
from zoo.structure import Kind, Structure

FROZEN = "frozen.safetensors"
INDEX = "index.parquet"
READ_AHEAD = 2  # checkpoints, and threads
READ_AHEAD_FROM = 50_000  # values; smaller models are read faster than handed from thread to thread


class Zoo:
    """A finished zoo, opened for reading: a sequence of whole networks as state dicts. Checkpoints are read when asked
    for and checked against their hash.
    """

    def __init__(self, path: Path, manifest: Manifest, sha256: str, fetch: Callable[[str], Path] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self._fetch = fetch  # brings a file of a published zoo here, for zoos that are not directories
        self._hashed: set[str] = set()  # ids of entries whose content was found to be the manifest's

    @classmethod
    def open(cls, source: Path | str) -> Zoo:
        """Open a directory, a name under zoos/, or `hf://user/zoo` lazily: files are downloaded when they are read. A
        Path is a directory.

        Raises MissingData when there is no finished zoo, Corrupt when its manifest is damaged.
        """
        if hub.is_address(source):
            address = hub.resolve(hub.parse_address(source), "dataset")
            file = hub.fetch(address, "manifest.json", "dataset")
            text = read_limited(file, MANIFEST_BYTES)
            manifest = Manifest.parse(text, file)
            sha256 = manifest.identity_of(text)
            return cls(Path(source), manifest, sha256, lambda name: hub.fetch(address, name, "dataset"))
        path = find(source, "zoos")
        manifest_path = path / "manifest.json"
        if not manifest_path.is_file():
            if (path / "journal.jsonl").is_file():
                raise MissingData(f"{path} is not finished; run the command that was making it again")
            raise MissingData(
                f"no zoo at {path}: expected manifest.json and checkpoints/; make one with "
                f"`rpg-zoo collect {recipe_meant(path.name)}`"
            )
        text = read_limited(manifest_path, MANIFEST_BYTES)
        manifest = Manifest.parse(text, manifest_path)
        return cls(path, manifest, manifest.identity_of(text))

    @property
    def name(self) -> str:
        """The last part of its place, as it was given: a link's own name."""
        return self.path.name if self._fetch else absolute(self.path).name

    def __repr__(self) -> str:
        return f"Zoo({str(self.path)!r}, {len(self)} checkpoints of {self.structure.numel:,} values)"

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The network at this index as a whole state dict, frozen tensors included. Raises IndexError."""
        return self.load(self.entries[index]) | self.frozen()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        frozen = self.frozen()
        return (weights | frozen for weights in self.checkpoints(self.entries))

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.manifest.entries

    @property
    def trained(self) -> tuple[Entry, ...]:
        """The entries but for early ones, which lie along trainings and need not work; all, if all are early."""
        return tuple(entry for entry in self.entries if entry.split != EARLY) or self.entries

    @property
    def structure(self) -> Structure:
        return self.manifest.structure

    def select(self, split: str | None = None) -> list[Entry]:
        """The entries of a split, or all. Raises ValueError when there are none, naming the splits that exist."""
        chosen = [entry for entry in self.entries if split is None or entry.split == split]
        if not chosen:
            splits = sorted({entry.split for entry in self.entries})
            raise ValueError(
                f"{self.path} has no checkpoints of split {split!r}; it has {', '.join(splits) or 'none at all'} "
                "(--split)"
            )
        return chosen

    def entry(self, id: str) -> Entry:
        """The entry with this id. Raises ValueError when there is none."""
        for entry in self.entries:
            if entry.id == id:
                return entry
        raise ValueError(f"{self.path} has no checkpoint {id!r}; `rpg-zoo ls {self.path}` lists them")

    def load(self, entry: Entry) -> dict[str, Tensor]:
        """A checkpoint in state-dict order, ties restored. Raises Corrupt unless it is what the manifest promised."""
        return self._checkpoint(entry, self._tensors(entry.file))

    def checkpoints(self, entries: Iterable[Entry]) -> Iterator[dict[str, Tensor]]:
        """The checkpoints of these entries, in their order. Each is checked as by `load`, but what this object has
        found to be the manifest's before is not hashed again: a second pass costs no more than what it looks at.

        Larger ones are read and hashed ahead by threads, since SHA-256 is slower than most uses of weights. Memory
        holds READ_AHEAD + 1 of them, as pages of their files.
        """
        stack = lru_cache(maxsize=1)(self._tensors)

        def checkpoint(entry: Entry) -> dict[str, Tensor]:
            tensors = self._tensors(entry.file) if entry.row is None else stack(entry.file)
            return self._checkpoint(entry, tensors, trusted=entry.id in self._hashed)

        if self.structure.numel < READ_AHEAD_FROM:
            yield from map(checkpoint, entries)
            return
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            ahead: deque[Future[dict[str, Tensor]]] = deque()
            for entry in entries:
                ahead.append(pool.submit(checkpoint, entry))
                if len(ahead) > READ_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _tensors(self, file: str) -> dict[str, Tensor]:
        path = self.file(file)
        if not path.is_file():
            raise Corrupt(f"{path} is missing")
        return load_tensors(path)

    def _checkpoint(self, entry: Entry, tensors: dict[str, Tensor], trusted: bool = False) -> dict[str, Tensor]:
        """The entry's checkpoint out of its file's tensors, hashed unless it is trusted."""
        path = self.file(entry.file)
        if entry.row is not None:
            tensors = take_row(tensors, entry.row, path)
        where = f"{entry.id} in {path}"
        try:
            self.structure.check(tensors, where)
        except ValueError as error:
            raise Corrupt(str(error)) from error
        if not trusted and content_hash(tensors) != entry.sha256:
            raise Corrupt(f"{where} is not the checkpoint of the manifest (its SHA-256 differs)")
        checkpoint = restore(self.structure, tensors, where)
        self._hashed.add(entry.id)
        return checkpoint

    def columns(
        self, entries: Sequence[Entry], values: int = COLUMN_VALUES, kinds: Collection[Kind] = VALUES
    ) -> Iterator[Column]:
        """The values of these entries side by side, a piece of a tensor at a time: tensors of `kinds` in the
        structure's order, tied ones once, empty ones never. A column holds at most `values` values over all entries
        together (one of each entry, if there are more entries), so memory does not grow with the zoo.

        Before the first column every entry is checked as by `load`, once per Zoo object. Raises Corrupt as `load` does.
        """
        paths = {name: self.file(name) for name in dict.fromkeys(entry.file for entry in entries)}
        headers = {name: read_header(path) for name, path in paths.items()}
        places = [Place(paths[entry.file], entry.row, headers[entry.file]) for entry in entries]

        def check(entry: Entry, place: Place) -> None:
            check_place(place, self.structure, entry, trusted=entry.id in self._hashed)
            self._hashed.add(entry.id)

        with ThreadPoolExecutor(READ_AHEAD) as pool:
            for _ in pool.map(check, entries, places):
                pass
        specs = [spec for spec in self.structure if spec.kind in kinds and spec.tied_to is None]
        yield from read_columns(specs, places, values)

    def frozen(self) -> dict[str, Tensor]:
        """The tensors that complete every checkpoint to a whole network; mostly none. Raises Corrupt unless they are
        what the manifest promised.
        """
        if self.manifest.frozen is None:
            return {}
        path = self.file(FROZEN)
        tensors = load_tensors(path) if path.is_file() else {}
        if content_hash(tensors) != self.manifest.frozen:
            raise Corrupt(f"{path} is not that of the manifest (it is missing, or its SHA-256 differs)")
        return tensors

    def problems(self) -> Iterator[str]:
        """Everything in the directory that is not as the manifest says, a line each; nothing for a sound zoo."""
        for path in sorted((self.path / "checkpoints").rglob("*")):
            if path.relative_to(self.path).as_posix() not in self.manifest.files and not path.is_dir():
                yield f"{path} is not in the manifest"
        yield from self.damage()

    def damage(self) -> Iterator[str]:
        """What of the zoo itself is not as its manifest says, a line each."""
        damaged = set()
        for name, record in self.manifest.files.items():
            try:
                problem = record.problem(self.file(name))
            except Corrupt as error:
                problem = str(error)
            if problem:
                damaged.add(name)
                yield problem
        if FROZEN not in damaged:
            yield from _raised(self.frozen)
        for entry in self.entries:
            yield from _raised(partial(self.load, entry))

    def unlisted(self) -> list[str]:
        """What else lies in the directory, by its path there: no part of the zoo, so neither checked nor published.
        What lies among the checkpoints is a problem instead.
        """
        listed = {*self.manifest.files, "manifest.json"}
        found = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir()]
        return sorted(name for name in found if name not in listed and not name.startswith("checkpoints/"))

    def file(self, name: str) -> Path:
        """Where a file of the zoo is, downloaded if the zoo is not a directory. Raises Corrupt for a way out of it."""
        if self._fetch:
            return self._fetch(name)
        path = self.path / name
        try:
            inside = path.resolve().is_relative_to(self.path.resolve())
        except (OSError, RuntimeError) as error:  # a loop of links, which Python calls a RuntimeError
            raise Corrupt(f"{path} cannot be read: {error}") from error
        if not inside:
            raise Corrupt(f"{path} points outside the zoo")
        return path


def _raised(read: Callable[[], object]) -> Iterator[str]:
    """What is wrong with what is read, if anything is."""
    try:
        read()
    except Corrupt as error:
        yield str(error)


def absolute(path: Path) -> Path:
    """The same place from the root, without `.` and `..`; links are left alone, so that they keep their names."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # Path.resolve follows links, Path.absolute keeps `..`


def find(place: Path | str, folder: str) -> Path:
    """Where an artefact is: under its usual folder (`zoos`, `runs`) if a plain name is given and it is there, else at
    that path. A plain name that is nowhere is looked for in the usual folder. A Path is a place, and never a name.
    """
    path = Path(place)
    usual = Path(folder) / path
    plain = isinstance(place, str) and "/" not in place and len(path.parts) == 1
    return usual if plain and (usual.is_dir() or not path.exists()) else path


def derivation(zoo: Zoo, entries: Sequence[Entry], operation: str, settings: dict[str, JsonValue]) -> dict[str, Any]:
    """What changes in a zoo's origin when an operation with these settings derives another from some of its entries."""
    split = entries[0].split
    return {
        "kind": "derived",
        "settings": {"split": split, operation: settings},
        "parents": (zoo.sha256,),
        "source": Source(zoo=zoo.sha256, name=zoo.name, split=split),
        "versions": versions(),
    }
