"""Binary tasks on the classes of an image data set, ten in the paper: every class is labelled 0 or 1 (section 4.1).

The networks have two outputs. All tasks share the images, their order and their augmentation; a condition
(zoo.conditions) says which labels they have.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evaluators.classification import balanced_accuracy, evaluate
from evaluators.metrics import Evaluation
from zoo.conditions import ClassBits, all_conditions, bits, check_condition
from zoo.data.images import CLASS_NAMES, Images
from zoo.tasks.base import Batch, Split
from zoo.tasks.classification import ClassificationTask, ImagesConfig

if TYPE_CHECKING:
    from zoo.data.imagenet import Photos


class Config(ImagesConfig):
    """Section `task:` of a recipe. `focal`: the exponent of the focal loss; 0 is cross entropy."""

    told = ImagesConfig.told | {"focal"}
    name: Literal["binary"]
    data: Literal["digits", "cifar10", "folder", "hub"]
    focal: Annotated[float, Field(ge=0)] = 2.0

    @property
    def classes(self) -> int:
        return 2

    def conditions(self) -> tuple[str, ...]:
        """Raises ValueError for a data set with too many classes (zoo.conditions.MOST_CLASSES)."""
        return all_conditions(self.format.classes)

    def condition_type(self) -> ClassBits:
        names = CLASS_NAMES.get(self.data)
        if names is None:
            return ClassBits.numbered(self.source, self.format.classes)
        return ClassBits(data=self.data, names=names)

    def chance(self) -> dict[str, float]:
        """Of `balanced`: with unequal labels a network that gives all the same has a top-1 far above 50."""
        return {"balanced": 50.0}

    def build(self, data_root: Path | None, device: torch.device) -> BinaryTask:
        """Raises what `classification.Config.build` raises."""
        return BinaryTask(self, self.load_data(data_root), device)


class BinaryTask(ClassificationTask):
    """The LabelledTask protocol (zoo.tasks.base) for all binary tasks; to train or evaluate, take one of them."""

    evaluator = "binary/1"
    config: Config

    def __init__(self, config: Config, images: Images | Photos, device: torch.device) -> None:
        super().__init__(config, images, device)
        self.protocol += ", two classes"
        self.conditions = config.conditions()
        self._labels: Tensor | None = None  # int64 (classes,), of each class of the data set

    def for_condition(self, condition: str) -> BinaryTask:
        return self.for_labels(bits(check_condition(condition, self.config.format.classes)))

    def for_labels(self, labels: Tensor) -> BinaryTask:
        task = copy.copy(self)
        task._labels = labels.to(self.device, torch.int64)
        return task

    def classes(self, split: Split) -> Tensor:
        images = self.images
        return images.test_labels if split == "test" else images.train_labels[self.validation_index]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The focal loss, as in RPG's published code. The batch has the data set's labels, so that all tasks can share
        it.
        """
        self._hold(model)
        images, classes = batch
        return focal_loss(model(images), self.labels(classes), self.config.focal)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """`top1`, `balanced` (the tasks' classes are unequal) and `loss`, the cross entropy."""
        model.eval()
        found = evaluate(model, ((images, self.labels(classes)) for images, classes in self._evaluation(split)))
        labels = self.labels(self.classes(split)).cpu().numpy()
        top1, *others = found.metrics
        return Evaluation((top1, balanced_accuracy(found.correct, labels), *others), found.correct)

    def labels(self, classes: Tensor) -> Tensor:
        """Classes of the data set, int64 (B,) -> this task's labels, int64 (B,)."""
        if self._labels is None:
            raise ValueError("binary tasks are many, a network alone does not say its own; expected entries of a zoo")
        return self._labels[classes]


def focal_loss(logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """The mean of (1 - p)**exponent times the cross entropy, p being the probability of the label; a scalar. logits
    (B, classes), labels int64 (B,). Source: Lin et al., 2017, https://arxiv.org/abs/1708.02002.
    """
    entropy_B = F.cross_entropy(logits, labels, reduction="none")
    # 1 - p cancels where the answer is sure, and its power has no derivative at 0: expm1 is exact there.
    return ((-torch.expm1(-entropy_B)).clamp_min(torch.finfo(logits.dtype).tiny) ** exponent * entropy_B).mean()
