"""The kinds of pieces that data sets come in: one file, an archive that becomes a directory, a folder of the Hub.

Each looks what of it is there, and gets what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, TypeAlias

from zoo.errors import Corrupt, MissingData
from zoo.fetch.archives import unpack, unpacking_path
from zoo.fetch.download import Remote, complete, download, has_part, part_of, part_path
from zoo.files import unwritable_is_failed
from zoo.hub import client

State: TypeAlias = Literal["there", "begun", "missing", "differs"]
REST = "but for what was downloaded, which is to be removed"


@dataclass(frozen=True)
class Found:
    """What of a piece is there: all of it, some (`begun`), nothing, or something else; `note` says what. `download` and
    `unpacked` are bytes that are still to come and that will be unpacked.
    """

    state: State
    note: str = ""
    download: int = 0
    unpacked: int = 0


class Piece(Protocol):
    """A piece of a data set; `place` is where it is below the data root."""

    @property
    def place(self) -> str: ...

    @property
    def source(self) -> str:
        """Where it comes from."""
        ...

    @property
    def bytes(self) -> int:
        """Of its download, or about so many."""
        ...

    @property
    def exact(self) -> bool:
        """Whether somebody states these bytes."""
        ...

    @property
    def checked_by(self) -> str:
        """What is checked of it."""
        ...

    def look(self, root: Path) -> Found:
        """What of it is there, without changing anything."""
        ...

    def get(self, root: Path) -> None:
        """Get it, unless it is there. Raises MissingData, Failed or Corrupt."""
        ...


@dataclass(frozen=True)
class _OneFile:
    """A piece that comes as one file."""

    place: str
    remote: Remote

    @property
    def source(self) -> str:
        return self.remote.url

    @property
    def bytes(self) -> int:
        return self.remote.bytes

    @property
    def exact(self) -> bool:
        return self.remote.exact


@dataclass(frozen=True)
class FilePiece(_OneFile):
    """One file as it is published."""

    @property
    def checked_by(self) -> str:
        return str(self.remote.digest or "size")

    def look(self, root: Path) -> Found:
        path = root / self.place
        if not path.is_file():
            return _to_download(self.remote, path)
        if problem := self.remote.problem(path):
            return Found("differs", problem)
        return Found("begun", REST) if has_part(path) else Found("there")

    def get(self, root: Path) -> None:
        download(self.remote, root / self.place)


@dataclass(frozen=True)
class ArchivePiece(_OneFile):
    """A zip archive, which becomes the directory `place`: all that it has below the directory of that name. `holds`
    says how many files of which patterns a whole one has, `unpacked` about how many bytes.

    An archive of its name beside the directory is the user's: it is used, and stays. Ours is removed when it is
    unpacked.
    """

    holds: Mapping[str, int]
    unpacked: int

    @property
    def checked_by(self) -> str:
        return f"{self.remote.digest}, CRCs" if self.remote.digest else "size and CRCs: nobody states a checksum"

    def look(self, root: Path) -> Found:
        target, own = root / self.place, self._archive(root)
        if target.exists():
            if lacks := counted(target, self.holds):
                return Found("differs", f"it has {lacks}")
            return Found("begun", REST) if has_part(own) else Found("there")
        if own.is_file():
            return Found("begun", f"{own.name} is there", unpacked=self.unpacked)
        found = _to_download(self.remote, own)
        begun = unpacking_path(target).is_dir()
        return Found("begun" if begun else found.state, found.note, found.download, self.unpacked)

    def get(self, root: Path) -> None:
        own = self._archive(root)
        with part_of(own) as part:
            if (root / self.place).exists():  # unpacked before a kill, which left the archive
                return
            if own.is_file():
                if problem := self.remote.problem(own):
                    raise Corrupt(f"{own} is another archive than {self.remote.url}: {problem}; move it away")
                self._unpack(own, root)
                return
            complete(self.remote, part)
            try:
                self._unpack(part.path, root)
            except Corrupt as error:
                part.remove()
                raise Corrupt(f"{error}; it was removed, run the same command again") from error

    def _archive(self, root: Path) -> Path:
        return (root / self.place).with_name(self.remote.name)

    def _unpack(self, archive: Path, root: Path) -> None:
        def check(place: Path) -> None:
            if lacks := counted(place, self.holds):
                raise Corrupt(f"{self.remote.name} is not the expected archive: it has {lacks}")

        unpack(archive, root / self.place, check)


@dataclass(frozen=True)
class HubPiece:
    """Files of a data set on the Hub, by patterns of their names there, about so many `bytes`. `instead` are layouts
    from elsewhere that do as well: patterns below the data root, and how many there are of each. `otherwise` says what
    to do who cannot get it.
    """

    place: str
    repo: str
    patterns: tuple[str, ...]
    bytes: int
    instead: Mapping[str, int] = field(default_factory=dict)
    otherwise: str = ""
    exact: bool = False

    @property
    def source(self) -> str:
        return f"https://huggingface.co/datasets/{self.repo}"

    @property
    def checked_by(self) -> str:
        return "sha256 (the Hub's)"

    def look(self, root: Path) -> Found:
        if self.instead and not counted(root, self.instead):
            return Found("there", ", ".join(self.instead))
        from zoo.data.tables import shards  # which need pyarrow

        folder = root / self.place / PurePosixPath(self.patterns[0]).parent
        try:
            splits = [shards(folder, PurePosixPath(pattern).name.partition("-")[0]) for pattern in self.patterns]
        except Corrupt as error:
            return Found("begun", str(error), self.bytes)
        return Found("there") if all(splits) else Found("begun" if any(splits) else "missing", "", self.bytes)

    def get(self, root: Path) -> None:
        into = root / self.place
        try:
            address = client.resolve(client.Address(self.repo), "dataset")
            there = {n: about for n, about in client.hashes(address, "dataset").items() if self._is_wanted(n)}
            if not there:
                raise MissingData(f"{address} has no {', '.join(self.patterns)}")
            for name, about in there.items():
                path = into / name
                if path.is_file() and path.stat().st_size == about[0]:
                    continue
                with unwritable_is_failed(into):
                    client.fetch(address, name, "dataset", into)
                if not client.is_same(path, about):
                    path.unlink(missing_ok=True)
                    raise Corrupt(f"{name} of {address} did not come as it is there; run the same command again")
        except MissingData as error:
            raise MissingData(f"{error}, and run the same command again; or {self.otherwise}") from error
        client.forget_downloads(into)

    def _is_wanted(self, name: str) -> bool:
        """Only names of as many parts as a pattern has can match it, so none leads elsewhere."""
        path = PurePosixPath(name)
        parts = len(path.parts)
        return any(parts == len(PurePosixPath(p).parts) and path.match(p) for p in self.patterns)


def counted(folder: Path, holds: Mapping[str, int]) -> str:
    """How a directory differs from one that holds so many files of these patterns; nothing where it does not."""
    for pattern, expected in holds.items():
        found = sum(not path.name.startswith(".") for path in folder.glob(pattern))
        if found != expected:
            return f"{found:,} of {expected:,} {pattern}"
    return ""


def _to_download(remote: Remote, place: Path) -> Found:
    part = part_path(place)
    have = part.stat().st_size if part.is_file() else 0
    note = f"{have:,} bytes have come" if have else ""
    return Found("begun" if have else "missing", note, max(0, remote.bytes - have))
