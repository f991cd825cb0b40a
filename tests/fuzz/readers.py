"""The readers of files that may be anyone's: valid examples, and what each may answer to anything else.

tests/unit/test_hostile.py mutates the examples with hypothesis; fuzz_readers.py feeds them to atheris, by hand.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from rpg.layout import Layout
from rpg.run import RunRecord
from zoo.checkpoint import content_hash, load_foreign, load_tensors, save_tensors
from zoo.errors import Corrupt
from zoo.files import Journal
from zoo.manifest import Entry, FileRecord, Manifest, Origin
from zoo.recipe import load_recipe, recipe_from_text
from zoo.scoring import Score
from zoo.store import JournalHeader
from zoo.structure import Structure

OURS = (Corrupt, ValueError)  # what a reader may raise
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.running_var": torch.ones(2), "n": torch.tensor(3)}
HASH = content_hash(WEIGHTS)


def origin() -> Origin:
    return load_recipe("digits").origin("collected", ("rpg-zoo", "collect", "digits"))


def entry(**fields: object) -> Entry:
    given = {"id": "a", "file": "checkpoints/a.safetensors", "sha256": HASH, "seed": 1, "split": "train"}
    return Entry(**(given | fields))  # type: ignore[arg-type]


def manifest(**fields: object) -> Manifest:
    files = {"checkpoints/a.safetensors": FileRecord(bytes=100, sha256=HASH)}
    given = {"origin": origin(), "structure": Structure.of(WEIGHTS), "files": files, "entries": (entry(),)}
    return Manifest(**(given | fields))  # type: ignore[arg-type]


def examples() -> dict[str, bytes]:
    """A valid input for every reader."""
    layout = Layout.fit(Structure.of(WEIGHTS), lambda: [WEIGHTS], token_size=4, tokenisation="channel")
    record = RunRecord(origin=origin(), states=(HASH,), num_parameters=7, files={})
    score = {"id": "a", "sha256": HASH, "evaluator": "e/1", "protocol": "p", "metrics": {}, "samples": 8}
    pickled = io.BytesIO()
    torch.save({"state_dict": WEIGHTS}, pickled)
    journal = [JournalHeader(origin=origin(), structure=Structure.of(WEIGHTS)), entry()]
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "x", WEIGHTS)
        tensors = (Path(folder) / "x").read_bytes()
    return {
        "manifest": manifest().to_json().encode(),
        "recipe": origin().recipe.encode(),
        "safetensors": tensors,
        "pickle": pickled.getvalue(),
        "layout": layout.to_json().encode(),
        "run": record.to_json().encode(),
        "score": json.dumps(score | {"correct": "/w==", "versions": {}}).encode(),
        "journal": b"".join(line.to_json().encode() + b"\n" for line in journal),
    }


def readers(folder: Path) -> Mapping[str, Callable[[bytes], object]]:
    """What reads these inputs; they raise OURS or nothing. Those of files use `folder`."""

    def file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def write_and_read(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return write_and_read

    def journal(path: Path) -> list[Entry]:
        with Journal(path) as opened:
            return [Entry.parse(json.dumps(record), path) for record in opened.records[1:]]

    def read_layout(data: bytes) -> object:
        layout = Layout.parse(data, "layout.json")
        return layout.positions() if layout.num_tokens < 10_000 else None

    return {
        "manifest": lambda data: Manifest.parse(data, "manifest.json"),
        "recipe": lambda data: recipe_from_text("fuzzed", data.decode()),
        "safetensors": file("x.safetensors", load_tensors),
        "pickle": file("x.pth", load_foreign),
        "layout": read_layout,
        "run": lambda data: RunRecord.parse(data, "run.json"),
        "score": lambda data: Score.parse(data, "scores.jsonl").correct_per_sample(),
        "journal": file("journal.jsonl", journal),
    }
