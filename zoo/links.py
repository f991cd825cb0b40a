"""Files of a zoo in a second place without a second copy: hard links, or copies where there can be none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import Corrupt
from zoo.files import unwritable_is_failed, write_bytes
from zoo.manifest import FileRecord
from zoo.store import Zoo


def link_file(source: Path, record: FileRecord, target: Path) -> None:
    """The recorded file under another name. Raises Corrupt when it is missing or has another size."""
    source = source.resolve()  # files in the Hub's cache are links
    if not source.is_file() or source.stat().st_size != record.bytes:
        raise Corrupt(f"{source} is missing or has not {record.bytes} bytes; `rpg-zoo verify` says what else is wrong")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
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


def link_zoo(zoo: Zoo, path: Path) -> Zoo:
    """The same zoo, to the byte, at `path`; one that is there already is left. What making it took stays behind, as
    that is no part of what it is.
    """
    if not path.exists():
        with new_directory(path) as temporary:
            for name, record in zoo.manifest.files.items():
                link_file(zoo.file(name), record, temporary / name)
            if zoo.manifest.spent is None:
                shutil.copyfile(zoo.file("manifest.json"), temporary / "manifest.json")
            else:
                alone = zoo.manifest.model_copy(update={"spent": None})
                write_bytes(temporary / "manifest.json", alone.to_json(indent=1).encode())
    return Zoo.open(path)
