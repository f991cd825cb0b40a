"""Checkpoints out of a zoo, in the formats that other libraries load.

| format        | what                              | loads with                                            |
|---------------|-----------------------------------|-------------------------------------------------------|
| `timm`        | directory with config.json        | `timm.create_model("local-dir:DIR", pretrained=True)` |
| `peft`        | directory of an adapter           | `peft.PeftModel.from_pretrained(BASE, "DIR")`         |
| `mmseg`       | one file, `meta` and `state_dict` | `mmengine.runner.load_checkpoint(MODEL, "FILE")`      |
| `detectron2`  | one file, `model`                 | `DetectionCheckpointer(MODEL).load("FILE")`           |
| `safetensors` | one file                          | `safetensors.torch.load_file("FILE")`                 |
| `pth`         | one file                          | `torch.load("FILE", weights_only=True)`               |

The first four are for the networks of one library each (`TaskConfig.library`). Every export is all that it loads:
frozen tensors of the zoo are put in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoint import content_hash, save_tensors
from zoo.errors import Corrupt
from zoo.files import atomic_path, unwritable_is_failed, write_bytes
from zoo.formats.sources import Sources
from zoo.formats.weights import read
from zoo.manifest import Entry
from zoo.recipe import task_of
from zoo.store import Zoo


@dataclass(frozen=True)
class Format:
    """How a format looks on disk and is loaded. `ending` is a file's, or empty: a directory then holds `config` and
    `weights`. `wrapper` is the key of the tensors in a pickle. `load` is Python, with the place for `{}`.
    """

    load: str
    ending: str = ""
    config: str = ""
    weights: str = ""
    wrapper: str | None = None


FORMATS = {
    "timm": Format(
        'timm.create_model("local-dir:{}", pretrained=True)', config="config.json", weights="model.safetensors"
    ),
    "peft": Format(
        'peft.PeftModel.from_pretrained(base, "{}")',
        config="adapter_config.json",
        weights="adapter_model.safetensors",
    ),
    "mmseg": Format('mmengine.runner.load_checkpoint(model, "{}")', ".pth", wrapper="state_dict"),
    "detectron2": Format('DetectionCheckpointer(model).load("{}")', ".pth", wrapper="model"),
    "safetensors": Format('safetensors.torch.load_file("{}")', ".safetensors"),
    "pth": Format('torch.load("{}", weights_only=True)', ".pth"),
}


def export_checkpoint(zoo: Zoo, entry: Entry, form: str, target: Path) -> str:
    """Write one checkpoint to `target`, a file or a directory; returns a line of Python that loads it.

    Appears whole or not at all, and may be repeated. Raises ValueError if `target` holds something else, or if the
    networks of this zoo are those of another library.
    """
    config = _library_config(zoo, entry, form) if form not in ("safetensors", "pth") else {}
    weights = zoo.load(entry) | zoo.frozen()
    how = FORMATS[form]
    if not how.ending:
        _write_directory(target, how, weights, json.dumps(config, indent=2).encode())
    elif not _is_there(target, weights, how.wrapper):
        if how.ending == ".safetensors":
            save_tensors(target, weights)
        else:
            content: Any = weights if how.wrapper is None else config | {how.wrapper: weights}
            with atomic_path(target) as temporary:
                torch.save(content, temporary)
    return how.load.format(target)


def _library_config(zoo: Zoo, entry: Entry, form: str) -> dict[str, Any]:
    """What this library keeps beside a checkpoint: from the zoo's task, or as it was imported."""
    if not zoo.manifest.origin.task and (found := Sources.of(zoo)):
        if found.format == form and (config := found.config(entry.id)) is not None:
            return dict(config)
        raise ValueError(
            f"{zoo.path} was imported as {found.format}, without a recipe; export its networks with --format "
            f"{found.format if found.configs else 'safetensors or pth'}"
        )
    task = task_of(zoo.manifest.origin)
    if (library := task.native()) is None:
        raise ValueError(
            f"networks of {zoo.manifest.origin.name} are of no library; export them with --format safetensors or pth, "
            "and load these into the class they are of"
        )
    if library != form:
        raise ValueError(
            f"networks of {zoo.manifest.origin.name} are {library}'s; export them with --format {library}, "
            "safetensors or pth"
        )
    return task.library_config()


def _write_directory(target: Path, how: Format, weights: Mapping[str, Tensor], config: bytes) -> None:
    if target.exists():
        there = target / how.config
        if not (there.is_file() and there.read_bytes() == config and _is_there(target / how.weights, weights)):
            raise ValueError(f"{target} exists and holds something else; choose another place with --out")
        return
    temporary = target.with_name(f".{target.name}.tmp")  # a fixed name: what a kill leaves is overwritten
    with unwritable_is_failed(target):
        shutil.rmtree(temporary, ignore_errors=True)
    save_tensors(temporary / how.weights, dict(weights))
    write_bytes(temporary / how.config, config)
    with unwritable_is_failed(target):
        temporary.rename(target)


def _is_there(path: Path, weights: Mapping[str, Tensor], wrapper: str | None = None) -> bool:
    """Whether the file holds these weights already. Raises ValueError if it holds something else."""
    if not path.exists():
        return False
    try:
        same = path.is_file() and content_hash(read(path, wrapper).tensors) == content_hash(dict(weights))
    except (Corrupt, ValueError):
        same = False
    if not same:
        raise ValueError(f"{path} exists and holds something else; choose another place with --out")
    return True
