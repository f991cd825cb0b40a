"""A file of the web, which comes whole or not at all, however often that is interrupted.

NAME.part holds what has come so far; NAME.part.jsonl, which one process at a time holds, says of which version that is
(Note). A version is what the server names it: a download is continued only by more of the same version.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from zoo.errors import Corrupt, Failed, MissingData
from zoo.files import Journal, put_in_place, unwritable_is_failed
from zoo.hub.client import Lost, open_web
from zoo.progress import Bar, progress
from zoo.structure import Frozen

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes read at a time, and what a bar counts
SYNCED = 64 << 20  # bytes between calls that put them on the disk
TRIES = 5  # in a row that bring nothing new
FIRST_WAIT = 1.0  # seconds before the second try, twice as many before the next
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Digest:
    """What a file's content hashes to: `git` is the SHA-1 of git's blob, which GitHub lists. `source` says so."""

    algorithm: Literal["sha256", "git"]
    value: str
    source: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value[:12]}... ({self.source})"

    def of(self, path: Path) -> str:
        """That of a file, by the same algorithm."""
        digest: Any = hashlib.sha256()
        if self.algorithm == "git":
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return str(digest.hexdigest())

    def fits(self, path: Path) -> bool:
        """Whether a file hashes to this."""
        return self.of(path) == self.value


@dataclass(frozen=True)
class Remote:
    """A file of the web and what is known of it: its bytes, `exact` or about so many, and its digest, where somebody
    states one.
    """

    url: str
    bytes: int
    exact: bool = True
    digest: Digest | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def problem(self, path: Path) -> str | None:
        """What separates a file from this one; None where nothing is known to."""
        size = path.stat().st_size
        if self.exact and size != self.bytes:
            return f"it has {size:,} bytes, expected {self.bytes:,}"
        if self.digest and not self.digest.fits(path):
            return f"it is not {self.digest}"
        return None


class Note(Frozen):
    """Of what a part is a part: an address, the version there (a strong ETag or a date), its bytes, if the server says
    so; and whether it is whole and was checked.
    """

    url: str
    version: Annotated[str, Field(max_length=512)] | None = None
    bytes: NonNegativeInt | None = None
    checked: bool = False


class Part:
    """What has come of a file so far, beside the `place` where it belongs."""

    def __init__(self, place: Path, journal: Journal) -> None:
        self.place = place
        self.path = part_path(place)
        self._journal = journal

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def note(self) -> Note | None:
        """The newest one."""
        records = self._journal.records
        return Note.model_validate(records[-1]) if records else None

    def write_down(self, note: Note) -> None:
        self._journal.append(note.model_dump(mode="json"))

    def begin(self, note: Note) -> None:
        """Leave nothing of what has come, and expect what the note says."""
        with unwritable_is_failed(self.path), self.path.open("wb") as file:
            os.fsync(file.fileno())
        self.write_down(note)

    def put_in_place(self) -> None:
        """Make it the file that it is a part of."""
        with unwritable_is_failed(self.place):
            put_in_place(self.path, self.place)

    def remove(self) -> None:
        """Leave nothing of it."""
        self.path.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)
        self._journal.records.clear()


def part_path(place: Path) -> Path:
    """Where the part of the file at `place` is while it comes."""
    return place.with_name(f"{place.name}.part")


def has_part(place: Path) -> bool:
    """Whether there is anything of such a part."""
    return part_path(place).exists() or _journal_path(place).exists()


def _journal_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.part.jsonl")


@contextmanager
def part_of(place: Path) -> Iterator[Part]:
    """Hold the part of the file at `place`. A block that ends well leaves nothing of it, another nothing that is empty.
    Raises Busy when another process holds it.
    """
    with Journal(_journal_path(place)) as journal:
        part = Part(place, journal)
        try:
            yield part
        except BaseException:
            if not part.size:
                part.remove()
            raise
        part.remove()


def download(remote: Remote, place: Path) -> None:
    """Get a file, or what is missing of it, and check it; one that is there stays. Raises what `complete` raises."""
    with part_of(place) as part:
        if not place.is_file():
            complete(remote, part)
            part.put_in_place()


def complete(remote: Remote, part: Part) -> None:
    """Get what is missing of a part and check all of it.

    Raises Failed for a connection that stays lost: what has come is kept. Raises MissingData where there is no such
    file, Corrupt for another one; of that nothing is left.
    """
    if (note := part.note) and note.url != remote.url:
        part.begin(Note(url=remote.url))
    if (note := part.note) and note.checked and note.bytes == part.size:
        return
    with progress(f"downloading {remote.name} (MiB)", _blocks(remote.bytes)) as bar:
        bar.skip(_blocks(part.size))
        _download(remote, part, bar)
    if problem := remote.problem(part.path):
        part.remove()
        raise Corrupt(
            f"what came from {remote.url} is another file: {problem}; it was removed. Run the same command again; if "
            "that changes nothing, what is published there has changed"
        )
    part.write_down(Note(url=remote.url, bytes=part.size, checked=True))


def _download(remote: Remote, part: Part, bar: Bar) -> None:
    """Ask for the file until all of it has come."""
    tries = 0
    while (note := part.note) is None or part.size != note.bytes:
        before = part.size
        try:
            _attempt(remote, part, bar)
        except Lost as lost:
            tries = 1 if part.size > before else tries + 1
            if tries == TRIES:
                raise Failed(
                    f"{remote.url} cannot be reached, or not for long ({lost}); {part.size:,} bytes of it are kept. "
                    f"Look at the network and run the same command again, or put the file at {part.place}"
                ) from lost
            time.sleep(FIRST_WAIT * 2 ** (tries - 1))


def _attempt(remote: Remote, part: Part, bar: Bar) -> None:
    """Ask for the file, or for what is missing of the version that the part is of, and keep what comes."""
    note, have = part.note, part.size
    if note and note.bytes is not None and have > note.bytes:
        part.begin(note := Note(url=remote.url))
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if note and note.version and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.version}
    with open_web(remote.url, headers) as answer:
        if answer.status_code == 206 and note and _continues(answer, note, have):
            pass
        elif answer.status_code == 200:
            if have:
                log.info("%s begins anew: it has changed, or its server does not continue", remote.name)
            part.begin(_described(remote, answer))
        elif answer.status_code in (206, 416):
            part.begin(Note(url=remote.url))
            raise Lost(f"the server answers {answer.status_code} with another part than was asked for")
        elif answer.status_code == 429 or answer.status_code >= 500:
            raise Lost(f"the server answers {answer.status_code}")
        else:
            raise MissingData(
                f"{remote.url} answers {answer.status_code}; it may have moved: get the file from elsewhere and put it "
                f"at {part.place}"
            )
        _keep(answer, part, bar)
    note = part.note
    assert note
    if note.bytes is None:  # nobody said how much would come, but the connection ended as it should
        part.write_down(note.model_copy(update={"bytes": part.size}))
    elif part.size < note.bytes:
        raise Lost("the answer was cut short")
    elif part.size > note.bytes:
        part.begin(Note(url=remote.url))
        raise Lost("more came than was announced")


def _keep(answer: Any, part: Part, bar: Bar) -> None:
    """Append what comes to the part; on return, or on an error, it is on disk."""
    shown = _blocks(part.size)
    with unwritable_is_failed(part.path), part.path.open("ab") as file:
        try:
            unsynced = 0
            for block in answer.iter_raw():  # as they come: what is gathered is lost with the connection
                file.write(block)
                unsynced += len(block)
                if unsynced >= SYNCED:
                    file.flush()
                    os.fsync(file.fileno())
                    unsynced = 0
                now = _blocks(file.tell())
                bar.advance(now - shown)
                shown = now
        finally:
            file.flush()
            os.fsync(file.fileno())


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _described(remote: Remote, answer: Any) -> Note:
    """The note on an answer with the whole file. Raises Corrupt when it is another file by its size, Failed when it
    comes in another form.
    """
    if _is_encoded(answer):
        raise Failed(f"{remote.url} comes encoded, although that was not asked for; is it a proxy that answers?")
    length = answer.headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    if remote.exact and size is not None and size != remote.bytes:
        raise Corrupt(
            f"{remote.url} has {size:,} bytes, expected {remote.bytes:,}: what is published there has changed, or a "
            "proxy answers"
        )
    return Note(url=remote.url, version=_version(answer), bytes=size)


def _is_encoded(answer: Any) -> bool:
    return bool(answer.headers.get("Content-Encoding", "identity") != "identity")


def _version(answer: Any) -> str | None:
    """What names the version of a file byte by byte: weak ETags do not."""
    tag = str(answer.headers.get("ETag", ""))
    version = tag if tag.startswith('"') else str(answer.headers.get("Last-Modified", ""))
    return version if 0 < len(version) <= 512 and version.isascii() and version.isprintable() else None


def _continues(answer: Any, note: Note, have: int) -> bool:
    """Whether an answer brings what is missing of the noted version, all of it."""
    found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have or _is_encoded(answer):
        return False
    total = note.bytes if found[3] == "*" else int(found[3])
    version = _version(answer)
    return total == note.bytes and (total is None or int(found[2]) == total - 1) and version in (None, note.version)
