"""Tasks: what the networks of a zoo do. One file per family, with its recipe schema `Config` and `build`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zoo.errors import suggest
from zoo.structure import Frozen, Structure
from zoo.tasks.base import Task, TaskConfig

FAMILIES = {
    "binary": "zoo.tasks.binary",
    "classification": "zoo.tasks.classification",
    "commonsense": "zoo.tasks.commonsense",
    "detection": "zoo.tasks.detection",
    "segmentation": "zoo.tasks.segmentation",
}


def task_module(name: str) -> ModuleType:
    """The module of a task family, with `Config` (section `task:` of a recipe), `build(config, data_root, device)`,
    `structure(config)`, `LIBRARY` and `library_config(config)`.

    Raises ValueError for a family that does not exist.
    """
    if name not in FAMILIES:
        raise ValueError(f"no task named {name!r}{suggest(name, FAMILIES)}")
    return import_module(FAMILIES[name])


def build_task(config: Frozen, data_root: Path | None, device: torch.device) -> Task:
    """The task of a recipe's validated `task:` section, with its data, on this device.

    Raises ValueError for settings that do not fit together, MissingData when the data are not there.
    """
    assert isinstance(config, TaskConfig)
    return task_module(config.name).build(config, data_root, device)


def task_frozen(config: Frozen) -> dict[str, Tensor]:
    """The tensors that all networks of a `task:` section share, without data: mostly none.

    Raises MissingData when the pretrained weights they come from are not there.
    """
    assert isinstance(config, TaskConfig)
    module = task_module(config.name)
    found: dict[str, Tensor] = module.frozen(config) if hasattr(module, "frozen") else {}
    return found


def task_conditions(config: Frozen) -> tuple[str, ...]:
    """The tasks that a `task:` section consists of, as `Task.conditions` says, without data: mostly none."""
    assert isinstance(config, TaskConfig)
    module = task_module(config.name)
    return module.conditions() if hasattr(module, "conditions") else ()


def task_library(config: Frozen) -> str:
    """Whose networks a `task:` section has, as `rpg-zoo export --format` names it: timm, peft, mmseg, detectron2."""
    assert isinstance(config, TaskConfig)
    return str(task_module(config.name).LIBRARY)


def library_config(config: Frozen) -> dict[str, Any]:
    """What `task_library` keeps beside the tensors of a checkpoint: timm's config.json, peft's adapter_config.json, the
    other entries of the pickles of mmseg and detectron2. Without data.
    """
    assert isinstance(config, TaskConfig)
    found: dict[str, Any] = task_module(config.name).library_config(config)
    return found


def check_source(config: Frozen, path: Path) -> None:
    """Raise ValueError or Corrupt if what lies beside the checkpoint file at `path` says that it is not one of this
    `task:` section, although its tensors may fit. Most families know nothing of the kind.
    """
    assert isinstance(config, TaskConfig)
    module = task_module(config.name)
    if hasattr(module, "check_source"):
        module.check_source(config, path)


def task_structure(config: Frozen) -> Structure:
    """The structure of the networks of a recipe's validated `task:` section, without data and without memory.

    Raises ValueError for settings that do not fit together.
    """
    assert isinstance(config, TaskConfig)
    return task_module(config.name).structure(config)
