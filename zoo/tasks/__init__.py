"""Tasks: what the networks of a zoo do. One file per family, with its `Config`, the section `task:` of a recipe."""

from __future__ import annotations

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
    return plugins.schema("tasks", family, FAMILIES, TaskConfig)  # type: ignore[type-abstract]  # nothing is made of it
