"""The task of a zoo's networks with its data, for methods that look at what networks do; where the data are is
said by the call, or by RPG_DATA. Only training and validation images are ever used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rpg.tokens.layout import Layout
from zoo.manifest import Origin
from zoo.recipe import task_of
from zoo.seeds import global_seed
from zoo.structure import Structure
from zoo.tasks.base import Batch
from zoo.tasks.binary import BinaryTask
from zoo.tasks.classification import ClassificationTask, ImagesConfig, hold_statistics

log = logging.getLogger(__name__)


def data_place(data_root: Path | None) -> Path | None:
    """Where data are, as the call says it, or else RPG_DATA; None: on the Hub."""
    root = data_root or os.environ.get("RPG_DATA")
    return Path(root) if root else None


def task_with_data(
    origin: Origin, device: torch.device, remedy: str, data_root: Path | None = None, told: bool = False
) -> ClassificationTask:
    """The task, with the data there, or else under RPG_DATA. Raises as `image_task`, MissingData without them."""
    task = image_task(origin, remedy, told).build(data_place(data_root), device)
    assert isinstance(task, ClassificationTask)
    return task


def image_task(origin: Origin, remedy: str, told: bool = False) -> ImagesConfig:
    """What the networks do. Raises ValueError, with the remedy, unless it is classification of images, or many binary
    tasks on them where the method is `told` which.
    """
    config = task_of(origin) if origin.task else None
    if isinstance(config, ImagesConfig) and config.conditions() and not told:
        raise ValueError(f"the networks of {origin.name} are for many tasks, and this looks at images of one; {remedy}")
    if not isinstance(config, ImagesConfig) or bool(config.conditions()) != told:
        raise ValueError(f"the networks of {origin.name} do not classify images, as far as anybody said; {remedy}")
    return config


class Behaviour:
    """What networks do on training images: how much they differ in it, and how well they do."""

    def __init__(self, task: ClassificationTask, layout: Layout, frozen: Mapping[str, Tensor]) -> None:
        self.task, self.layout, self._few = task, layout, False
        self.model = task.build(0).eval().requires_grad_(False)
        task.load(self.model, {**task.weights(self.model), **frozen})

    def images(self, seed: int, step: int, count: int) -> Tensor:
        """Training images, a function of (seed, step)."""
        return self.batch(seed, step, count)[0]

    def batch(self, seed: int, step: int, count: int) -> Batch:
        """The same with their labels: at most `count`, since an epoch is cut into batches of one size, give or take an
        image.
        """
        found = next(self.task.batches(seed, step, count))
        if len(found[0]) < count and self.task.steps_per_epoch(count) == 1 and not self._few:
            self._few = True
            log.warning(
                f"{count:,} training images a step were asked for, and there are {len(found[0]):,}: all are used"
            )
        return found

    def logits(self, vector: Tensor, images: Tensor) -> Tensor:
        """Outputs (images, classes) of the network of a vector (D or more,), differentiable in it but for running
        statistics, of which torch's BatchNorm has no derivative.
        """
        start, weights = 0, {}
        for tensor in self.layout.tensors:
            values = tensor.denormalise(vector[start : start + tensor.numel])
            running = tensor.name.rpartition(".")[2] in ("running_mean", "running_var")
            weights[tensor.name] = (values.detach() if running else values).view(tensor.shape)
            start += tensor.numel
        found: Tensor = functional_call(self.model, weights, (images,))
        return found

    def all_logits(self, found: Tensor, images: Tensor) -> Tensor:
        """Those of the networks of vectors (B, D or more): (B, images, classes)."""
        return torch.stack([self.logits(vector, images) for vector in found])

    def outputs(self, vector: Tensor, images: Tensor) -> Tensor:
        """Their softmax."""
        return self.logits(vector, images).softmax(-1)

    def cross_entropy(self, found: Tensor, batch: Batch, conditions: Sequence[str] = ()) -> Tensor:
        """The mean over the networks of vectors (B, D or more) and the images of a batch: a scalar. Networks of binary
        tasks are told by these conditions which labels are theirs.
        """
        images, labels = batch
        theirs = [self._labels(condition, labels) for condition in conditions] or [labels] * len(found)
        return torch.stack(
            [F.cross_entropy(self.logits(vector, images), own) for vector, own in zip(found, theirs, strict=True)]
        ).mean()

    def _labels(self, condition: str, classes: Tensor) -> Tensor:
        assert isinstance(self.task, BinaryTask)
        return self.task.for_condition(condition).labels(classes)

    def distance(self, found: Tensor, given: Tensor, images: Tensor) -> Tensor:
        """The mean squared difference of softmax outputs, between the networks of vectors (B, D or more), pair by pair:
        a scalar.
        """
        pairs = []
        for new, old in zip(found, given, strict=True):
            with torch.no_grad():
                expected = self.outputs(old, images)
            pairs.append((self.outputs(new, images) - expected).square().mean())
        return torch.stack(pairs).mean()


def has_batchnorm(structure: Structure) -> bool:
    """Whether networks have running statistics that are generated."""
    return any(spec.kind == "running_var" for spec in structure)


def condition_batchnorm(task: ClassificationTask, model: nn.Module, seed: int, passes: int, batch_size: int) -> None:
    """Measure a network's running statistics anew on training images, in so many batches; nothing is learnt."""
    model.train()
    hold_statistics(model, task.config.chosen(model.state_dict()))
    with torch.no_grad():
        for k, (images, _) in enumerate(islice(task.batches(seed, 0, batch_size), passes)):
            with global_seed(seed, "batchnorm", k):  # dropout and stochastic depth
                model(images)
    model.eval()
