"""What a network is for, as D2NWG is told it: a few training images of every class, drawn anew each time.

Legend: N networks, C classes, K images that are kept of a class, F values of an image, E = C F values of an embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from rpg.conditions.frozen import image_features
from rpg.methods.base import TrainingSet
from rpg.methods.task_data import data_place
from zoo.checkpoint import load_tensors
from zoo.data.images import Images
from zoo.errors import Corrupt
from zoo.recipe import task_of
from zoo.seeds import generator
from zoo.structure import Frozen
from zoo.tasks.base import TaskConfig
from zoo.tasks.classification import ClassificationTask, ImagesConfig

NAME = "images"  # of the file and of the tensor in it
TYPICAL = (10, 3)  # classes and channels that an estimate, which knows no data set, takes
ENCODED = 512  # values of an image, as CLIP's smaller encoders give them


class DatasetConfig(Frozen):
    """Section `method.dataset:`. Of every class `kept` training images go with the run, shrunk to `pixels` a side, or
    as the frozen `encoder` sees them (CLIP: a directory, or a repository on the Hub); an embedding is the mean of
    `drawn` of them, class by class, as values.
    """

    kept: Annotated[int, Field(gt=0, le=2**12)] = 20
    drawn: Annotated[int, Field(gt=0)] = 5
    pixels: Annotated[int, Field(gt=0, le=2**8)] | None = 8
    encoder: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pixels is None) is (self.encoder is None):
            raise ValueError("images are shrunk to pixels, or seen by an encoder; set one of them, the other to null")
        return self

    def typical_size(self) -> int:
        """E of ten classes of colour images; of an encoder's, those of its usual size."""
        return TYPICAL[0] * (ENCODED if self.pixels is None else TYPICAL[1] * self.pixels**2)

    def seen(self, images: Images, chosen: Tensor) -> Tensor:
        """These of the training images, (K, F)."""
        if self.encoder is not None:
            plain = images.train[chosen].float() / 255
            return image_features(self.encoder, plain[:, :3].expand(-1, 3, -1, -1))  # without opacity
        assert self.pixels is not None
        found = images.normalize(images.train[chosen])
        return F.adaptive_avg_pool2d(found, min(self.pixels, found.shape[-1])).flatten(1)


def task_with_images(data: TrainingSet) -> TaskConfig:
    """The task of a zoo, where all its networks tell the classes of small images apart. Raises ValueError otherwise."""
    config = task_of(data.zoo.manifest.origin)
    otherwise = "expected a zoo of one data set of small images with labels, or take another method, such as p-diff"
    if not isinstance(config, ImagesConfig) or config.data == "imagenet":
        raise ValueError(f"d2nwg is told labelled images, and {data.zoo.path} is of task {config.name}; {otherwise}")
    if config.conditions():
        raise ValueError(
            f"the networks of {data.zoo.path} have labels of their own each; expected a zoo of one data set, or take "
            "a method that is told tasks, such as rpg-tiny-binary or cond-p-diff-small"
        )
    return config


def kept_images(data: TrainingSet, settings: DatasetConfig, data_root: Path | None, seed: int) -> Tensor:
    """Training images of every class, drawn at random, none of those for validation: float32 (C, K, F), over all of
    mean 0 and deviation 1.

    Raises MissingData or Corrupt for the data, ValueError for a class with too few images.
    """
    task = task_with_images(data).build(data_place(data_root), torch.device("cpu"))
    assert isinstance(task, ClassificationTask)
    assert isinstance(task.images, Images)
    labels, rng, found = task.images.train_labels[task.train_index], generator(seed, "images"), []
    for label in range(task.images.classes):
        members = task.train_index[labels == label]
        if len(members) < settings.kept:
            raise ValueError(
                f"class {label} has {len(members)} training images; expected {settings.kept} or more, or "
                f"--set method.dataset.kept={max(len(members), 1)}"
            )
        chosen = members[torch.randperm(len(members), generator=rng)[: settings.kept]]
        found.append(settings.seen(task.images, chosen))
    bank = torch.stack(found)
    return (bank - bank.mean()) / bank.std().clamp_min(1e-6)


def embeddings(bank: Tensor, drawn: int, generators: list[torch.Generator]) -> Tensor:
    """One embedding (E,) for each generator, (N, E): of every class of `bank` (C, K, F) the mean of `drawn` images,
    drawn at random without replacement.
    """
    means = []
    for rng in generators:
        chosen = torch.rand(bank.shape[:2], generator=rng).argsort(1)[:, :drawn]
        means.append(bank.gather(1, chosen[..., None].expand(-1, -1, bank.shape[2])).mean(1).flatten())
    return torch.stack(means)


def load_bank(path: Path) -> Tensor:
    """The images of a run, (C, K, F). Raises Corrupt for anything else."""
    bank = load_tensors(path).get(NAME)
    if bank is None or bank.dim() != 3 or bank.dtype != torch.float32 or not bank.isfinite().all():
        raise Corrupt(f"{path} does not hold the images of a run; remove {path.parent} and train again")
    return bank
