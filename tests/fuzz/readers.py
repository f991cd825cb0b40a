"""The readers of files that may be anyone's: valid examples, and what each may answer to anything else.

tests/unit/test_hostile.py mutates the examples with hypothesis; fuzz_readers.py feeds them to atheris, by hand.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

from evaluators.questions import compose
from rpg.run import RunRecord
from rpg.tokens.layout import Layout
from zoo.checkpoint import content_hash, load_tensors, read_header, save_tensors
from zoo.data.ade20k import read_labels
from zoo.data.coco import read as read_annotations
from zoo.data.images import load_images
from zoo.data.instructions import load_questions
from zoo.data.pictures import read_picture
from zoo.errors import Corrupt
from zoo.files import Journal, parse_json
from zoo.formats.sources import Sources
from zoo.formats.trials import checkpoints
from zoo.formats.weights import parts, read
from zoo.manifest import Entry, FileRecord, Manifest, Origin
from zoo.networks.adapters import Settings, adapter_config, check_config
from zoo.recipe import load_recipe, recipes_root, task_of
from zoo.scoring import Score
from zoo.structure import Structure
from zoo.writer import JournalHeader

OURS = (Corrupt, ValueError)  # what a reader may raise
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.running_var": torch.ones(2), "n": torch.tensor(3)}
HASH = content_hash(WEIGHTS)
ADAPTER = Settings("yahma/llama-7b-hf", rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj"))


def origin() -> Origin:
    return load_recipe("digits").collected(("rpg-zoo", "collect", "digits"))


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
    record = RunRecord(origin=origin(), structure=Structure.of(WEIGHTS), networks=(HASH,), files={})
    score = {"id": "a", "sha256": HASH, "evaluator": "e/1", "protocol": "p", "metrics": {}, "samples": 8}
    pickled, newer = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": WEIGHTS}, pickled)
    torch.save({"state_dict": WEIGHTS, "args": {1, b"x"}}, newer, pickle_protocol=4)
    question = compose("arc_e", "Which?", ("a", "b", "c"), 1)
    records = {"format": "timm", "networks": {"a": {"file": "a/x.pth", "config": 0}}, "configs": [{"num_classes": 3}]}
    journal = [JournalHeader(origin=origin(), structure=Structure.of(WEIGHTS)), entry()]
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "x", WEIGHTS)
        tensors = (Path(folder) / "x").read_bytes()
    return {
        "manifest": manifest().to_json().encode(),
        "recipe": (recipes_root() / "digits.yaml").read_bytes(),
        "task": json.dumps(origin().task).encode(),
        "safetensors": tensors,
        "header": tensors,
        "pickle": pickled.getvalue(),
        "newer pickle": newer.getvalue(),
        "arrays": pickle.dumps({"model": {name: tensor.numpy() for name, tensor in WEIGHTS.items()}}, 2),
        "layout": layout.to_json().encode(),
        "run": record.to_json().encode(),
        "score": json.dumps(score | {"correct": "/w==", "versions": {}}).encode(),
        "journal": b"".join(line.to_json().encode() + b"\n" for line in journal),
        "adapter": json.dumps(adapter_config(ADAPTER)).encode(),
        "questions": json.dumps([{"instruction": question.instruction, "answer": question.word}]).encode(),
        "coco": json.dumps(annotations()).encode(),
        "parquet": rows(),
        "picture": picture(),
        "labels": picture(labels=True),
        "index": json.dumps({"weight_map": dict.fromkeys(WEIGHTS, "x-00001-of-00001.safetensors")}).encode(),
        "sources": json.dumps(records).encode(),
        "results": b'{"training_iteration": 0, "test_acc": 0.5}\n{"training_iteration": 1, "test_acc": NaN}\n',
    }


BINARY = ("pickle", "newer pickle", "arrays", "parquet", "picture", "labels")
"""Readers of what has no values to change, only bytes."""


def annotations() -> dict[str, object]:
    """COCO's file of two images, with a polygon, a mask and a packed mask."""
    one = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4], "area": 16.0, "iscrowd": 0}
    shapes = ([[1, 1, 5, 1, 5, 5.5, 1, 5]], {"size": [8, 6], "counts": [8, 5, 35]}, {"size": [8, 6], "counts": "85S1"})
    objects = [one | {"id": i, "image_id": 7 + i % 2, "segmentation": shape} for i, shape in enumerate(shapes)]
    images = [{"id": 7 + i, "file_name": f"{i}.jpg", "height": 8, "width": 6} for i in range(2)]
    return {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "cup"}]}


def picture(labels: bool = False) -> bytes:
    """A PNG of 32 x 32 pixels: colours, or labels of ADE20K."""
    pixels = np.arange(32 * 32 * (1 if labels else 3)).reshape(32, 32, -1) % 150
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8).squeeze()).save(file, "PNG")
    return file.getvalue()


def rows() -> bytes:
    """Two rows of CIFAR-10 in parquet."""
    file = io.BytesIO()
    images = [{"bytes": picture(), "path": None}] * 2
    pq.write_table(pa.table({"img": images, "label": pa.array([3, 7], pa.int64())}), file)
    return file.getvalue()


HOSTILE: tuple[object, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**40, 2**63, 10**18, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "..", "../x", "/etc/passwd", "\x1b[2J", "\ud800", "x" * 10_000, "os:system", "${oc.env:HOME}", "0" * 64),
    *([], [[]], {}, {"a": 1}, [2**40] * 16, [10**18, 10**18], [0, 2**63], [-1, 3], "float8_e5m2", "F8_E5M2", "BOOL"),
)


def mutated(name: str, example: bytes, pick: Callable[[int], int]) -> bytes:
    """The example of reader `name` with a few values replaced, dropped or moved; pick(n) chooses from range(n).

    Random bytes hardly get past a JSON parser; these do.
    """
    if name in ("safetensors", "header"):
        size = int.from_bytes(example[:8], "little")
        header = mutated("json", example[8 : 8 + size], pick)
        return len(header).to_bytes(8, "little") + header + example[8 + size :]
    if name in ("journal", "results"):
        lines = example.splitlines()
        line = pick(len(lines))
        lines[line] = mutated("json", lines[line], pick)
        return b"\n".join(lines) + b"\n"
    tree = [yaml.safe_load(example) if name == "recipe" else json.loads(example)]
    for _ in range(1 + pick(3)):
        places = list(_places(tree))
        parent, key = places[pick(len(places))]
        values = [*HOSTILE, *(other[at] for other, at in places)]
        choice = pick(len(values) + 2)
        if choice < len(values):
            parent[key] = copy.deepcopy(values[choice])
        elif isinstance(parent, dict):
            value = parent.pop(key)
            if choice > len(values):
                parent[str(HOSTILE[pick(len(HOSTILE))])] = value
    return json.dumps(tree[0]).encode(errors="surrogatepass")


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def readers(folder: Path) -> Mapping[str, Callable[[bytes], object]]:
    """What reads these inputs; they raise OURS or nothing. Those of files use `folder`."""
    named = {"name": "fuzzed", "kind": "collected", "command": ["x"], "versions": {}}

    def file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def write_and_read(data: bytes) -> object:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            return read(folder / name)

        return write_and_read

    def journal(path: Path) -> list[Entry]:
        with Journal(path) as opened:
            return [Entry.parse(json.dumps(record), path) for record in opened.records[1:]]

    def read_task(data: bytes) -> object:
        return task_of(Origin.parse(json.dumps({"task": parse_json(data, "task"), **named}), "manifest.json"))

    def coco(place: Path) -> object:
        found = read_annotations(place, "test", 1)
        return found.truth(found.whole(range(len(found.images)))), found.fingerprint()

    def trial(path: Path) -> object:
        (path.parent / "checkpoint_000000").mkdir(exist_ok=True)
        (path.parent / "params.json").write_bytes(path.read_bytes()[:40])
        return list(checkpoints([path.parent / "params.json"]))

    def read_layout(data: bytes) -> object:
        layout = Layout.parse(data, "layout.json")
        return layout.positions() if layout.num_tokens < 10_000 else None

    return {
        "manifest": lambda data: Manifest.parse(data, "manifest.json"),
        "recipe": file("fuzzed.yaml", lambda path: load_recipe(str(path))),
        "task": read_task,
        "safetensors": file("x.safetensors", load_tensors),
        "header": file("x.safetensors", read_header),
        "pickle": file("x.pth", read),
        "newer pickle": file("x.pth", read),
        "arrays": file("x.pkl", read),
        "layout": read_layout,
        "run": lambda data: RunRecord.parse(data, "run.json"),
        "score": lambda data: Score.parse(data, "scores.jsonl").correct_per_sample(),
        "journal": file("journal.jsonl", journal),
        "adapter": file("adapter_config.json", lambda path: check_config(path, ADAPTER)),
        "questions": file("commonsense/ARC-Easy/test.json", lambda path: load_questions("arc_e", folder, None)),
        "coco": file("coco/annotations/instances_val2017.json", lambda path: coco(folder)),
        "parquet": file(
            "cifar10/plain_text/test-00000-of-00001.parquet", lambda path: load_images("cifar10", folder).test
        ),
        "picture": file("x.png", read_picture),
        "labels": file("x.png", read_labels),
        "index": file("x.safetensors.index.json", parts),
        "sources": lambda data: Sources.parse(data, "sources.json"),
        "results": file("trial/result.json", trial),
    }
