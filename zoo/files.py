"""Files that survive a kill: whole or not there (`atomic_path`), or whole up to the last line (`Journal`). And files of
others: read in bounded size, as strict JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from zoo.errors import Corrupt, Failed, brief

JOURNAL_BYTES = 2**30  # a longer journal is none of ours
WINDOWS = sys.platform == "win32"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is synced to disk and renamed to `path`.

    The temporary name is fixed, so what a kill leaves behind is overwritten by the next attempt. Raises Failed when the
    disk is full, leaving neither file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with unwritable_is_failed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            put_in_place(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file or directory that is complete, so that both its content and its new name survive. The files in a
    directory have to be on disk already.
    """
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def remove_temporary(directory: Path) -> None:
    """Remove what kills left of files half-written in a directory, which this process must hold, or nobody writes to:
    ours, and those of safetensors, which have another name each time.
    """
    for pattern in (".*.tmp", ".tmp??????"):
        for leftover in directory.rglob(pattern):
            leftover.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def unwritable_is_failed(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors (full disk, quota, permission) into one line that names the remedy.

    Raises ValueError, with the file that is there, for a place below a file, which no run of a command can make.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, NotADirectoryError | FileExistsError) and (
            file := next((parent for parent in path.parents if parent.is_file()), None)
        ):
            raise ValueError(f"{path} cannot be made: {file} is a file; choose another place with --out") from error
        raise Failed(
            f"cannot write {path}: {error.strerror or error}; what was finished is kept, "
            f"make it writable or make room and run the same command again"
        ) from error


def read_limited(path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises Corrupt for a larger one and for what is no regular file, of which
    reading might never end.
    """
    if not path.is_file():
        raise Corrupt(f"{path} is missing, or not a regular file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Corrupt(f"{path} has more than {limit:,} bytes, the most that is read of such a file")
    return data


def parse_json(text: str | bytes, where: object) -> Any:
    """Strict JSON in UTF-8: no key twice in an object, no NaN, no bottomless nesting. Raises Corrupt for all else."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where} is damaged or not JSON: {brief(error)}") from error


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Put a file or, so that a new name survives, a directory on disk. Windows can do so for files that are open to
    write; directories it does not open.
    """
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: IO[bytes]) -> None:
    """Hold the file until it is closed. Raises BlockingIOError when another process holds it."""
    try:
        import fcntl
    except ImportError:
        _lock_on_windows(file)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_on_windows(file: IO[bytes]) -> None:
    """There nobody else can read what is locked, so it is a byte that no journal has."""
    import msvcrt

    file.seek(JOURNAL_BYTES)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # declared for Windows only
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from error


class Busy(Failed):
    """Another process holds a journal."""


class Journal:
    """An append-only file of JSON records, a line each, held by one process at a time.

    A line that a kill left unfinished is dropped on opening; a damaged line anywhere else is Corrupt, as is a link in
    the file's place or a file above JOURNAL_BYTES. Raises Busy when another process holds the file. `records` are
    those already there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise Corrupt(f"{path} is a link or a device; expected a file of our own, remove it")
        with unwritable_is_failed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)  # a buffer would still write its rest after a failed append
        try:
            _lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise Busy(f"another process is writing {path}; wait for it or stop it first") from error
        try:
            data = read_limited(path, JOURNAL_BYTES)
            whole = data.rfind(b"\n") + 1
            self._file.truncate(whole)
            self.records = [_parse(path, number, line) for number, line in enumerate(data[:whole].splitlines(), 1)]
        except BaseException:
            self._file.close()
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; on return it is on disk. After a failed write the file ends where it ended before."""
        end = self._file.seek(0, os.SEEK_END)
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with unwritable_is_failed(self.path):
            try:
                while line:
                    line = line[os.write(self._file.fileno(), line) :]
                os.fsync(self._file.fileno())
            except BaseException:
                os.ftruncate(self._file.fileno(), end)
                raise
        self.records.append(record)

    def keep(self, count: int) -> None:
        """Drop all records after the first `count`."""
        self.records = self.records[:count]
        self._file.seek(0)
        lines = self._file.readall().splitlines(keepends=True)
        self._file.truncate(sum(map(len, lines[:count])))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole records of a journal that nobody has to hold; an unfinished last line is left out."""
    data = read_limited(path, JOURNAL_BYTES)
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    record = parse_json(line, f"{path}, line {number},")
    if not isinstance(record, dict):
        raise Corrupt(f"{path}, line {number} is not a record")
    return record
