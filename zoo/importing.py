"""A Zoo from checkpoints that others made (zoo.foreign). Every file is checked, and what is not taken is reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from zoo.errors import Corrupt
from zoo.foreign import Source, activations, by_order, detect, sources
from zoo.manifest import Origin, settings_of, versions
from zoo.progress import progress
from zoo.recipe import Recipe
from zoo.store import ZooWriter
from zoo.structure import Structure

SPLIT = "train"  # of all imported checkpoints: nobody held them out


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
        lines = [f"{row.file:<44}{row.id if row.reason is None else 'skipped: ' + row.reason}" for row in self.rows]
        return "\n".join([*lines, *self.notes])


class Checker:
    """Gives the tensors of sources of one structure: the recipe's, or else that of the first one that is whole."""

    def __init__(self, place: Path, form: str, recipe: Recipe | None) -> None:
        self.place = place
        self.form = form
        self.structure = recipe.task.structure() if recipe else None
        self._rename = recipe is not None and form == "modelzoo"
        self._recipe = recipe

    @cached_property
    def frozen(self) -> dict[str, Tensor]:
        """The tensors that all networks of the recipe share. Raises MissingData when those are not there."""
        return self._recipe.task.frozen() if self._recipe else {}

    def load(self, source: Source) -> dict[str, Tensor]:
        """Raises ValueError or Corrupt with what is wrong."""
        if source.problem:
            raise ValueError(source.problem)
        if self._recipe:
            self._recipe.task.check_source(source.path)
        tensors = source.load(self.form)
        if not tensors:
            raise ValueError("holds no tensors")
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} holds values that are NaN or infinite")
        if self._rename and self.structure:
            tensors = by_order(tensors, {spec.name: (spec.shape, spec.dtype) for spec in self.structure})
        if self.structure is None:
            self.structure = Structure.of(tensors)
        tensors = self._without_frozen(tensors, self.structure)
        self.structure.check(tensors, "it")
        return tensors

    def _without_frozen(self, tensors: dict[str, Tensor], structure: Structure) -> dict[str, Tensor]:
        """What is left of a whole network, whose other tensors have to be the zoo's frozen ones."""
        names = {spec.name for spec in structure}
        others = {name: tensor for name, tensor in tensors.items() if name not in names and name in self.frozen}
        for name, tensor in others.items():
            if tensor.dtype != self.frozen[name].dtype or not torch.equal(tensor, self.frozen[name]):
                raise ValueError(f"{name} differs from that of the recipe's networks, which all share it")
        return {name: tensor for name, tensor in tensors.items() if name not in others}

    def why_not(self, source: Source) -> str | None:
        """Why this source cannot be taken, if so."""
        try:
            self.load(source)
        except (Corrupt, ValueError, OSError) as error:
            return self.reason(error)
        return None

    def reason(self, error: Exception) -> str:
        return " ".join(str(error).split()).replace(f"{self.place}/", "")[:300]


def import_zoo(
    place: Path, form: str | None, recipe: Recipe | None, command: tuple[str, ...], out: Path, dry_run: bool = False
) -> Report:
    """Import the checkpoints at `place` into a zoo at `out`, or continue an interrupted import. `recipe` says what
    their networks do; without one the zoo can be learnt from, but not scored. With `dry_run` nothing is written.

    Raises ValueError when the format is unclear or no checkpoint can be taken, or `out` holds something else;
    MissingData when the recipe's frozen tensors are not there.
    """
    form = form or detect(place)
    found = sources(place, form)
    checker = Checker(place, form, recipe)
    first = next((source for source in found if checker.why_not(source) is None), None)
    if first is None or checker.structure is None:
        reason = checker.why_not(found[0])
        raise ValueError(f"none of {len(found)} files of {place} can be taken; {_name(found[0], place)}: {reason}")
    notes = _notes(place, form, recipe)
    if dry_run:
        rows = [Row(_name(source, place), source.id, checker.why_not(source)) for source in found]
        return Report(out, form, tuple(rows), notes)
    origin = _origin(place, form, found, recipe, command)
    with ZooWriter(out, origin, checker.structure, checker.frozen) as writer:
        rows = []
        with progress("import", len(found)) as bar:
            for source in found:
                rows.append(_take(source, checker, writer))
                bar.advance(1)
        writer.finish()
    return Report(out, form, tuple(rows), notes)


def _take(source: Source, checker: Checker, writer: ZooWriter) -> Row:
    name = _name(source, checker.place)
    if source.problem is None and source.id in writer.done:
        return Row(name, source.id)
    try:
        tensors = checker.load(source)
    except (Corrupt, ValueError, OSError) as error:
        return Row(name, source.id, checker.reason(error))
    if writer.complete:
        raise ValueError(
            f"{writer.path} is finished without {name}, which has changed; choose another place with --out"
        )
    writer.add(
        source.id,
        tensors,
        seed=source.seed,
        split=SPLIT,
        step=source.step,
        condition=source.condition,
        metrics=source.metrics,
    )
    return Row(name, source.id)


def _name(source: Source, place: Path) -> str:
    return source.path.relative_to(place).as_posix() if source.path != place else place.name


def _origin(place: Path, form: str, found: Sequence[Source], recipe: Recipe | None, command: tuple[str, ...]) -> Origin:
    """How an imported zoo was made; files that were added, removed or resized since make another zoo."""
    files = [[_name(source, place), source.path.stat().st_size] for source in found if source.path.is_file()]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    name = "".join(c if c.isprintable() else "-" for c in place.resolve().name)
    settings: dict[str, JsonValue] = {"format": form, "source": name, "files": digest}
    if recipe:
        name = recipe.name
    return Origin(
        name=name,
        kind="imported",
        task=settings_of(recipe.task) if recipe else {},
        settings=settings,
        command=command,
        versions=versions(),
    )


def _notes(place: Path, form: str, recipe: Recipe | None) -> tuple[str, ...]:
    """What the report should not leave unsaid."""
    if recipe is None:
        return ("without --recipe, this zoo can be shown, verified and learnt from, but not scored",)
    if form == "modelzoo" and (names := activations(place)):
        return (
            f"these networks were trained with activation {', '.join(names)}; --recipe {recipe.name} scores them "
            f"with its network's own, which may be another (CNN (s) and (m): LeakyReLU)",
        )
    return ()
