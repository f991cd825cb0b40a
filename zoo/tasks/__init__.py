"""Tasks: what the networks of a zoo do. One file per family, with its `Config`, the section `task:` of a recipe."""

from __future__ import annotations

from importlib import import_module

from zoo import plugins
from zoo.tasks.base import TaskConfig

FAMILIES = {
    "binary": "zoo.tasks.binary",
    "classification": "zoo.tasks.classification",
    "commonsense": "zoo.tasks.commonsense",
    "detection": "zoo.tasks.detection",
    "segmentation": "zoo.tasks.segmentation",
}


def config_class(family: str) -> type[TaskConfig]:
    """The `Config` of a task family: one of ours, or one that is registered or offered by a package (zoo.plugins).

    Raises ValueError for a family that does not exist, Failed for a package that is broken.
    """
    if family in FAMILIES:
        ours: type[TaskConfig] = import_module(FAMILIES[family]).Config
        return ours
    found = plugins.find("tasks", family, FAMILIES)
    if not (isinstance(found, type) and issubclass(found, TaskConfig)):
        raise ValueError(f"task {family!r} is {found!r}; expected a subclass of zoo.tasks.base.TaskConfig")
    return found
