"""The networks that G.pt makes others from, and what their metric is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rpg.methods.g_pt.config import RANDOM, GPTDraw
from rpg.methods.g_pt.prompts import Prompts
from rpg.methods.task_data import data_place
from zoo.errors import Failed
from zoo.manifest import Entry
from zoo.recipe import task_of
from zoo.seeds import derive_seed
from zoo.store import Zoo
from zoo.tasks.classification import ImagesConfig

if TYPE_CHECKING:
    from rpg.run import Run


@dataclass(frozen=True, eq=False)
class Start:
    """A network, its metric, and the checkpoint it is, by hash."""

    weights: dict[str, Tensor]
    metric: float
    parents: tuple[str, ...] = ()


class Measure:
    """Measures networks of a run on the validation data of its task. Raises ValueError where nobody knows what they do,
    MissingData without the data.
    """

    def __init__(self, run: Run, metric: str, data_root: Path | None, device: torch.device) -> None:
        origin = run.record().origin
        self.metric, self.name = metric, origin.name
        self.task = task_of(origin).build(data_place(data_root), device)
        self.model, self.frozen = self.task.build(0), run.frozen()

    def __call__(self, weights: dict[str, Tensor]) -> float:
        """Raises Failed where the metric is not finite, as the loss of a network that has diverged."""
        self.task.load(self.model, {**weights, **self.frozen})
        for metric in self.task.evaluate(self.model, "validation").metrics:
            if metric.name == self.metric:
                return metric.value
        raise Failed(f"a network that was made for {self.name} has no finite {self.metric}; ask for fewer rounds")


class Starts:
    """Where the networks of a request begin. Network k is a function of (seed, k).

    A new network is made as those of the task are before training; that its metric is the mean of such is taken for
    granted, since measuring it would take the task's data. Raises ValueError for what is no such network: tasks whose
    networks are not made from a seed alone, zoos of others.
    """

    def __init__(self, run: Run, request: GPTDraw, data_root: Path | None, device: torch.device) -> None:
        self.prompts, self.request = Prompts.of(run), request
        self.zoo: Zoo | None = None
        self.entries: Sequence[Entry] = ()
        self.measure: Measure | None = None
        name = self.prompts.target.metric
        if request.start == RANDOM:
            self._check_random(run)
        else:
            self.zoo = Zoo.open(request.start)
            if changed := run.record().structure.diff(self.zoo.structure):
                raise ValueError(
                    f"{request.start} holds other networks than those of {run.path}: {'; '.join(changed[:3])}; start "
                    "from networks of the same structure"
                )
            self.entries = _chosen(self.zoo, request.chosen)
        if request.rounds > 1 or any(name not in entry.metrics for entry in self.entries):
            self.measure = Measure(run, name, data_root, device)

    def __getitem__(self, k: int) -> Start:
        """Where network k begins."""
        if self.zoo is None:
            assert self.prompts.first is not None
            network = self.task.network(derive_seed(self.request.seed, "g.pt", "start", k), pretrained=False)
            state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
            return Start({name: state[name] for name in self.task.chosen(state)}, self.prompts.first)
        entry = self.entries[k % len(self.entries)]
        weights, name = self.zoo.load(entry), self.prompts.target.metric
        if name in entry.metrics:
            return Start(weights, entry.metrics[name].value, (entry.sha256,))
        assert self.measure
        return Start(weights, self.measure(weights), (entry.sha256,))

    def _check_random(self, run: Run) -> None:
        origin, otherwise = run.record().origin, "start from a zoo's, as in --set generate.start=zoos/mine"
        task = task_of(origin) if origin.task else None
        if not isinstance(task, ImagesConfig) or task.pretrained:
            raise ValueError(f"networks of {origin.name} are not made from a seed alone; {otherwise}")
        if self.prompts.first is None:
            raise ValueError(f"{run.path} saw no network of {origin.name} before training; {otherwise}")
        if (shared := self.prompts.shared) is not None:
            raise ValueError(
                f"all trainings that {run.path} saw began with one network, {shared}; start from it, as in --set "
                f"generate.start=zoos/mine --set generate.chosen={shared}"
            )
        self.task = task


def _chosen(zoo: Zoo, name: str | None) -> Sequence[Entry]:
    """The checkpoints of this split or id, or all. Raises ValueError when there is neither."""
    if name is None or any(entry.split == name for entry in zoo.entries):
        return zoo.select(name)
    return [zoo.entry(name)]
