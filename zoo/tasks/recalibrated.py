"""A task whose networks are scored with BatchNorm's statistics of training images: means of networks have none that are
their own, and look worse than they are with the means of others'.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn

from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.wrapped import Wrapped, unwrapped

BATCH, BATCHES = 100, 10  # training images
log = logging.getLogger(__name__)


class Recalibrated(Wrapped):
    """The task, whose networks get the statistics of these batches of training images, the same for all of them."""

    def __init__(self, task: Task, images: Sequence[Tensor]) -> None:
        super().__init__(task)
        self._images = images

    @property
    def protocol(self) -> str:
        return f"{self._task.protocol}, BatchNorm of {sum(map(len, self._images))} training images"

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self._task.load(model, weights)
        recalibrate(model, self._images)

    def _around(self, task: Task) -> Task:
        return cast("Task", Recalibrated(task, self._images))


def recalibrated(task: Task, seed: int = 0) -> Task:
    """The task with statistics of training images, or itself, with a warning, where nothing is normalised. Raises
    ValueError for networks that are no image classifiers.
    """
    if not isinstance(unwrapped(task), ClassificationTask):
        raise ValueError("eval.recalibrate is for image classifiers, which these networks are not; leave it out")
    if not norms_of(task.build(0)):
        log.warning("eval.recalibrate is ignored: these networks have no BatchNorm")
        return task
    return cast("Task", Recalibrated(task, images_for(task, seed)))


def images_for(task: Task, seed: int) -> list[Tensor]:
    """The batches of training images that statistics come from."""
    return [batch[0] for batch in islice(task.batches(seed, 0, BATCH), BATCHES)]


def norms_of(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """What has running statistics."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """BatchNorm's statistics from these batches of training images, in place, each batch with equal weight. All else is
    in evaluation mode, so that nothing is drawn.
    """
    norms = norms_of(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    with torch.no_grad():
        for images in batches:
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
