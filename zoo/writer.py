"""ZooWriter makes a Zoo, a kill at any moment notwithstanding.

While it is being written: `journal.jsonl` (origin, then a line per finished checkpoint) and `.parts/` (checkpoints
that will be stacked). Entries are sorted by id, so the result does not depend on the order in which checkpoints were
finished.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.metrics import Metric
from zoo.checkpoint import (
    TensorFile,
    content_hash,
    load_tensors,
    save_stack,
    save_tensors,
    write_tensors,
)
from zoo.errors import Corrupt
from zoo.files import Journal, read_records, remove_temporary, write_bytes
from zoo.index import write_index
from zoo.manifest import Entry, FileRecord, Manifest, Origin, Sha256
from zoo.plugins import changed
from zoo.spent import Stopwatch
from zoo.store import FROZEN, INDEX, Zoo
from zoo.structure import Frozen, Structure

log = logging.getLogger(__name__)

STACK_BELOW = 1_000_000  # values; smaller models are stacked
STACK_ROWS = 256  # checkpoints in a stack


class JournalHeader(Frozen):
    """First line of a zoo's journal; an Entry per line follows."""

    origin: Origin
    structure: Structure
    frozen: Sha256 | None = None


def refuse_another(path: Path, origin: Origin, more: Sequence[str] = ()) -> None:
    """Raise ValueError when `path` holds something else than a zoo of this origin, finished or begun, naming what
    differs: the keys of its identity, and `more`.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; expected a directory for the zoo, choose another place with --out")
    journal = path / "journal.jsonl"
    if (path / "manifest.json").is_file():
        begun = Zoo.open(path).manifest.origin
    elif journal.is_file() and (records := read_records(journal)):
        begun = JournalHeader.parse(json.dumps(records[0]), journal).origin
    elif path.is_dir() and any(path.iterdir()) and not journal.exists():
        raise ValueError(f"{path} exists and is not a zoo; choose another place with --out")
    else:
        return
    changed = [*begun.differences(origin), *more]
    if changed:
        rest = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise ValueError(
            f"{path} holds another zoo: {'; '.join(changed[:3])}{rest}; choose another place with --out or remove it"
        )


class ZooWriter:
    """Makes a Zoo at `path`, or continues one that was interrupted, if it has the same identity (Origin) and structure.
    One that is continued keeps the record of the call that began it, so it ends in the same bytes.

    `frozen` are the tensors that complete each of its checkpoints to a network, where they are only a part of one.
    `done` maps the ids that are already there to their entries; `on_added`, where set, is called with every new one and
    its tensors, and `stopwatch` measures what this call takes, for the record. One process writes a zoo at a time.

    Raises ValueError when `path` holds something else.
    """

    def __init__(
        self, path: Path, origin: Origin, structure: Structure, frozen: Mapping[str, Tensor] | None = None
    ) -> None:
        self.path = path
        self.origin = origin
        self.structure = structure
        self.frozen = content_hash(frozen) if frozen else None
        self.done: dict[str, Entry] = {}
        self.on_added: Callable[[Entry, dict[str, Tensor]], None] | None = None
        self.stopwatch: Stopwatch | None = None
        self.complete = (path / "manifest.json").is_file()
        header = JournalHeader(origin=origin, structure=structure, frozen=self.frozen).model_dump(mode="json")
        if self.complete:
            manifest = Zoo.open(path).manifest
            self._continue_as(manifest.origin, manifest.structure, manifest.frozen)
            self.done = {entry.id: entry for entry in manifest.entries}
            self._clean()
            return
        refuse_another(path, origin)
        self._journal = Journal(path / "journal.jsonl")
        try:
            if not self._journal.records:
                self._journal.append(header)
            self._continue()
            if frozen:
                save_tensors(path / FROZEN, frozen)
        except BaseException:
            self._journal.close()
            raise

    def _continue(self) -> None:
        """Take up what the journal holds."""
        first, *rest = map(json.dumps, self._journal.records)
        header = JournalHeader.parse(first, self._journal.path)
        self._continue_as(header.origin, header.structure, header.frozen)
        entries = [Entry.parse(record, self._journal.path) for record in rest]
        self.done = {entry.id: entry for entry in entries}
        for entry in entries:
            self._written(entry)

    def _continue_as(self, begun: Origin, structure: Structure, frozen: Sha256 | None) -> None:
        """Take over the origin of what is there. Raises ValueError, naming what differs, when it is something else."""
        more = [] if begun.differences(self.origin) else structure.diff(self.structure)
        if frozen != self.frozen:
            more.append("its networks have other frozen tensors")
        refuse_another(self.path, self.origin, more)
        if names := changed(begun.versions, self.origin.versions):
            log.warning(
                f"{self.path} was begun with another {', '.join(names)}: what is there stays as it is; remove it, or "
                "choose another place with --out, if the change matters"
            )
        self.origin = begun

    @property
    def stacked(self) -> bool:
        return self.structure.numel < STACK_BELOW

    def add(
        self,
        id: str,
        tensors: Mapping[str, Tensor],
        *,
        seed: int,
        split: str,
        step: int = 0,
        condition: str | None = None,
        metrics: Sequence[Metric] = (),
        parents: Sequence[str] = (),
        sha256: str | None = None,
    ) -> Entry:
        """Store one checkpoint durably. An id that is already there is left as it is and returned. `sha256` is the
        content hash of the tensors, where the caller has it.
        """
        if id in self.done:
            return self.done[id]
        self.structure.check(tensors, f"checkpoint {id}")
        entry = Entry(
            id=id,
            file=f"checkpoints/{id}.safetensors",
            sha256=sha256 or content_hash(tensors),
            seed=seed,
            step=step,
            split=split,
            condition=condition,
            metrics={metric.name: metric for metric in metrics},
            parents=tuple(parents),
        )
        save_tensors(self._part(id), tensors)
        self._record(entry)
        return entry

    @contextmanager
    def adding(
        self, id: str, *, seed: int, split: str, condition: str | None = None, parents: Sequence[str] = ()
    ) -> Iterator[TensorFile]:
        """Like `add`, for a checkpoint that comes in pieces: it is stored when the block ends. The id must be new."""
        assert id not in self.done
        with write_tensors(self._part(id), self.structure) as file:
            yield file
            sha256 = file.content_hash()
        file_name = f"checkpoints/{id}.safetensors"
        about: dict[str, Any] = {"seed": seed, "split": split, "condition": condition, "parents": tuple(parents)}
        self._record(Entry(id=id, file=file_name, sha256=sha256, **about))

    def _record(self, entry: Entry) -> None:
        self._journal.append(entry.model_dump(mode="json"))
        self.done[entry.id] = entry
        if self.on_added:
            self.on_added(entry, self._written(entry))

    def finish(self, extra: Mapping[str, bytes] | None = None, beside: Sequence[Path] = ()) -> Zoo:
        """Stack, index and seal the zoo. Doing it again, after a kill or on a finished zoo, changes nothing.

        `extra` maps names of further files to their content; `beside` are paths of files that were written into the
        zoo's directory already. Both become files of the zoo, listed in its manifest.
        """
        if not self.complete:
            entries = [self.done[id] for id in sorted(self.done)]
            if not entries:
                raise ValueError(f"{self.path} has no checkpoints yet; a zoo needs one at least")
            if self.stacked:
                entries = self._stack(entries)
            write_index(self.path / INDEX, entries)
            for name, data in (extra or {}).items():
                write_bytes(self.path / name, data)
            frozen = {FROZEN} if self.frozen else set()
            names = sorted({entry.file for entry in entries} | {INDEX} | frozen | set(extra or ()))
            names += sorted(path.relative_to(self.path).as_posix() for path in beside)
            manifest = Manifest(
                origin=self.origin,
                structure=self.structure,
                frozen=self.frozen,
                files={name: FileRecord.of(self.path / name) for name in names},
                entries=tuple(entries),
                spent=self.stopwatch.spent() if self.stopwatch else None,
            )
            write_bytes(self.path / "manifest.json", manifest.to_json(indent=1).encode())
            self.complete = True
            self._journal.close()
            self._clean()
        return Zoo.open(self.path)

    def close(self) -> None:
        """Let go of the directory; an unfinished zoo stays resumable."""
        if not self.complete:
            self._journal.close()

    def __enter__(self) -> ZooWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close()
        if error is not None and issubclass(error, ValueError) and not self.complete:  # what was asked for is refused
            self.forget()

    def forget(self) -> None:
        """Leave no trace of a zoo of which nothing was made."""
        begun = {"journal.jsonl", FROZEN}
        if not self.done and {file.name for file in self.path.iterdir()} <= {*begun, ".parts"}:
            shutil.rmtree(self.path / ".parts", ignore_errors=True)
            for name in begun:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _part(self, id: str) -> Path:
        return self.path / (".parts" if self.stacked else "checkpoints") / f"{id}.safetensors"

    def _written(self, entry: Entry) -> dict[str, Tensor]:
        """What was written for this entry. Raises Corrupt, with the remedy, when the disk now holds something else."""
        path = self._part(entry.id)
        tensors = load_tensors(path) if path.is_file() else {}
        if not tensors or content_hash(tensors) != entry.sha256:
            raise Corrupt(f"{path} was changed before the zoo was finished; remove {self.path} and start again")
        return tensors

    def _stack(self, entries: list[Entry]) -> list[Entry]:
        stacked = []
        for start in range(0, len(entries), STACK_ROWS):
            group = entries[start : start + STACK_ROWS]
            name = f"checkpoints/stack-{start // STACK_ROWS:05d}.safetensors"
            save_stack(self.path / name, [self._written(entry) for entry in group])
            stacked += [entry.model_copy(update={"file": name, "row": row}) for row, entry in enumerate(group)]
        return stacked

    def _clean(self) -> None:
        shutil.rmtree(self.path / ".parts", ignore_errors=True)
        remove_temporary(self.path)
        (self.path / "journal.jsonl").unlink(missing_ok=True)
