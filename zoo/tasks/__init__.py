"""Tasks: what the networks of a zoo do. One file per family, with its `Config`, the section `task:` of a recipe."""

from __future__ import annotations

from importlib import import_module

from zoo.errors import suggest
from zoo.tasks.base import TaskConfig

FAMILIES = {
    "binary": "zoo.tasks.binary",
    "classification": "zoo.tasks.classification",
    "commonsense": "zoo.tasks.commonsense",
    "detection": "zoo.tasks.detection",
    "segmentation": "zoo.tasks.segmentation",
}


def config_class(family: str) -> type[TaskConfig]:
    """The `Config` of a task family. Raises ValueError for a family that does not exist."""
    if family not in FAMILIES:
        raise ValueError(f"no task named {family!r}{suggest(family, FAMILIES)}")
    found: type[TaskConfig] = import_module(FAMILIES[family]).Config
    return found
