"""A RUN: the directory of what a method has learnt from a zoo.

    run.json               where it comes from: origin, structure, training networks, hashes; before training
    constants.safetensors  what is not generated (integer buffers), from the first training checkpoint
    frozen.safetensors     what completes a checkpoint to a network, for zoos that have such
    networks/              the zoo itself (hard links), for methods that draw from its networks
    metrics.jsonl          loss and learning rate by step, of methods that train
    ...                    the method's own files
    logs/                  of trackers, if any were asked for; nothing needs them
    spent.json             what an interrupted training took so far
    finished.json          hashes of what an interrupted training has finished, such as its first stage
    trained.json           hashes of run.json and of what was learnt; what learning took; written last: it means trained

Generating needs neither the zoo nor the task's data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, JsonValue

from rpg.methods import method_schema
from rpg.methods.base import DrawConfig, Method, MethodConfig, TrainingSet
from zoo.api import PYTHON
from zoo.checkpoint import load_tensors, save_tensors
from zoo.conditions import ClassBits, ConditionType, MetricTarget, flipped
from zoo.errors import Corrupt, MissingData, suggest
from zoo.files import read_limited, read_records, write_bytes
from zoo.links import link_zoo
from zoo.manifest import MANIFEST_BYTES, Entry, FileName, FileRecord, Origin, Sha256, differences, settings_of
from zoo.names import training_meant
from zoo.recipe import task_of, validate
from zoo.spent import Spent, Stopwatch
from zoo.store import Zoo, absolute
from zoo.structure import Frozen, Structure

log = logging.getLogger(__name__)

ALL = "all"  # splits of a zoo


class RunRecord(Frozen):
    """`run.json`. `networks` are the training checkpoints by hash, in order; `conditions` those of all the zoo's
    checkpoints by split, where they have any; `draw` what `rpg generate` asks for where
    the user does not say (settings of the recipe's section `generate:`, no part of the run's identity).
    """

    origin: Origin
    structure: Structure
    networks: Annotated[tuple[Sha256, ...], Field(min_length=1)]
    conditions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    draw: dict[str, JsonValue] = Field(default_factory=dict)
    files: dict[FileName, FileRecord]


class TrainedRecord(Frozen):
    """`trained.json`. `facts` are what the method says of what it has learnt, for people and cards, and `spent` is what
    learning took.
    """

    files: dict[FileName, FileRecord]
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    spent: Spent | None = None


class FinishedRecord(Frozen):
    """`finished.json`."""

    files: dict[FileName, FileRecord]


class Run:
    """One run directory. `stopwatch`, where one is set, measures what learning takes, for the record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / "run.json"
        self.constants_path = path / "constants.safetensors"
        self.frozen_path = path / "frozen.safetensors"
        self.networks_path = path / "networks"
        self.metrics_path = path / "metrics.jsonl"
        self.trained_path = path / "trained.json"
        self.spent_path = path / "spent.json"
        self.finished_path = path / "finished.json"
        self.stopwatch: Stopwatch | None = None

    @property
    def name(self) -> str:
        """The last part of its place, as it was given: a link's own name."""
        return absolute(self.path).name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def begin(self, origin: Origin, data: TrainingSet, draw: DrawConfig) -> None:
        """Record what is to be learnt, or find that the same was begun here. Raises ValueError, naming what differs,
        when the directory holds something else, and for networks that are not finite, Corrupt when a file of what was
        begun or learnt here has changed.
        """
        self.refuse_another(origin)
        if self.record_path.is_file():
            begun = self.record()
            if ignored := differences({"generate": begun.draw}, {"generate": _asked(draw)}):
                log.warning(
                    f"{'; '.join(ignored)}: ignored, {self.path} keeps what it was begun with; say it to `rpg generate`"
                )
            if self.trained:
                self.require_trained()
                return
            self.check(begun.files)
            self.check(self._finished())
            if begun.networks != tuple(entry.sha256 for entry in data.entries):
                raise Corrupt(f"{self.record_path} has changed; remove {self.path} and train again")
            return
        data.require_finite()
        structure, frozen, first = data.zoo.structure, data.zoo.frozen(), data.zoo.load(data.entries[0])
        save_tensors(self.constants_path, {s.name: first[s.name] for s in structure if s.kind == "constant"})
        if frozen:
            save_tensors(self.frozen_path, frozen)
        files = [self.constants_path, *([self.frozen_path] if frozen else [])]
        record = RunRecord(
            origin=origin,
            structure=structure,
            networks=tuple(entry.sha256 for entry in data.entries),
            conditions=_conditions(data.zoo),
            draw=_asked(draw),
            files=self._records(files),
        )
        self.write_json(self.record_path, record)

    def refuse_another(self, origin: Origin) -> None:
        """Raise ValueError when the directory holds something else than a run of this origin, naming what differs."""
        # Looked at before the record, which another process of this training may be writing now.
        there = {path.name for path in self.path.glob("[!.]*")} if self.path.is_dir() else set()
        if self.record_path.is_file():
            begun = self.record().origin
            if changed := begun.differences(origin):
                if begun.parents != origin.parents:
                    changed = [line for line in changed if not line.startswith("parents ")]
                    changed.append("of another zoo, or of this one before it changed")
                raise ValueError(
                    f"{self.path} holds another run: {'; '.join(changed[:3])}; choose another place with --out or "
                    "remove it"
                )
        elif self.path.is_file():
            raise ValueError(f"{self.path} is a file; expected a directory for the run, choose another with --out")
        elif there - {self.constants_path.name, self.frozen_path.name}:
            raise ValueError(f"{self.path} exists and is not a run; choose another place with --out")

    def forget(self) -> None:
        """Leave no trace of a run that this call began, unless training has. What is hidden may be of others."""
        if self.metrics_path.is_file():
            return
        for path in self.path.glob("[!.]*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        with suppress(OSError):
            self.path.rmdir()

    @property
    def trained(self) -> bool:
        return self.trained_path.is_file()

    def require_trained(self) -> Run:
        """This run, its files checked. Raises MissingData unless it is trained, Corrupt when a file has changed."""
        if not self.trained:
            what, command = "holds no run", training_meant(self.name)
            if self.record_path.is_file():  # with other settings than it was begun with it would be another run
                begun = self.record().origin.command
                what, command = "is not finished", command if begun == PYTHON else shlex.join(begun)
            raise MissingData(f"{self.path} {what}: expected trained.json; train it with `{command}`")
        self.check(self._trained_record().files)
        self.check(self.record().files)
        return self

    def check(self, files: Mapping[str, FileRecord]) -> None:
        """Raise Corrupt unless these files are as they were recorded."""
        for name, file in files.items():
            if problem := file.problem(self.path / name):
                raise Corrupt(f"{problem}; remove {self.path} and train again")

    def finish(self, files: Sequence[Path]) -> None:
        """Record files that are read again when this training is continued, which then finds them as they are now.
        Those on record already are: `begin` has checked them. One that a kill left without a record is taken as it is.
        """
        known = self._finished()
        new = [path for path in files if path.relative_to(self.path).as_posix() not in known]
        if new:
            self.write_json(self.finished_path, FinishedRecord(files={**known, **self._records(new)}))

    def _finished(self) -> dict[FileName, FileRecord]:
        if not self.finished_path.is_file():
            return {}
        return FinishedRecord.parse(read_limited(self.finished_path, MANIFEST_BYTES), self.finished_path).files

    def seal(self, learnt: Sequence[Path], facts: Mapping[str, JsonValue]) -> None:
        """Record what a method has learnt, files of the run's directory, which makes the run a trained one."""
        spent = self.stopwatch.spent() if self.stopwatch else None
        record = TrainedRecord(files=self._records([self.record_path, *learnt]), facts=dict(facts), spent=spent)
        self.write_json(self.trained_path, record)

    def _records(self, files: Sequence[Path]) -> dict[FileName, FileRecord]:
        return {path.relative_to(self.path).as_posix(): FileRecord.of(path) for path in files}

    def record(self) -> RunRecord:
        return RunRecord.parse(read_limited(self.record_path, MANIFEST_BYTES), self.record_path)

    def _trained_record(self) -> TrainedRecord:
        return TrainedRecord.parse(read_limited(self.trained_path, MANIFEST_BYTES), self.trained_path)

    @property
    def facts(self) -> dict[str, JsonValue]:
        """What the method says of what it has learnt."""
        return self._trained_record().facts

    @property
    def spent(self) -> Spent | None:
        """What learning took, where it is on record."""
        return self._trained_record().spent

    @property
    def files(self) -> list[str]:
        """The names of all files of a trained run, `trained.json` last."""
        names = {*self.record().files, *self._trained_record().files}
        if self.networks_path.is_dir():
            names |= {f"{self.networks_path.name}/{name}" for name in Zoo.open(self.networks_path).manifest.files}
        return [*sorted(names), self.trained_path.name]

    @property
    def sha256(self) -> str:
        """Of what was learnt and from what: what generated zoos name as their parent. The command and the versions that
        made the run do not count.
        """
        learnt = {n: r.sha256 for n, r in self._trained_record().files.items() if n != self.record_path.name}
        identity = [self.record().origin.fingerprint, learnt]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def config(self) -> MethodConfig:
        """The method's settings. Raises ValueError when they are broken: a run may be anyone's."""
        tree = self.record().origin.settings.get("method")
        if not isinstance(tree, dict):
            raise ValueError(f"{self.record_path} does not say which method it is of")
        return validate(method_schema(str(tree.get("name"))), tree, f"run {self.path.name}: method")

    def method(self) -> Method:
        return self.config().build()

    def constants(self) -> dict[str, torch.Tensor]:
        return load_tensors(self.constants_path)

    def frozen(self) -> dict[str, torch.Tensor]:
        """The zoo's frozen tensors; mostly none."""
        return load_tensors(self.frozen_path) if self.frozen_path.name in self.record().files else {}

    def keep_networks(self, data: TrainingSet) -> Path:
        """Keep the zoo in the run, to draw from its networks later. Returns its manifest, to be sealed with the
        rest.
        """
        link_zoo(data.zoo, self.networks_path)
        return self.networks_path / "manifest.json"

    def networks(self) -> tuple[Zoo, list[Entry]]:
        """The zoo that was kept, and the training checkpoints in it."""
        zoo, source = Zoo.open(self.networks_path), self.record().origin.source
        return zoo, zoo.select(source.split if source else None)

    def write_json(self, path: Path, content: Frozen) -> None:
        write_bytes(path, content.to_json(indent=1).encode())


def _conditions(zoo: Zoo) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for entry in zoo.trained:
        if entry.condition is not None:
            found.setdefault(entry.split, set()).add(entry.condition)
    return {split: tuple(sorted(conditions)) for split, conditions in sorted(found.items())}


def _asked(draw: DrawConfig) -> dict[str, JsonValue]:
    """Its settings, and places, which are no part of what is made and yet what is asked for."""
    places = [name for name, field in type(draw).model_fields.items() if field.exclude]
    return settings_of(draw) | {
        name: getattr(draw, name) for name in places if getattr(draw, name) != type(draw).model_fields[name].default
    }


def wanted_conditions(run: Run, given: Sequence[str], split: str | None, flip: bool) -> list[str]:
    """The conditions that are given, in the user's words, and those of a split of the run's zoo (ALL: of every one),
    each once; with `flip` their complements, too. Raises ValueError for what is no condition of the run's, and for a
    split that does not exist.
    """
    record, kind = run.record(), condition_type(run)
    if (split or flip) and isinstance(kind, MetricTarget):
        raise ValueError(f"--split and --flip are of binary tasks, and this run was told {kind.metric}; leave them out")
    if split is not None and split not in (known := [ALL, *record.conditions]):
        raise ValueError(f"the run's zoo has no conditions of a split {split!r}{suggest(split, known)}")
    wanted = [kind.read(condition) for condition in given]
    wanted += [one for name, of in record.conditions.items() if split in (name, ALL) for one in of]
    wanted += [flipped(condition) for condition in wanted] if flip else []
    if not wanted:
        raise ValueError("--flip needs tasks whose complement to take; give --condition or --split, too")
    return list(dict.fromkeys(wanted))


def condition_type(run: Run) -> ConditionType:
    """What networks of a run can be asked for. Raises ValueError where that is nothing."""
    return run.config().condition_type(run) or class_bits(run)


def class_bits(run: Run) -> ClassBits:
    """The binary tasks of a run's zoo. Raises ValueError where it has none."""
    record = run.record()
    origin, known = record.origin, [condition for of in record.conditions.values() for condition in of]
    if not known:
        raise ValueError(
            f"the run of {origin.name} was not trained with conditions; leave --condition, --split and --flip out"
        )
    return bits_of_zoo(origin, len(known[0]))


def bits_of_zoo(origin: Origin, classes: int) -> ClassBits:
    """The binary tasks of a zoo on so many classes, by their names where these are known."""
    found = task_of(origin).condition_type() if origin.task else None
    return found or ClassBits.numbered(origin.name, classes)


def read_losses(run: Run) -> list[tuple[int, float]]:
    """(step, mean loss since the line before) from `metrics.jsonl`; nothing when there is none. Raises Corrupt when it
    holds something else.
    """
    if not run.metrics_path.is_file():
        return []
    records = read_records(run.metrics_path)
    if not all(_is(record.get("step"), int) and _is(record.get("loss"), int, float) for record in records):
        raise Corrupt(f"{run.metrics_path} has lines without step and loss")
    return [(record["step"], record["loss"]) for record in records]


def _is(value: Any, *kinds: type) -> bool:
    """Whether JSON's value is a number of one of these kinds that others can compute with: JSON knows larger ones."""
    return type(value) in kinds and (isinstance(value, float) or abs(value) < 2**63)
