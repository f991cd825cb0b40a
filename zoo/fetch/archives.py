"""Zip archives of others: unpacked so that nothing leaves its directory, and nothing half-unpacked looks complete."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from zoo.errors import Corrupt, Failed, brief
from zoo.files import put_in_place, unwritable_is_failed
from zoo.progress import progress

BLOCK = 1 << 20
DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error)  # RuntimeError: a password


def unpacking_path(target: Path) -> Path:
    """Where the directory `target` is while it is unpacked."""
    return target.with_name(f".{target.name}.unpacking")


def unpack(archive: Path, target: Path, check: Callable[[Path], None]) -> None:
    """Make the directory `target` of what an archive has below the directory of that name. It gets its name when all
    of it is there, on disk, of the right checksums, and `check` has looked at it; a call that was interrupted is
    continued by the same call.

    Raises Corrupt for an archive that is damaged or has a name that leads elsewhere; Failed for a full disk.
    """
    place = unpacking_path(target)
    with _damage_is_corrupt(archive), zipfile.ZipFile(archive) as opened:
        members = dict(_members(opened, target.name, archive))
        if not members:
            raise Corrupt(f"{archive.name} has nothing in {target.name}/; expected a data set in there")
        missing = {name: member for name, member in members.items() if not _is_there(place / name, member)}
        check_room(place, sum(member.file_size for member in missing.values()), f"what {archive.name} holds")
        with progress(f"unpacking {archive.name}", len(members)) as bar:
            bar.skip(len(members) - len(missing))
            for name, member in missing.items():
                _extract(opened, member, place / name)
                bar.advance()
    for file in [path for path in place.rglob("*") if not path.is_dir()]:
        if file.relative_to(place).as_posix() not in members:  # of another version of the archive
            file.unlink()
    check(place)
    if hasattr(os, "sync"):
        os.sync()  # at once: one by one, a hundred thousand small files take an hour
    with unwritable_is_failed(target):
        put_in_place(place, target)


def check_room(place: Path, needed: int, what: str) -> None:
    """Raise Failed unless the disk of a place, or of the nearest directory above that is there, has so many bytes."""
    above = next(parent for parent in (place, *place.absolute().parents) if parent.is_dir())
    if needed > (free := shutil.disk_usage(above).free):
        raise Failed(
            f"{above} has room for {free / 1e9:.1f} GB, and {what} takes {needed / 1e9:.1f} GB; make room or choose "
            "another place"
        )


@contextmanager
def _damage_is_corrupt(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise Corrupt(f"{archive} is damaged, or no zip archive: {brief(error, 120)}") from error


def _members(archive: zipfile.ZipFile, top: str, path: Path) -> Iterator[tuple[str, ZipInfo]]:
    """The files below `top/` by their names there. Raises Corrupt for any name that would leave the directory, links,
    and names that stand twice.
    """
    seen = set()
    for member in archive.infolist():
        name = member.filename
        parts = PurePosixPath(name).parts
        kind = stat.S_IFMT(member.external_attr >> 16)
        strange = any(c in name for c in "\\:\0") or not name.isprintable()
        if strange or name.startswith("/") or ".." in parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Corrupt(f"{path.name} has an entry {name[:80]!r}, which is a link or leaves its directory")
        if member.is_dir() or len(parts) < 2 or parts[0] != top:
            continue
        if (inside := "/".join(parts[1:])) in seen:
            raise Corrupt(f"{path.name} has two entries {name[:80]!r}")
        seen.add(inside)
        yield inside, member


def _is_there(path: Path, member: ZipInfo) -> bool:
    """Whether an earlier call has unpacked this file."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != member.file_size:
        return False
    found = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found == member.CRC


def _extract(archive: zipfile.ZipFile, member: ZipInfo, path: Path) -> None:
    """Write one file. zipfile checks its size and checksum while it is read."""
    with unwritable_is_failed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with archive.open(member) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, BLOCK)
