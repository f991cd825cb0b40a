"""Checkpoints out of a zoo, in the formats that other libraries load.

| format        | what                       | loads with                                            |
|---------------|----------------------------|-------------------------------------------------------|
| `timm`        | directory with config.json | `timm.create_model("local-dir:DIR", pretrained=True)` |
| `safetensors` | one file                   | `timm.create_model(NAME, checkpoint_path=FILE)`       |
| `pth`         | one file                   | `torch.load(FILE, weights_only=True)`                 |

Every export is a whole network: frozen tensors of the zoo are put in.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from zoo.checkpoint import content_hash, load_foreign, save_tensors
from zoo.errors import Corrupt
from zoo.files import atomic_path, unwritable_is_failed, write_bytes
from zoo.manifest import Entry
from zoo.recipe import recipe_of
from zoo.store import Zoo
from zoo.tasks import timm_config

FORMATS = {"timm": "", "safetensors": ".safetensors", "pth": ".pth"}
"""Formats and how their files end; timm's is a directory."""


def export_checkpoint(zoo: Zoo, entry: Entry, form: str, target: Path) -> str:
    """Write one checkpoint to `target`, a file or timm's directory; returns a line of Python that loads it.

    Appears whole or not at all, and may be repeated. Raises ValueError if `target` holds something else, or if timm
    does not have networks of this task.
    """
    weights = zoo.load(entry) | zoo.frozen()
    if form == "timm":
        origin = zoo.manifest.origin
        config = timm_config(recipe_of(origin).sections["task"])
        _write_directory(target, weights, json.dumps(config, indent=2).encode())
        return f'timm.create_model("local-dir:{target}", pretrained=True)'
    if not _is_there(target, weights):
        if form == "pth":
            with atomic_path(target) as temporary:
                torch.save(weights, temporary)
        else:
            save_tensors(target, weights)
    if form == "pth":
        return f'torch.load("{target}", weights_only=True)'
    return f'safetensors.torch.load_file("{target}")'


def _write_directory(target: Path, weights: dict[str, Tensor], config: bytes) -> None:
    if target.exists():
        there = target / "config.json"
        if not (there.is_file() and there.read_bytes() == config and _is_there(target / "model.safetensors", weights)):
            raise ValueError(f"{target} exists and holds something else; choose another place with --out")
        return
    temporary = target.with_name(f".{target.name}.tmp")  # a fixed name: what a kill leaves is overwritten
    with unwritable_is_failed(target):
        shutil.rmtree(temporary, ignore_errors=True)
    save_tensors(temporary / "model.safetensors", weights)
    write_bytes(temporary / "config.json", config)
    with unwritable_is_failed(target):
        temporary.rename(target)


def _is_there(path: Path, weights: dict[str, Tensor]) -> bool:
    """Whether the file holds these weights already. Raises ValueError if it holds something else."""
    if not path.exists():
        return False
    try:
        same = path.is_file() and content_hash(load_foreign(path)) == content_hash(weights)
    except (Corrupt, ValueError):
        same = False
    if not same:
        raise ValueError(f"{path} exists and holds something else; choose another place with --out")
    return True
