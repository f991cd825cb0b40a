"""What the task families share: which tensors are the weights, what is trained on, which samples a batch takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.loading import Draw, epochs
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.tasks.base import Task, TaskConfig

VALIDATION_SEED = 0  # the same samples are for validation whatever the seed of the training


class TaskBase(ABC):
    """The part of the Task protocol (zoo.tasks.base) that is the same for most families. Of a model's state dict the
    tensors that `config.chosen` names are the weights, the others are frozen. `samples` is what a message calls them.
    """

    conditions: tuple[str, ...] = ()
    samples = "images"

    def __init__(self, config: TaskConfig, device: torch.device) -> None:
        self.config = config
        self.device = device

    @property
    def chance(self) -> Mapping[str, float]:
        """What guessing scores, by metric, in percent."""
        return self.config.chance()

    @abstractmethod
    def _split(self) -> tuple[Tensor, Tensor]:
        """Indices of the training samples to train on and of those for validation, both sorted, int64 (N,)."""

    @cached_property
    def _indices(self) -> tuple[Tensor, Tensor]:
        train, validation = self._split()
        if not len(train) or not len(validation):
            raise ValueError(
                f"task.validation {self.config.validation} of {len(train) + len(validation)} {self.samples} leaves "
                f"{len(train)} to train on and {len(validation)} to validate on; expected some of both"
            )
        return train, validation

    @property
    def train_index(self) -> Tensor:
        """Which training samples are trained on, sorted, int64 (N,). Raises ValueError unless `config.validation`
        leaves some, and takes some.
        """
        return self._indices[0]

    @property
    def validation_index(self) -> Tensor:
        """Which training samples never are, sorted, int64 (N,). Raises as `train_index` does."""
        return self._indices[1]

    def for_condition(self, condition: str) -> Task:
        raise ValueError(f"task {self.config.name} has no conditions, got {condition!r}; use a recipe of binary tasks")

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict(keep_vars=True)  # the parameters themselves: tied names give the same object
        return _copied(state, self.config.chosen(state))

    def frozen(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict(keep_vars=True)
        chosen = set(self.config.chosen(state))
        return _copied(state, (name for name in state if name not in chosen))

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        state = model.state_dict()
        chosen = self.config.chosen(state)
        frozen_too = any(name in state for name in set(weights).difference(chosen))
        expected = state if frozen_too else {name: state[name] for name in chosen}
        Structure.of(expected).check(weights, "the checkpoint")
        model.load_state_dict(dict(weights), strict=False)

    def groups(self, model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
        """One group. Raises ValueError for a `layer_decay`: families whose recipes have one know their layers."""
        if layer_decay != 1:
            raise ValueError(f"zoo.layer_decay {layer_decay} is not for task {self.config.name}; leave it out")
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def steps_per_epoch(self, batch_size: int) -> int:
        return math.ceil(len(self.train_index) / batch_size)

    def _plan(self, seed: int, first_step: int, batch_size: int) -> Iterator[Draw]:
        """Which samples the training batches from number `first_step` on take."""
        return epochs(self.train_index, self.steps_per_epoch(batch_size), seed, first_step)


def split_off(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All but `count` of the samples `index`, int64 (N,), and those, drawn at random; both sorted."""
    order = torch.randperm(len(index), generator=generator(VALIDATION_SEED, "validation"))
    return index[order[count:]].sort().values, index[order[:count]].sort().values


def _copied(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Detached copies of these tensors on the CPU; what was one tensor under two names stays one."""
    copies: dict[int, Tensor] = {}
    for name in (names := list(names)):
        if id(state[name]) not in copies:
            copies[id(state[name])] = state[name].detach().to("cpu", copy=True)
    return {name: copies[id(state[name])] for name in names}
