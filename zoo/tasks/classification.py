"""Image classification: a network of timm's (or of zoo.networks.classifiers, or of your own), an image data set, cross
entropy.

Shape suffixes: N images of a split, B images of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.classification import EVALUATOR, evaluate
from evaluators.metrics import Evaluation
from zoo.checkpoint import content_hash
from zoo.data.images import FORMATS, STATISTICS, Format, Images, load_images, stratified_split
from zoo.data.loading import KeptBatches
from zoo.data.own import DatasetConfig, load_own
from zoo.errors import brief
from zoo.formats.weights import hash_of, in_directory
from zoo.networks.asymmetric import Asymmetry, break_symmetries, is_constant
from zoo.networks.own import create_own, is_own
from zoo.plugins import canonical
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.tasks.base import MOST, MOST_PIXELS, Batch, Library, Option, Pixels, Split, TaskConfig
from zoo.tasks.family import VALIDATION_SEED, TaskBase

if TYPE_CHECKING:
    from zoo.data.imagenet import Photos

EVALUATION_BATCH = 500
LARGE = 64  # pixels a side; above, evaluation batches are smaller
LARGE_EVALUATION_BATCH = 100


class ImagesConfig(TaskConfig):
    """What the `task:` sections of all tasks on labelled images have.

    - `model`: timm's name, with the weights' tag where `pretrained` takes them from the Hub, or a class of your own,
      `my_net:MyNet`, whose module `--import` names (zoo.plugins); `options` go to its constructor (`patch_size`,
      `depth`, ...).
    - `pretrained`: true for the weights from the Hub, or a directory or file with them. Images are then standardised
      as timm says for `model`, else with the data set's statistics.
    - `trainable`: patterns such as `layer4.1.bn*.weight` of the tensors that are trained and are the weights of this
      zoo; the others stay as they are in the pretrained weights. All are by default.
    - `asymmetry`: a share of the weights is frozen at constants that all seeds share, and that the zoo keeps once
      (zoo.networks.asymmetric): `{share: 0.5, width: 1}`. None are by default.
    - `data`: the data set; with `folder` and `hub` one of your own, of which `dataset` says what it is (zoo.data.own).
    - `image_size`: pixels a side that images are resized to on the device (photographs: when decoded).
    - `crop_padding`: pixels of black around a small image before a random crop of its old size.
    - `validation`: the share of the training images that is never trained on; data of your own may bring theirs.
    """

    library = "timm"
    # The fingerprint of the data has their pixels and how `pretrained` has them standardised.
    told = frozenset(
        ("data", "dataset", "image_size", "pretrained", "trainable", "augment", "crop_padding", "validation")
    )
    model: str
    options: dict[str, Option] = Field(default_factory=dict)
    pretrained: bool | str = False
    trainable: tuple[str, ...] = ()
    asymmetry: Asymmetry | None = None
    data: Literal["digits", "cifar10", "cifar100", "imagenet", "folder", "hub"]
    dataset: DatasetConfig | None = None
    image_size: Pixels | None = None
    augment: Literal["none", "flip", "autoaugment", "randaugment"] = "none"
    crop_padding: Annotated[int, Field(ge=0, le=MOST_PIXELS)] = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @field_validator("model")
    @classmethod
    def _canonical(cls, model: str) -> str:
        return canonical(model)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.trainable and not self.pretrained:
            raise ValueError("trainable leaves the other tensors as pretrained weights have them; set pretrained, too")
        if self.asymmetry and self.pretrained:
            raise ValueError("asymmetry is for networks that start from nothing; leave asymmetry or pretrained out")
        if self.crop_padding and self.data == "imagenet":
            raise ValueError("crop_padding is for small images; photographs are always cropped at random")
        for name, option in self.options.items():
            for value in option if isinstance(option, tuple) else (option,):
                if not isinstance(value, str) and abs(value) > MOST:
                    raise ValueError(f"options.{name} is {value}; expected numbers of at most {MOST:,}")
        if self.augment in ("autoaugment", "randaugment") and self.dataset and self.dataset.channels == 4:
            raise ValueError(f"augment {self.augment} is for images of 1 or 3 channels, these have 4; use flip or none")
        if (self.dataset is None) is (self.data in ("folder", "hub")):
            raise ValueError(
                "dataset goes with data: folder and data: hub, and says which: dataset: {name: flowers, classes: 5}"
            )
        return self

    @property
    def format(self) -> Format:
        """What the images of the data set look like."""
        own = self.dataset
        return Format(own.classes, own.channels, own.size) if own else FORMATS[self.data]

    @property
    def source(self) -> str:
        """What the data set is called."""
        return f"{self.data} {self.dataset.name}" if self.dataset else self.data

    @property
    def side(self) -> int:
        """Pixels a side of what the network sees."""
        return self.image_size or self.format.size

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        return self.format.classes

    def structure(self) -> Structure:
        """Raises ValueError for a network or an option that does not exist, and for patterns that match no tensor."""
        with torch.device("meta"):
            network = self.network(seed=0, pretrained=False)
        state = network.state_dict(keep_vars=True)
        return Structure.of({name: state[name] for name in self.chosen(state)})

    def frozen(self) -> dict[str, Tensor]:
        """None unless `trainable` leaves some out, or `asymmetry` brings some. Raises what loading the pretrained
        weights raises, and ValueError if some of these tensors start at random.
        """
        if self.asymmetry:
            state = self.network(seed=0, pretrained=False).state_dict()
            return {name: tensor for name, tensor in state.items() if is_constant(name)}
        if not self.trainable:
            return {}
        state, other = (self.network(seed, pretrained=True).state_dict() for seed in (0, 1))
        trained = set(self.chosen(state))
        for name in state:
            if name not in trained and not torch.equal(state[name], other[name]):
                raise ValueError(
                    f"{name} is frozen, but starts at random: the pretrained weights are for another number of "
                    "classes; expected weights for this task, or its pattern in task.trainable"
                )
        return {name: tensor for name, tensor in state.items() if name not in trained}

    def started_from(self) -> dict[str, str]:
        """The hash of a file; of the Hub's weights that of all tensors (content_hash) of the network with seed 0."""
        if self.pretrained is True:
            return {self.model: f"tensors {content_hash(self.network(seed=0, pretrained=True).state_dict())}"}
        if not self.pretrained:
            return {}
        place = Path(self.pretrained.removeprefix("local-dir:"))
        file = in_directory(place) if place.is_dir() else place
        return {self.pretrained: hash_of(file)} if file.is_file() else {}  # whoever starts from it says what is missing

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Which of these tensors are the weights. Raises ValueError for a pattern that matches none."""
        names = [name for name in names if not (self.asymmetry and is_constant(name))]
        for pattern in self.trainable:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"task.trainable {pattern!r} matches no tensor of {self.model}; expected patterns of names such as "
                    f"{names[0]}"
                )
        return [name for name in names if not self.trainable or any(fnmatchcase(name, p) for p in self.trainable)]

    def native(self) -> Library | None:
        return None if is_own(self.model) or self.asymmetry else self.library

    def library_config(self) -> dict[str, Any]:
        """timm's `config.json`; nothing for networks that are not timm's."""
        from zoo.networks import classifiers as networks

        if self.native() is None:
            return {}
        return networks.timm_config(self.model, self.options, self.classes, self.preparation())

    def preparation(self) -> dict[str, Any]:
        """How images become network inputs, in timm's terms. Small images are resized whole, bilinearly."""
        from zoo.networks.classifiers import data_config

        own = is_own(self.model)
        found: dict[str, Any] = (
            {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"} if own else data_config(self.model)
        )
        if self.data != "imagenet":
            found |= {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
        if own or not self.pretrained or self.format.channels != len(found["mean"]):
            mean, std = self.dataset.statistics if self.dataset else STATISTICS[self.data]
            found |= {"mean": mean, "std": std}
        return found | {"input_size": (self.format.channels, self.side, self.side)}

    def network(self, seed: int, pretrained: bool) -> nn.Module:
        """A new network; with `pretrained`, as the section says."""
        network = self._created(seed, self.pretrained if pretrained else False)
        return break_symmetries(network, self.asymmetry) if self.asymmetry else network

    def _created(self, seed: int, pretrained: bool | str) -> nn.Module:
        if is_own(self.model):
            return create_own(self.model, seed, self.options, pretrained)
        from zoo.networks.classifiers import (
            create_network,  # timm takes seconds to import; reading recipes does without
        )

        return create_network(
            self.model,
            self.classes,
            self.format.channels,
            seed,
            image_size=self.side,
            options=self.options,
            pretrained=pretrained,
        )

    def load_data(self, data_root: Path | None) -> Images | Photos:
        """The images, to be standardised as the network wants them. Raises MissingData or Corrupt."""
        prepared = self.preparation()
        if self.data == "imagenet":
            from zoo.data.imagenet import load_photos

            return load_photos(data_root, prepared)
        if self.data == "folder" or self.data == "hub":  # so mypy sees which names are left
            assert self.dataset
            images = load_own(self.data, self.dataset, data_root)
        else:
            images = load_images(self.data, data_root)
        return dataclasses.replace(images, mean=prepared["mean"], std=prepared["std"])


class Config(ImagesConfig):
    """Section `task:` of a recipe; a label for each class of the data set."""

    name: Literal["classification"]

    def chance(self) -> dict[str, float]:
        return {"top1": 100 / self.classes}

    def build(self, data_root: Path | None, device: torch.device) -> ClassificationTask:
        """Images are loaded, photographs found. Raises MissingData or Corrupt for them, ValueError if `validation` is
        too small or too large for them.
        """
        return ClassificationTask(self, self.load_data(data_root), device)


class ClassificationTask(TaskBase):
    """The Task protocol (zoo.tasks.base) for images with one label each.

    Images stay uint8 on the CPU; a batch is augmented there, then moved to the device, resized and standardised.
    """

    evaluator = EVALUATOR
    main_metric = "top1"
    config: ImagesConfig

    def __init__(self, config: ImagesConfig, images: Images | Photos, device: torch.device) -> None:
        super().__init__(config, device)
        self.images = images
        size = f" at {config.image_size} px" if config.image_size else ""
        count = len(images.test_labels)
        self.protocol = f"{config.source} test, {count} images{size}, data {images.fingerprint()}"
        self._evaluation_batches: dict[Split, Iterable[Batch]] = {}

    def _split(self) -> tuple[Tensor, Tensor]:
        """Every class has its share; or as the data say."""
        if isinstance(self.images, Images) and (kept := self.images.validation):
            index = torch.arange(len(self.images.train_labels))
            return index[:-kept], index[-kept:]
        rng = generator(VALIDATION_SEED, "validation")
        return stratified_split(self.images.train_labels, self.config.validation, rng)

    def build(self, seed: int) -> nn.Module:
        """Raises ValueError for a network that does not exist, or does not take these images."""
        return self._ready(self.config.network(seed, pretrained=False))

    def start(self, seed: int) -> nn.Module:
        """Raises what `build` and `frozen` raise, and MissingData or Corrupt for the pretrained weights and for the
        training data.
        """
        self.steps_per_epoch(1)  # refuses a share for validation that leaves nothing to train on
        self.config.frozen()  # refuses what would start at random
        return self._ready(self.config.network(seed, pretrained=True))

    def _ready(self, model: nn.Module) -> nn.Module:
        """The model on the device, tried on one image; what is frozen asks for no gradient."""
        model.to(self.device)
        channels, side = self.config.format.channels, self.config.side
        try:
            with torch.no_grad():
                logits = model.eval()(torch.zeros(1, channels, side, side, device=self.device))
        except Exception as error:  # a network of the user's may raise anything
            raise ValueError(
                f"{self.config.model} cannot take images of shape {(channels, side, side)}: "
                f"{brief(error)}; choose another task.model or task.image_size"
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (1, self.config.classes):
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.config.model} gives {shape} for one image; expected logits [1, {self.config.classes}], one for "
                "each class; task.options go to its constructor"
            )
        trained = set(self.config.chosen(model.state_dict()))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        classifier: Any = getattr(model, "get_classifier", None)  # what timm's networks have, and ours
        if classifier is None:
            raise ValueError(f"{self.config.model} has no method get_classifier() that gives its last layer")
        return list(classifier().parameters())

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        draws = self.images.draw(self._plan(seed, first_step, batch_size), seed, self._augmentation())
        return (self._batch(*draw) for draw in draws)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy."""
        self._hold(model)
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def _hold(self, model: nn.Module) -> None:
        """Where tensors are frozen, let the BatchNorm layers whose statistics are among them use these, so that a
        network is a function of its weights and the frozen tensors, in training as in evaluation.
        """
        if self.config.trainable:
            hold_statistics(model, self.config.chosen(model.state_dict()))

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        model.eval()
        return evaluate(model, self._evaluation(split))

    def held_out(self) -> Batch:
        """Images that are never trained on, as networks take them: the first of those for validation."""
        return next(self._evaluation("validation"))

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

    def test_images(self) -> Iterator[Tensor]:
        """The test images in their order as networks take them: float32 (B, C, side, side) on the device."""
        return (images for images, _ in self._evaluation("test"))

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
        from zoo.data import augment

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
