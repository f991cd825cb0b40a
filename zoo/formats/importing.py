"""A Zoo from checkpoints that others made. Every file is checked, and what is not taken is reported."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from zoo.checkpoint import content_hash
from zoo.conditions import Holdout, is_published_holdout, splits
from zoo.errors import Corrupt
from zoo.formats.foreign import Place, Source, detect, sources
from zoo.formats.naming import is_binary_task
from zoo.formats.sources import SOURCES, Recorder, read_config
from zoo.formats.survey import in_most, is_mask, survey
from zoo.formats.trials import activations, by_order
from zoo.formats.weights import Weights, bare, check_tensors, fitted, plain, suffix
from zoo.manifest import Origin, settings_of, versions
from zoo.progress import progress
from zoo.recipe import Purpose
from zoo.structure import Structure
from zoo.table import Table
from zoo.writer import ZooWriter

SPLIT = "train"  # of all imported checkpoints, unless their names or --holdout say otherwise


@dataclass(frozen=True)
class Row:
    """What became of one source: taken, if there is no `reason` against it."""

    file: str
    id: str
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """What an import did, or would do. `notes` are for people."""

    path: Path
    form: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> list[Row]:
        return [row for row in self.rows if row.reason is None]

    @property
    def skipped(self) -> list[Row]:
        return [row for row in self.rows if row.reason is not None]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.path),
            "format": self.form,
            "taken": [{"file": row.file, "id": row.id} for row in self.taken],
            "skipped": [{"file": row.file, "reason": row.reason} for row in self.skipped],
            "notes": list(self.notes),
        }

    def table(self) -> str:
        rows = [(row.file, row.id if row.reason is None else f"skipped: {row.reason}") for row in self.rows]
        return "\n".join([Table(("file", "id"), tuple(rows)).text(), *self.notes])


@dataclass(frozen=True)
class Plan:
    """What to import and as what. `recipe` says what the networks do, `cast` that floats of other sizes are converted,
    `holdout` which binary tasks are held out.
    """

    place: Path
    form: str | None = None
    recipe: Purpose | None = None
    cast: bool = False
    holdout: Holdout | None = None


@dataclass
class Checker:
    """Gives the tensors of sources of one structure: the recipe's, or else that of most files. `notes` count what was
    changed to make them so.
    """

    place: Place
    form: str
    plan: Plan
    structure: Structure
    constants: dict[str, Tensor]
    read: dict[Path, Weights] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def load(self, source: Source) -> dict[str, Tensor]:
        """Raises ValueError or Corrupt with what is wrong."""
        tensors = self.whole(source)
        for name, tensor in tensors.items():
            if name not in self.constants and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} holds values that are NaN or infinite")
        for spec in self.structure:
            if spec.kind == "running_var" and bool((tensors[spec.name] < 0).any()):
                raise ValueError(f"{spec.name} holds variances below zero")
        self._check_ties(tensors)
        if source.config:
            read_config(source.config, self.form)  # what cannot be kept is no reason to stop after all others
        return self._without_constants(tensors)

    def whole(self, source: Source) -> dict[str, Tensor]:
        """The tensors of the whole network, whatever their values. Raises as `load` does."""
        if source.problem:
            raise ValueError(source.problem)
        if self.plan.recipe:
            self.plan.recipe.task.check_source(source.path)
        weights = self.read.pop(source.path, None) or source.load(self.form)
        tensors = plain(weights.tensors)
        if not tensors:
            raise ValueError("holds no tensors")
        check_tensors(tensors)
        if self.form == "modelzoo":
            tensors = by_order(tensors, [spec.name for spec in self.structure])
        found = fitted(tensors, self._expected(tensors), "it", self.plan.cast)
        self.notes.update(note for note in (weights.note, *found.notes) if note)
        return found.tensors

    def set_masks_apart(self, found: Sequence[Source]) -> None:
        """Make constants of those tensors that are masks in the first network that fits, and the same in most: a
        recipe's structure has them among what is learnt.
        """
        fitting = self._fitting(found)
        tensors = next(fitting, {})
        tied = {spec.tied_to for spec in self.structure}
        known = {spec.name for spec in self.structure if spec.tied_to is None and spec.name not in tied}
        masks = {name: t.clone() for name, t in tensors.items() if name in known and is_mask(name, t)}
        if masks:
            masks = in_most(masks, fitting)
        self.structure = Structure(tensors=tuple(spec for spec in self.structure if spec.name not in masks))
        self.constants = {**self.constants, **masks}

    def _fitting(self, found: Sequence[Source]) -> Iterator[dict[str, Tensor]]:
        """The whole networks that fit, whatever their values."""
        for source in found:
            try:
                yield self.whole(source)
            except (Corrupt, ValueError, OSError):  # loading it again says why
                continue

    def _expected(self, tensors: dict[str, Tensor]) -> Structure:
        """The structure, with those constants that this file has, too."""
        prefix = bare(tensors)
        there = {name: t for name, t in self.constants.items() if name in tensors or prefix + name in tensors}
        return Structure(tensors=(*self.structure, *Structure.of(there))) if there else self.structure

    def _check_ties(self, tensors: dict[str, Tensor]) -> None:
        for spec in self.structure:
            if spec.tied_to is not None and not torch.equal(tensors[spec.name], tensors[spec.tied_to]):
                raise ValueError(f"{spec.name} and {spec.tied_to} differ, which are one tensor in these networks")

    def _without_constants(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is left of a whole network, whose other tensors have to be those that the zoo's networks share."""
        for name, constant in self.constants.items():
            if name in tensors and not torch.equal(tensors[name], constant):
                raise ValueError(f"{name} differs from that of the other networks, which all share it")
        return {name: tensor for name, tensor in tensors.items() if name not in self.constants}

    def why_not(self, source: Source) -> str | None:
        """Why this source cannot be taken, if so."""
        try:
            self.load(source)
        except (Corrupt, ValueError, OSError) as error:
            return reason(error, source, self.place.path)
        return None


def reason(error: Exception, source: Source, place: Path) -> str:
    """An error in a line, about a file whose name stands beside it."""
    text = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()).replace(f"{place}/", "").removeprefix(f"{source.name} ")
    return line if len(line) <= 300 else line[:300].rpartition(" ")[0] + " ..."


def import_zoo(plan: Plan, command: tuple[str, ...], out: Path, dry_run: bool = False) -> Report:
    """Import checkpoints into a zoo at `out`, or continue an interrupted import. A recipe says what their networks do;
    without one the zoo can be learnt from, but not scored. With `dry_run` nothing is written.

    Raises ValueError when the format is unclear or no checkpoint can be taken, or `out` holds something else;
    MissingData when the recipe's frozen tensors are not there.
    """
    place = Place(plan.place)
    form = plan.form or detect(place)
    found = sources(place, form)
    held_out = _splits(found, plan.holdout)
    checker = _checker(place, form, plan, found)
    if dry_run:
        rows = _rehearsed(found, checker)
    else:
        origin = _origin(place, form, found, plan, command)
        with ZooWriter(out, origin, checker.structure, checker.constants) as writer:
            rows = _taken(found, checker, writer, held_out)
            writer.finish({SOURCES: _records(form, found, rows)})
    return Report(out, form, tuple(rows), _notes(checker, found))


def _splits(found: Sequence[Source], holdout: Holdout | None) -> dict[str, str]:
    """The split of every condition; by default the published one for the zoo of the authors that it was made for."""
    usable = [source for source in found if not source.problem]
    if holdout is None:
        conditions = {s.condition for s in usable if s.condition and is_binary_task(s.path)}
        return {c: "unseen" for c in conditions if c is not None and is_published_holdout(c)}
    if bare_one := next((source.name for source in usable if source.condition is None), None):
        raise ValueError(f"--holdout is for binary tasks, and the name of {bare_one} says no condition; leave it out")
    return dict(splits(sorted({str(source.condition) for source in usable}), holdout))


def _checker(place: Place, form: str, plan: Plan, found: Sequence[Source]) -> Checker:
    """Raises ValueError when no source at all can be taken."""
    if plan.recipe:
        checker = Checker(place, form, plan, plan.recipe.task.structure(), plan.recipe.task.frozen())
        checker.set_masks_apart(found)
    elif common := survey(found, form):
        checker = Checker(place, form, plan, common.structure, common.constants, common.read)
    else:
        checker = Checker(place, form, plan, Structure(tensors=()), {})
    if not any(checker.why_not(source) is None for source in found):
        first = next((source for source in found if suffix(source.name) and not source.problem), found[0])
        raise ValueError(
            f"none of {len(found)} files of {place.path} can be taken; {first.name}: {checker.why_not(first)}"
        )
    checker.notes.clear()
    return checker


def _rehearsed(found: Sequence[Source], checker: Checker) -> list[Row]:
    """What would become of the sources."""
    rows = []
    names: dict[str, str] = {}
    for source in found:
        try:
            sha256 = content_hash(checker.load(source))
            rows.append(Row(source.name, source.id, _second(names, sha256, source, checker.form)))
        except (Corrupt, ValueError, OSError) as error:
            rows.append(Row(source.name, source.id, reason(error, source, checker.place.path)))
    return rows


def _second(names: dict[str, str], sha256: str, source: Source, form: str) -> str | None:
    """Against a source whose weights are those of an earlier one; `names` are the files by their weights. The steps of
    a trial are apart by their layout, whether or not it learnt something.
    """
    first = names.setdefault(sha256, source.name)
    return None if first == source.name or form == "modelzoo" else f"the same weights as {first}"


def _taken(found: Sequence[Source], checker: Checker, writer: ZooWriter, held_out: dict[str, str]) -> list[Row]:
    """What became of the sources, once the writer has those that can be taken."""
    files = {source.id: source.name for source in found if not source.problem}
    names = {entry.sha256: files.get(entry.id, entry.id) for entry in writer.done.values()}
    before, rows = dict(writer.done), []
    if lost := sorted(before.keys() - files.keys()):
        raise ValueError(f"{writer.path} has {lost[0]}, whose file has changed; choose another place with --out")
    with progress("importing", len(found)) as bar:
        for source in found:
            against = None
            if source.id in before and not source.problem:
                _require_same(source, checker, writer)
            else:
                against = _take(source, checker, writer, names, held_out.get(source.condition or "", SPLIT))
            rows.append(Row(source.name, source.id, against))
            bar.advance(1)
    return rows


def _require_same(source: Source, checker: Checker, writer: ZooWriter) -> None:
    """Raise ValueError where a file that was taken by an earlier call has other values now, or cannot be taken any
    more.
    """
    known = writer.done[source.id].sha256
    try:
        same = content_hash(checker.load(source)) == known
    except (Corrupt, ValueError, OSError):
        same = False
    if not same:
        raise ValueError(
            f"{writer.path} has {source.name} as it was before it changed; choose another place with --out"
        )


def _take(source: Source, checker: Checker, writer: ZooWriter, names: dict[str, str], split: str) -> str | None:
    """Store the checkpoint, or say why not."""
    try:
        tensors = checker.load(source)
    except (Corrupt, ValueError, OSError) as error:
        return reason(error, source, checker.place.path)
    sha256 = content_hash(tensors)
    if second := _second(names, sha256, source, checker.form):
        return second
    if writer.complete:
        raise ValueError(
            f"{writer.path} is finished without {source.name}, which has changed; choose another place with --out"
        )
    writer.add(
        source.id,
        tensors,
        seed=source.seed,
        split=split,
        step=source.step,
        condition=source.condition,
        metrics=source.metrics,
        sha256=sha256,
    )
    return None


def _records(form: str, found: Sequence[Source], rows: Sequence[Row]) -> bytes:
    """`sources.json`: where the checkpoints were, and what lay beside them."""
    recorder = Recorder(form)
    for source, row in zip(found, rows, strict=True):
        if row.reason is None:
            recorder.add(source.id, source.name, read_config(source.config, form) if source.config else None)
    return recorder.to_bytes()


def _origin(place: Place, form: str, found: Sequence[Source], plan: Plan, command: tuple[str, ...]) -> Origin:
    """How an imported zoo was made; files that were added, removed or resized since make another zoo."""
    files = [
        [source.name, source.path.stat().st_size] for source in found if source.path.is_file() and not source.beside
    ]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    name = "".join(c if c.isprintable() else "-" for c in place.path.resolve().name)
    settings: dict[str, JsonValue] = {"format": form, "source": name, "files": digest}
    if plan.cast:
        settings["cast"] = True
    if plan.holdout:
        settings["holdout"] = plan.holdout.model_dump(mode="json")
    if plan.recipe:
        name = plan.recipe.name
    return Origin(
        name=name,
        kind="imported",
        task=settings_of(plan.recipe.task) if plan.recipe else {},
        settings=settings,
        command=command,
        versions=versions(),
    )


def _notes(checker: Checker, found: Sequence[Source]) -> tuple[str, ...]:
    """What the report should not leave unsaid."""
    plan = checker.plan
    notes = [f"{note} ({count} of {len(found)} files)" for note, count in checker.notes.items()]
    if checker.constants and not plan.recipe:
        notes.append(f"{', '.join(checker.constants)}: constants with infinite values, kept once for all networks")
    if plan.recipe is None:
        notes.append("without --recipe, this zoo can be shown, verified and learnt from, but not scored")
    elif checker.form == "modelzoo" and (names := activations(checker.place.files)):
        notes.append(
            f"these networks were trained with activation {', '.join(names)}; --recipe {plan.recipe.name} scores them "
            f"with its network's own, which may be another (CNN (s) and (m): LeakyReLU)"
        )
    return tuple(notes)
