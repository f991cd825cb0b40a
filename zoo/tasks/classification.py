"""Image classification: a network of timm's (or of zoo.tasks.networks), an image data set, cross entropy.

Shape suffixes: N images of a split, B images of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.classification import EVALUATOR, evaluate
from evaluators.metrics import Evaluation
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.tasks.base import Batch, Split, TaskConfig
from zoo.tasks.images import FORMATS, STATISTICS, Images, load_images, stratified_split
from zoo.tasks.loading import KeptBatches, epochs

if TYPE_CHECKING:
    from zoo.tasks.imagenet import Photos

VALIDATION_SEED = 0  # the same images are held out in every run, whatever its seed
EVALUATION_BATCH = 500
LIBRARY = "timm"
LARGE = 64  # pixels a side; above, evaluation batches are smaller
LARGE_EVALUATION_BATCH = 100


class ImagesConfig(TaskConfig):
    """What the `task:` sections of all tasks on labelled images have.

    - `model`: timm's name, with the weights' tag where `pretrained` takes them from the Hub; `options` go to its
      constructor (`patch_size`, `depth`, ...).
    - `pretrained`: true for the weights from the Hub, or a directory or file with them. Images are then standardised
      as timm says for `model`, else with the data set's statistics.
    - `trainable`: patterns such as `layer4.1.bn*.weight` of the tensors that are trained and are the weights of this
      zoo; the others stay as they are in the pretrained weights. All are by default.
    - `image_size`: pixels a side that images are resized to on the device (photographs: when decoded).
    - `crop_padding`: pixels of black around a small image before a random crop of its old size.
    - `validation`: the share of the training images that is never trained on.
    """

    model: str
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    pretrained: bool | str = False
    trainable: tuple[str, ...] = ()
    data: Literal["digits", "cifar10", "cifar100", "imagenet"]
    image_size: PositiveInt | None = None
    augment: Literal["none", "flip", "autoaugment", "randaugment"] = "none"
    crop_padding: NonNegativeInt = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.trainable and not self.pretrained:
            raise ValueError("trainable leaves the other tensors as pretrained weights have them; set pretrained, too")
        if self.crop_padding and self.data == "imagenet":
            raise ValueError("crop_padding is for small images; photographs are always cropped at random")
        return self

    @property
    def side(self) -> int:
        """Pixels a side of what the network sees."""
        return self.image_size or FORMATS[self.data].size

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        return FORMATS[self.data].classes


class Config(ImagesConfig):
    """Section `task:` of a recipe; a label for each class of the data set."""

    name: Literal["classification"]


def build(config: Config, data_root: Path | None, device: torch.device) -> ClassificationTask:
    """The task with its data loaded (photographs: found).

    Raises MissingData or Corrupt for the data, ValueError if `validation` is too small or too large for them.
    """
    return ClassificationTask(config, load_data(config, data_root), device)


def load_data(config: ImagesConfig, data_root: Path | None) -> Images | Photos:
    """The images, to be standardised as the network wants them. Raises MissingData or Corrupt."""
    prepared = preparation(config)
    if config.data == "imagenet":
        from zoo.tasks.imagenet import load_photos

        return load_photos(data_root, prepared)
    images = load_images(config.data, data_root)
    return dataclasses.replace(images, mean=prepared["mean"], std=prepared["std"])


def preparation(config: ImagesConfig) -> dict[str, Any]:
    """How images become network inputs, in timm's terms. Small images are resized whole, bilinearly."""
    from zoo.tasks.networks import data_config

    found = data_config(config.model)
    if config.data != "imagenet":
        found |= {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    if not config.pretrained or FORMATS[config.data].channels != len(found["mean"]):
        mean, std = STATISTICS[config.data]
        found |= {"mean": mean, "std": std}
    return found | {"input_size": (FORMATS[config.data].channels, config.side, config.side)}


def structure(config: ImagesConfig) -> Structure:
    """The structure of this task's weights, built on the meta device: without data, downloads or memory.

    Raises ValueError for a network or an option that does not exist, and for patterns that match no tensor.
    """
    with torch.device("meta"):
        network = network_of(config, seed=0, pretrained=False)
    state = network.state_dict(keep_vars=True)
    return Structure.of({name: state[name] for name in chosen(config, state)})


def frozen(config: ImagesConfig) -> dict[str, Tensor]:
    """The tensors that all networks of this task share, on the CPU; none unless `trainable` leaves some out. Needs the
    pretrained weights, but no data.

    Raises what loading them raises, and ValueError if some of these tensors start at random.
    """
    if not config.trainable:
        return {}
    state, other = (network_of(config, seed, pretrained=True).state_dict() for seed in (0, 1))
    trained = set(chosen(config, state))
    for name in state:
        if name not in trained and not torch.equal(state[name], other[name]):
            raise ValueError(
                f"{name} is frozen, but starts at random: the pretrained weights are for another number of classes; "
                "expected weights for this task, or its pattern in task.trainable"
            )
    return {name: tensor for name, tensor in state.items() if name not in trained}


def chosen(config: ImagesConfig, names: Iterable[str]) -> list[str]:
    """Which of these tensors are the weights. Raises ValueError for a pattern that matches none."""
    names = list(names)
    for pattern in config.trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"task.trainable {pattern!r} matches no tensor of {config.model}; expected patterns of names such as "
                f"{names[0]}"
            )
    return [name for name in names if not config.trainable or any(fnmatchcase(name, p) for p in config.trainable)]


def library_config(config: ImagesConfig) -> dict[str, Any]:
    """timm's `config.json` for checkpoints of this task."""
    from zoo.tasks import networks

    return networks.timm_config(config.model, config.options, config.classes, preparation(config))


def network_of(config: ImagesConfig, seed: int, pretrained: bool) -> nn.Module:
    from zoo.tasks.networks import create_network  # timm takes seconds to import; recipes need Config only

    weights = config.pretrained if pretrained else False
    return create_network(
        config.model,
        config.classes,
        FORMATS[config.data].channels,
        seed,
        image_size=config.side,
        options=config.options,
        pretrained=weights,
    )


class ClassificationTask:
    """The Task protocol (zoo.tasks.base) for images with one label each.

    Images stay uint8 on the CPU; a batch is augmented there, then moved to the device, resized and standardised.
    """

    evaluator = EVALUATOR
    headline = "top1"
    conditions: tuple[str, ...] = ()

    def __init__(self, config: ImagesConfig, images: Images | Photos, device: torch.device) -> None:
        self.config = config
        self.images = images
        self.device = device
        size = f" at {config.image_size} px" if config.image_size else ""
        count = len(images.test_labels)
        self.protocol = f"{config.data} test, {count} images{size}, data {images.fingerprint()}"
        rng = generator(VALIDATION_SEED, "validation")
        labels = images.train_labels
        self.train_index, self.validation_index = stratified_split(labels, config.validation, rng)
        if not len(self.train_index) or not len(self.validation_index):
            raise ValueError(
                f"task.validation {config.validation} of {len(labels)} images leaves {len(self.train_index)} "
                f"to train on and {len(self.validation_index)} to validate on; expected some of both"
            )
        self._evaluation_batches: dict[Split, Iterable[Batch]] = {}

    def for_condition(self, condition: str) -> ClassificationTask:
        raise ValueError(f"task {self.config.name} has no conditions, got {condition!r}; use a recipe of binary tasks")

    def build(self, seed: int) -> nn.Module:
        """Raises ValueError for a network that does not exist, or does not take these images."""
        return self._ready(network_of(self.config, seed, pretrained=False))

    def start(self, seed: int) -> nn.Module:
        """Raises what `build` and `frozen` raise, and MissingData or Corrupt for the pretrained weights."""
        frozen(self.config)  # refuses what would start at random
        return self._ready(network_of(self.config, seed, pretrained=True))

    def _ready(self, model: nn.Module) -> nn.Module:
        """The model on the device, tried on one image; what is frozen asks for no gradient."""
        model.to(self.device)
        channels, side = FORMATS[self.config.data].channels, self.config.side
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, channels, side, side, device=self.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"{self.config.model} cannot take images of shape {(channels, side, side)}: "
                f"{' '.join(str(error).split())[:120]}; choose another task.model or task.image_size"
            ) from error
        trained = set(chosen(self.config, model.state_dict()))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict(keep_vars=True)  # the parameters themselves: tied names give the same object
        return _copied({name: state[name] for name in chosen(self.config, state)})

    def frozen(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict(keep_vars=True)
        trained = set(chosen(self.config, state))
        return _copied({name: tensor for name, tensor in state.items() if name not in trained})

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        state = model.state_dict()
        names = chosen(self.config, state)
        whole = len(names) < len(state) and not set(weights) <= set(names)
        expected = state if whole else {name: state[name] for name in names}
        Structure.of(expected).check(weights, "the checkpoint")
        model.load_state_dict(dict(weights), strict=False)

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        classifier: Any = model.get_classifier  # what timm's networks have, and ours
        return list(classifier().parameters())

    def groups(self, model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
        """Raises ValueError for a `layer_decay`: no recipe of the paper's classifiers has one."""
        if layer_decay != 1:
            raise ValueError(f"zoo.layer_decay {layer_decay} is not for task {self.config.name}; leave it out")
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def steps_per_epoch(self, batch_size: int) -> int:
        return math.ceil(len(self.train_index) / batch_size)

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        plan = epochs(self.train_index, self.steps_per_epoch(batch_size), seed, first_step)
        draws = self.images.draw(plan, seed, self._augmentation())
        return (self._batch(*draw) for draw in draws)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy. Where tensors are frozen, the BatchNorm layers whose statistics are among them use these, so
        that a network is a function of its weights and the frozen tensors, in training as in evaluation.
        """
        if self.config.trainable:
            hold_statistics(model, chosen(self.config, model.state_dict()))
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        model.eval()
        return evaluate(model, self._evaluation(split))

    def _evaluation(self, split: Split) -> Iterator[Batch]:
        """Batches to evaluate on, not augmented. For the next network small images are kept on the device as networks
        take them, larger ones as they are: data sets of small images resized on the device, photographs on disk.
        """
        small = isinstance(self.images, Images) and self.config.side <= LARGE
        if split not in self._evaluation_batches:
            size = EVALUATION_BATCH if self.config.side <= LARGE else LARGE_EVALUATION_BATCH
            test = split == "test"
            index = torch.arange(len(self.images.test_labels)) if test else self.validation_index
            read = partial(self.images.plain, "test" if test else "train", index, size)
            if small:
                found: Iterable[Batch] = [self._batch(*batch) for batch in read()]
            elif isinstance(self.images, Images):
                found = [(images.to(self.device), labels.to(self.device)) for images, labels in read()]
            else:
                found = KeptBatches(read, len(index) * math.prod(self.images.preparation["input_size"]))
            self._evaluation_batches[split] = found
        kept = self._evaluation_batches[split]
        return iter(kept) if small else (self._batch(*batch) for batch in kept)

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        return self._prepared(images), labels.to(self.device)

    def _prepared(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C, side, side) on the device, standardised.

        Small images are augmented at their own size and resized last: RPG's published code resizes first, which
        makes the same pictures but for interpolation, at 49 times the work for 224 pixels a side.
        """
        images = images.to(self.device)
        side = self.config.side
        if images.shape[-1] != side:
            images = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        return self.images.normalize(images)

    def _augmentation(self) -> Any:
        """For a batch of small images, or for one photograph."""
        from zoo.tasks import augment

        if isinstance(self.images, Images):
            return augment.of_batch(self.config.augment, self.config.crop_padding)
        interpolation = self.images.preparation["interpolation"]
        return augment.of_photo(self.config.augment, self.config.side, interpolation)


def hold_statistics(model: nn.Module, trained: Iterable[str]) -> None:
    """Put the BatchNorm layers whose running statistics are not among the trained tensors into evaluation mode."""
    names = set(trained)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.running_mean" not in names:
            module.eval()


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies on the CPU; what was one tensor under two names stays one."""
    copies = {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in tensors.values()}
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}
