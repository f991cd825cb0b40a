"""Image classification: a network of timm's (or of zoo.tasks.networks), an image data set, cross entropy.

Shape suffixes: N images of a split, B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from evaluators.classification import EVALUATOR, Evaluation, evaluate
from zoo.seeds import generator, global_seed
from zoo.structure import Structure
from zoo.tasks.base import Batch, Split, TaskConfig
from zoo.tasks.images import CHANNELS, CLASSES, Images, Name, load_images, stratified_split

VALIDATION_SEED = 0  # the same images are held out in every run, whatever its seed
EVALUATION_BATCH = 500


class Config(TaskConfig):
    """Section `task:` of a recipe. `validation` is the share of the training images that is never trained on."""

    name: Literal["classification"]
    model: str
    data: Name
    augment: Literal["none", "flip", "autoaugment"] = "none"
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1


def build(config: Config, data_root: Path | None, device: torch.device) -> ClassificationTask:
    """The task with its data loaded.

    Raises MissingData or Corrupt for the data, ValueError if `validation` is too small or too large for them.
    """
    return ClassificationTask(config, load_images(config.data, data_root), device)


def structure(config: Config) -> Structure:
    """The structure of this task's networks, built on the meta device: without data and without memory.

    Raises ValueError for a network that does not exist.
    """
    from zoo.tasks.networks import create_network

    with torch.device("meta"):
        network = create_network(config.model, CLASSES[config.data], CHANNELS[config.data], seed=0)
    return Structure.of(network.state_dict(keep_vars=True))


class ClassificationTask:
    """The Task protocol (zoo.tasks.base) for images with one label each.

    Images stay uint8 on the CPU; a batch is augmented there, then moved to the device and standardised.
    """

    evaluator = EVALUATOR
    headline = "top1"

    def __init__(self, config: Config, images: Images, device: torch.device) -> None:
        self.config = config
        self.images = images
        self.device = device
        self.protocol = f"{config.data} test, {len(images.test)} images, data {images.fingerprint()}"
        rng = generator(VALIDATION_SEED, "validation")
        self.train_index, self.validation_index = stratified_split(images.train_labels, config.validation, rng)
        if not len(self.train_index) or not len(self.validation_index):
            raise ValueError(
                f"task.validation {config.validation} of {len(images.train)} images leaves {len(self.train_index)} "
                f"to train on and {len(self.validation_index)} to validate on; expected some of both"
            )
        self._evaluation_batches: dict[Split, list[Batch]] = {}

    def build(self, seed: int) -> nn.Module:
        """Raises ValueError for a network that does not exist."""
        from zoo.tasks.networks import create_network  # timm takes seconds to import; recipes need Config only

        images = self.images.train[:1]
        model = create_network(self.config.model, self.images.classes, images.shape[1], seed).to(self.device)
        try:
            with torch.no_grad():
                model.eval()(self.images.normalize(images.to(self.device)))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"{self.config.model} cannot take images of shape {tuple(images.shape[1:])}: "
                f"{' '.join(str(error).split())[:120]}; choose another task.model"
            ) from error
        return model

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict(keep_vars=True)  # the parameters themselves: tied names give the same object
        copies = {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in state.values()}
        return {name: copies[id(tensor)] for name, tensor in state.items()}

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        Structure.of(model.state_dict()).check(weights, "the checkpoint")
        model.load_state_dict(dict(weights))

    def steps_per_epoch(self, batch_size: int) -> int:
        return math.ceil(len(self.train_index) / batch_size)

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        """Every epoch visits every training image once, in a new order. It is cut into batches whose sizes differ by
        one at most, rather than into full ones and a rest: a rest of one image would break BatchNorm.
        """
        augment = self._augmentation()
        steps = self.steps_per_epoch(batch_size)
        epoch, skip = divmod(first_step, steps)
        while True:
            order = torch.randperm(len(self.train_index), generator=generator(seed, "epoch", epoch))
            for step, index in enumerate(self.train_index[order].tensor_split(steps)):
                if step >= skip:
                    with global_seed(seed, "augment", epoch, step):
                        images = augment(self.images.train[index])
                    yield self._batch(images, self.images.train_labels[index])
            epoch, skip = epoch + 1, 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Images are not augmented; they are prepared once and kept on the device for the next network."""
        if split not in self._evaluation_batches:
            if split == "test":
                images, labels = self.images.test, self.images.test_labels
            else:
                images = self.images.train[self.validation_index]
                labels = self.images.train_labels[self.validation_index]
            pairs = zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
            self._evaluation_batches[split] = [self._batch(*pair) for pair in pairs]
        return evaluate(model.eval(), self._evaluation_batches[split])

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        return self.images.normalize(images.to(self.device)), labels.to(self.device)

    def _augmentation(self) -> Callable[[Tensor], Tensor]:
        if self.config.augment == "none":
            return lambda images: images
        from zoo.tasks.augment import AutoAugment, random_flip

        if self.config.augment == "flip":
            return random_flip
        auto_augment = AutoAugment()
        return lambda images: auto_augment(random_flip(images))
