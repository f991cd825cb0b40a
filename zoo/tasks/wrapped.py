"""Tasks that are another one in all but a little, and what does that: settings that are not the zoo's own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from zoo.manifest import Origin, changed
from zoo.recipe import task_of
from zoo.tasks.base import Task, TaskConfig

WITH = ", with task."  # in the protocol before the first setting that is not the zoo's own


class Wrapped(ABC):
    """The task, but for what a subclass does otherwise; so are the tasks that this one consists of. Some measure more
    than the task does.
    """

    measures_more: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        self._task = task

    @abstractmethod
    def _around(self, task: Task) -> Task:
        """Another task, wrapped as this one is."""

    def for_condition(self, condition: str) -> Task:
        return self._around(self._task.for_condition(condition))

    def for_labels(self, labels: Tensor) -> Task:
        return self._around(cast("Any", self._task).for_labels(labels))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._task, name)


class Changed(Wrapped):
    """The task, whose protocol names settings with which networks compute something else than they were made for."""

    def __init__(self, task: Task, settings: Mapping[str, Any]) -> None:
        super().__init__(task)
        self._settings = settings

    @property
    def protocol(self) -> str:
        said = (f"{key}={json.dumps(value)}" for key, value in sorted(self._settings.items()))
        return f"{self._task.protocol}{WITH}{', task.'.join(said)}"

    def _around(self, task: Task) -> Task:
        return cast("Task", Changed(task, self._settings))


def unwrapped(task: Task) -> Task:
    """The task itself, inside of all that measures the same of its networks."""
    while isinstance(task, Wrapped) and not task.measures_more:
        task = task._task
    return task


def build_to_score(origin: Origin, used: TaskConfig, data_root: Path | None, device: torch.device) -> Task:
    """The task of the section `used`, to score networks of this origin. Raises what building it does."""
    return with_changes(used.build(data_root, device), task_of(origin), used)


def with_changes(task: Task, made: TaskConfig, used: TaskConfig) -> Task:
    """The task, built of the section `used`, to score networks that were made with another section: neither their
    tensors nor `task.protocol` show a scale, say, or how many heads attention has, so that scores with others
    would be taken for those of the networks themselves.
    """
    found = {key: value for key, value in changed(made, used).items() if key.partition(".")[0] not in used.told}
    return cast("Task", Changed(task, found)) if found else task
