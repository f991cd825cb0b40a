"""A task whose networks a function of the user's own measures, too: `rpg eval --script score.py:fn`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from evaluators.metrics import Evaluation, Metric
from zoo import plugins
from zoo.errors import suggest
from zoo.files import sha256_file
from zoo.tasks.base import Split, Task
from zoo.tasks.wrapped import Wrapped

ARGUMENTS = ("model", "state_dict", "task")


@dataclass(frozen=True)
class Script:
    """A function that measures one network. It takes what its parameters are called: `model` (a torch module on the
    task's device, in evaluation mode), its `state_dict`, and the `task` (zoo.tasks.base.Task). It gives a number for
    each name, or a Metric with its n, standard error and direction.
    """

    name: str
    sha256: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]

    @classmethod
    def load(cls, place: str) -> Script:
        """The function of `score.py:fn`. Raises ValueError where it is not there, or wants other things."""
        file, _, name = place.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError(f"--script {place}: expected a file and a function in it, as in score.py:fn")
        plugins.let_in(file)
        function = plugins.referred(f"{Path(file).stem}:{name}", "--script")
        if not inspect.isfunction(function):
            raise ValueError(f"--script {place}: {name} is no function; expected def {name}(model): ...")
        parameters = tuple(inspect.signature(function).parameters)
        for parameter in parameters:
            if parameter not in ARGUMENTS:
                raise ValueError(f"--script {place}: {name} wants {parameter!r}{suggest(parameter, ARGUMENTS)}")
        return cls(f"{Path(file).name}:{name}", sha256_file(Path(file)), function, parameters)

    def metrics(self, model: nn.Module, weights: Mapping[str, Tensor], task: Task) -> tuple[Metric, ...]:
        """What it measures of a network. Raises ValueError for what is no finite number under a name."""
        offered = {"model": model, "state_dict": dict(weights), "task": task}
        with plugins.guarded(f"--script {self.name}"), torch.no_grad():
            found = self.function(**{name: offered[name] for name in self.parameters})
        if not isinstance(found, Mapping) or not found:
            raise ValueError(f"--script {self.name} gave {found!r:.80}; expected a dict such as {{'robust': 81.5}}")
        return tuple(self._metric(name, value) for name, value in found.items())

    def _metric(self, name: Any, value: Any) -> Metric:
        if isinstance(value, Metric) and value.name == name:
            return value
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        try:
            assert isinstance(name, str)
            assert name.isprintable()
            # Of how many samples it is the mean, only the script knows: of the network itself.
            return Metric(name, float(value), n=1, stderr=0.0)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"--script {self.name} gave {name!r}: {value!r:.80}; expected a finite number") from error


class Scripted(Wrapped):
    """The task, whose evaluation on test data has the script's metrics after its own; the headline stays the task's.
    Scores are comparable only where the script is the same, to the byte.
    """

    measures_more = True

    def __init__(self, task: Task, script: Script) -> None:
        super().__init__(task)
        self._script = script
        self.evaluator = f"{task.evaluator} + {script.name}"

    @property
    def protocol(self) -> str:
        return f"{self._task.protocol}, {self._script.name} sha256 {self._script.sha256[:12]}"

    def _around(self, task: Task) -> Task:
        return with_script(task, self._script)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        found = self._task.evaluate(model, split)
        if split != "test":
            return found
        more = self._script.metrics(model.eval(), model.state_dict(), self._task)
        if taken := {metric.name for metric in found.metrics} & {metric.name for metric in more}:
            raise ValueError(f"--script {self._script.name} gave {min(taken)!r}, which the task measures; rename it")
        return Evaluation((*found.metrics, *more), found.correct)


def with_script(task: Task, script: Script | None) -> Task:
    """The task, with the script's metrics where there is one."""
    return cast("Task", Scripted(task, script)) if script else task
