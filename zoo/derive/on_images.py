"""What aligning needs of a task's images: activations to match by, losses to refine by, scores of what is measured.

Training images alone decide anything; test images only say what an alignment is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from zoo.derive.worth import Measure
from zoo.errors import Failed
from zoo.store import Zoo
from zoo.symmetry.activations import Record, recorder
from zoo.symmetry.refine import Batch, Images
from zoo.symmetry.specification import Specification
from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.recalibrated import images_for, norms_of, recalibrate

RECORDED = 128  # images that activations are compared on
BATCH = 100  # images in a step of refinement


def check_images(zoo: Zoo, task: Task, wanted: str) -> None:
    """Raise ValueError unless the networks of this zoo are image classifiers of one task, naming what was `wanted`."""
    remedy = "; leave it out" if wanted.startswith("--") else ""
    if not isinstance(task, ClassificationTask):
        name = zoo.manifest.origin.family
        raise ValueError(f"{wanted} is for image classifiers, not for networks of task {name}{remedy}")
    many = bool(task.conditions) or any(entry.condition is not None for entry in zoo.entries)
    if many and wanted != "--match":
        raise ValueError(f"{wanted} takes means of networks, which of {zoo.path} are for different tasks{remedy}")


def record_of(zoo: Zoo, task: Task, specification: Specification, seed: int) -> Record:
    """Activations on training images. Raises ValueError for a zoo of other networks, or without any to compare."""
    check_images(zoo, task, "--match")
    if not specification.outputs:
        raise ValueError(f"no module of the networks of {zoo.path} is known to match by; expected --match weights")
    images, _ = next(task.batches(seed, 0, RECORDED))
    return recorder(task.build(0), task.load, specification, images)


def images_of(zoo: Zoo, task: Task, seed: int) -> Images:
    """Training images, and validation images to judge by. Raises ValueError for a zoo of other networks."""
    check_images(zoo, task, "--refine")
    assert isinstance(task, ClassificationTask)
    model = task.build(0).eval()
    for norm in norms_of(model):
        norm.train()  # a mean has none of the statistics that are its networks'
    frozen, buffers = zoo.frozen(), {name for name, _ in model.named_buffers()}

    def loss(weights: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        tensors = {name: tensor.to(task.device) for name, tensor in (weights | frozen).items()}
        tensors |= {name: tensors[name].detach().clone() for name in buffers & tensors.keys()}
        return F.cross_entropy(functional_call(model, tensors, (inputs,)), labels).cpu()

    def batches(first: int) -> Iterator[Batch]:
        return task.batches(seed, first, BATCH)

    return Images(loss, batches, task.held_out())


def measure_of(zoo: Zoo, task: Task, seed: int = 0) -> Measure:
    """Loss and accuracy on test images, BatchNorm's statistics from training images in every case. Raises ValueError
    for networks whose averages mean nothing.
    """
    check_images(zoo, task, "measuring averages")
    model, frozen = task.build(0), zoo.frozen()
    images = images_for(task, seed) if norms_of(model) else []

    def measure(weights: Mapping[str, Tensor]) -> tuple[float, float]:
        task.load(model, {**weights, **frozen})
        recalibrate(model, images)
        found = {metric.name: metric.value for metric in task.evaluate(model, "test").metrics}
        if "loss" not in found:
            raise Failed(
                f"averages of networks of {zoo.path} give losses that are not finite; leave them out: --no-measure"
            )
        return found["loss"], found[task.main_metric]

    return measure
