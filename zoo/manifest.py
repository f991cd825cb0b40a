"""The manifest: what a Zoo is, what is in it and where it came from. Written last, so its existence means the zoo is
complete.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, JsonValue, NonNegativeInt, model_validator
from typing_extensions import Self

from evaluators.metrics import Metric
from zoo.files import sha256_file
from zoo.plugins import notes
from zoo.spent import Spent
from zoo.structure import Frozen, Structure


def _safe_name(name: str) -> str:
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or any(part in ("..", ".") for part in name.split("/")) or str(path) != name
    too_long = len(name.encode(errors="replace")) > 255
    if unsafe or too_long or "\\" in name or ":" in name or not name.isprintable():
        raise ValueError(f"file name {name!r} leaves the zoo's directory or is not plain")
    return name


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds control characters")
    return text


Name = Annotated[str, Field(max_length=512), AfterValidator(_plain)]
"""Text of others that we print: no line breaks, no escape sequences of terminals."""
FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_safe_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
OriginKind = Literal["collected", "imported", "trained", "generated", "derived"]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
MANIFEST_BYTES = 2**27  # 300,000 checkpoints; a larger manifest is not read
SETTINGS_CHARACTERS = 2**20  # of an origin
RESERVED = ("manifest.json", "journal.jsonl", "pull.json")  # they say how far a zoo is made
UNKNOWN = "unknown"  # the task of networks of which nobody said what they do
EARLY = "early"  # the split of checkpoints along trainings, before the last ones
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class FileRecord(Frozen):
    """Size and SHA-256 of one file of the zoo."""

    bytes: NonNegativeInt
    sha256: Sha256

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls(bytes=path.stat().st_size, sha256=sha256_file(path))

    def problem(self, path: Path) -> str | None:
        """What is wrong with the file at `path`, in a line; None when it is the recorded one."""
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != self.bytes:
            return f"{path} has {path.stat().st_size} bytes, expected {self.bytes}"
        if sha256_file(path) != self.sha256:
            return f"{path} has changed (its SHA-256 differs)"
        return None


class Entry(Frozen):
    """One checkpoint. `sha256` is its content's (zoo.checkpoint.content_hash), `row` its row in a stack, `step`
    counts optimiser steps, `metrics` were measured on validation data while it was made (of an import: what
    its files say, by their names for it), `parents` are the checkpoints it was derived from.
    """

    id: Id
    file: FileName
    row: NonNegativeInt | None = None
    sha256: Sha256
    seed: Int64
    step: Annotated[Int64, Field(ge=0)] = 0
    split: Id
    condition: Name | None = None
    metrics: dict[str, Metric] = Field(default_factory=dict)
    parents: tuple[Sha256, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, metric in self.metrics.items():
            if name != metric.name:
                raise ValueError(f"metric {metric.name!r} is listed as {name!r}")
            if not name.isprintable():
                raise ValueError(f"metric {name!r} holds control characters")
        return self


class Source(Frozen):
    """The networks that something was learnt from: their zoo by the SHA-256 of its manifest, its name and the split."""

    zoo: Sha256
    name: Name
    split: Id


class Origin(Frozen):
    """How an artefact (a zoo, a run) was made: everything that is known before its first checkpoint.

    Its identity is what decides the content, and nothing else: `kind`; `task`, the section of a recipe that says what
    the networks do, empty where nobody knows; `settings`, the sections and options that the stage depends on;
    `parents`, SHA-256 of the manifests or runs it came from, the run first. Settings at their default are left out
    (`settings_of`), so a release that adds an option changes no identity; for the same reason a default is never
    changed.

    The rest is a record: `name` of the recipe or directory, `source` of what learnt from networks, `command` and
    `versions`.
    """

    name: Name
    kind: OriginKind
    task: dict[str, JsonValue] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    parents: tuple[Sha256, ...] = ()
    source: Source | None = None
    command: tuple[str, ...]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if reserved := {"kind", "task", "parents"} & set(self.settings):
            raise ValueError(f"settings hold {min(reserved)!r}, which has a place of its own")
        if self.task and not isinstance(self.task.get("name"), str):
            raise ValueError("the task has no name")
        text = json.dumps([self.task, self.settings], ensure_ascii=False)
        if len(text) > SETTINGS_CHARACTERS:
            raise ValueError(
                f"task and settings have {len(text):,} characters; at most {SETTINGS_CHARACTERS:,} are read"
            )
        if not all(c.isprintable() for c in text):
            raise ValueError("task or settings hold control characters")
        return self

    @property
    def family(self) -> str:
        """The task family, for example `classification`."""
        return str(self.task.get("name", UNKNOWN))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content, as plain JSON."""
        return {**self.settings, "kind": self.kind, "task": self.task, "parents": list(self.parents)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Origin) -> list[str]:
        """What separates the identity of `other` from this one, a line each: `zoo.epochs 10 -> 5`."""
        return differences(self.identity, other.identity)

    def recipe_text(self) -> str:
        """Task and settings as YAML, for people."""
        return yaml.safe_dump({"task": self.task, **self.settings}, sort_keys=False)


def _words(tree: JsonValue) -> Iterator[str]:
    """All texts of a tree, keys included."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _words(part)


def settings_of(section: Frozen) -> dict[str, JsonValue]:
    """What is set in a section of a recipe, as plain JSON: all fields that differ from their defaults, in any depth."""
    return section.model_dump(mode="json", exclude_defaults=True)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys in which two trees of settings differ, a line each, with both values."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [f"{key} {_shown(old, key)} -> {_shown(new, key)}" for key in _unequal(old, new)]


def changed(before: Frozen, after: Frozen) -> dict[str, Any]:
    """The settings of section `after` that are others in `before`, by dotted key, as plain JSON; None where `after` has
    nothing but its default.
    """
    old, new = (dict(_leaves(settings_of(section))) for section in (before, after))
    return {key: new.get(key) for key in _unequal(old, new)}


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    if key not in leaves:
        return "(default)"
    value = leaves[key]
    text = json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Manifest(Frozen):
    """`manifest.json`. `frozen` is the content hash of the tensors that all checkpoints share, where there are any;
    `spent` is what generating took, and the one thing that is no part of what the zoo is (`identity_of`).
    """

    schema_version: Literal[1] = 1
    origin: Origin
    structure: Structure
    frozen: Sha256 | None = None
    files: dict[FileName, FileRecord]
    entries: tuple[Entry, ...] = Field(min_length=1)
    spent: Spent | None = None

    def to_json(self, indent: int | None = None) -> str:
        return self.model_dump_json(indent=indent, exclude={"spent"} if self.spent is None else None)

    def identity_of(self, text: bytes) -> str:
        """The SHA-256 that names this zoo, whose manifest is `text`: the same whatever making it took."""
        same = text if self.spent is None else self.model_copy(update={"spent": None}).to_json(indent=1).encode()
        return hashlib.sha256(same).hexdigest()

    @property
    def selection(self) -> str:
        """Of networks that a generator chose by validation score (`generate.candidates`), the best of how many they
        are, for people; empty of others.
        """
        asked = self.origin.settings.get("generate")
        if not isinstance(asked, dict) or not asked.get("candidates"):
            return ""
        count = asked.get("n", len(self.entries))  # these may be a part of them
        return (
            f"the best {count} of {asked['candidates']} candidates by validation score, a selection, whose mean is not "
            "that of what the generator makes"
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = {entry.id for entry in self.entries}
        if len(ids) != len(self.entries):
            raise ValueError("an id is listed twice")
        if unknown := {entry.file for entry in self.entries} - set(self.files):
            raise ValueError(f"{min(unknown)} belongs to an entry but is not among the files")
        if taken := {name for name in self.files if name in RESERVED or name.startswith(".")}:
            raise ValueError(f"a file of a zoo cannot be called {min(taken)}")
        return self


def versions() -> dict[str, str]:
    """Versions of what computes, the user's own code included: they belong to every artefact's record."""
    return _libraries() | notes()


@cache  # reading them takes milliseconds, and every score records them
def _libraries() -> dict[str, str]:
    packages = ("rpg-zoo", "torch", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # of this toolkit, where it runs from its directory
        return "not installed"
