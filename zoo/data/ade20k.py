"""ADE20K (SceneParsing benchmark): photographs and label maps that stay in their files and are read when asked for.

Shape suffixes: B images of a batch, H rows and W columns of an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from evaluators.segmentation import IGNORE
from zoo.data.loading import Draw, keys, load, loader_workers
from zoo.data.pictures import read_picture
from zoo.errors import Corrupt, MissingData, brief, suggest
from zoo.networks import openmmlab
from zoo.seeds import library_seed

FOLDER = "ADEChallengeData2016"
SOURCE = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
CATEGORIES = 150
LAYOUT = (
    f"expected DIR/{FOLDER}/{{images,annotations}}/{{training,validation}} with NAME.jpg and NAME.png, as in {SOURCE} "
    "(1 GB), and --data-root DIR; `rpg-zoo fetch ade20k DIR` gets it"
)

Pair: TypeAlias = tuple[Path, Path]
"""A photograph and its label map."""
Sample: TypeAlias = tuple[Tensor, Tensor]
"""An image uint8 (3, h, w), blue first, and labels uint8 (H, W)."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """The photographs of both splits, of which `table`, uint8 (256,), turns stored labels into classes."""

    train: Sequence[Pair]
    test: Sequence[Pair]
    table: NDArray[np.uint8]
    crop: int
    workers: int = field(default_factory=loader_workers)

    def draw(self, plan: Iterable[Draw], seed: int) -> Iterator[list[Sample]]:
        """The planned training batches, each image cropped to at most `crop` pixels a side with its labels; the draws
        for an image depend on (seed, epoch, its index) alone. Raises Corrupt.
        """
        transform = openmmlab.training_transform(self.crop)
        return load(_Read(self.train, self.table, transform, seed), keys(plan), self.workers, list)

    def plain(self, split: str, index: Tensor) -> Iterator[Sample]:
        """The images at these indices of split "train" or "test", one at a time, resized as for evaluation; their
        labels are not. Raises Corrupt.
        """
        pairs = self.test if split == "test" else self.train
        read = _Read(pairs, self.table, openmmlab.test_transform(self.crop), seed=0)
        return load(read, ([(0, i)] for i in index.tolist()), self.workers, _only)

    def fingerprint(self) -> str:
        """8 hexadecimal digits that change with the names and label maps of the test images, and with the classes."""
        digest = hashlib.sha256(self.table.tobytes())
        for image, labels in self.test:
            digest.update(image.name.encode() + hashlib.sha256(labels.read_bytes()).digest())
        return digest.hexdigest()[:8]


def _only(samples: list[Sample]) -> Sample:
    return samples[0]


@dataclass(frozen=True, eq=False)
class _Read(Dataset[Sample]):
    """Item (epoch, i) is photograph i, transformed by draws that depend on (seed, epoch, i), with its labels."""

    pairs: Sequence[Pair]
    table: NDArray[np.uint8]
    transform: openmmlab.Transform
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, i = key
        photograph, map = self.pairs[i]
        labels = read_labels(map)
        try:
            image = openmmlab.read_image(photograph)
        except (OSError, ValueError) as error:
            raise Corrupt(f"{photograph} cannot be decoded: {brief(error, 120)}") from error
        if image.shape[:2] != labels.shape:
            raise Corrupt(f"{photograph} is {image.shape[:2]} pixels, but its label map {map.name} is {labels.shape}")
        with library_seed(self.seed, "augment", epoch, i):
            image, labels = self.transform(image, self.table[labels])
        return _tensor(image.transpose(2, 0, 1)), _tensor(labels)


def _tensor(array: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """A label map as it is stored, (H, W): 0 for none, or 1 to 150. Raises Corrupt when it is no such map."""
    try:
        labels = np.asarray(read_picture(path, None))
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be decoded: {brief(error, 120)}") from error
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.max(initial=0) > CATEGORIES:
        what = f"labels up to {labels.max(initial=0)}" if labels.dtype == np.uint8 else f"values of type {labels.dtype}"
        what = what if labels.ndim == 2 else f"{labels.shape[-1]} channels"
        raise Corrupt(
            f"{path} has {what}; expected one channel of 8 bits with labels from 0 to {CATEGORIES}, those of {SOURCE}"
        )
    return labels


def class_numbers(classes: Sequence[str], known: Sequence[str]) -> list[int]:
    """Which of the `known` classes these are, counted from 0; all of them if none is named.

    Raises ValueError for a name that is not known, or one given twice.
    """
    names = [name.strip() for name in known]  # one of ADE20K's ends with a blank
    for name in classes:
        if name not in names:
            raise ValueError(f"task.classes has {name!r}, which is no class of these data{suggest(name, names)}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"task.classes {', '.join(classes)} has one twice; expected each once")
    return [names.index(name) for name in classes or names]


def label_table(classes: Sequence[str], known: Sequence[str]) -> NDArray[np.uint8]:
    """What class each stored label is, uint8 (256,): its number in `classes`, or IGNORE. Raises as `class_numbers`."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    for number, stored in enumerate(class_numbers(classes, known)):
        table[stored + 1] = number
    return table


def load_scenes(data_root: Path | None, classes: Sequence[str], known: Sequence[str], crop: int) -> Scenes:
    """The photographs in `data_root/ADEChallengeData2016`, in the order of their names; stored labels are numbers of
    the `known` classes.

    Raises MissingData when they are not there, Corrupt for one without its label map, ValueError for other classes.
    """
    table = label_table(classes, known)
    if data_root is None:
        raise MissingData(f"ADE20K has to be downloaded; {LAYOUT}")
    folder = data_root / FOLDER
    return Scenes(_pairs(folder, "training"), _pairs(folder, "validation"), table, crop)


def _pairs(folder: Path, split: str) -> list[Pair]:
    images, annotations = folder / "images" / split, folder / "annotations" / split
    found = [(image, annotations / f"{image.stem}.png") for image in sorted(images.glob("[!.]*.jpg"))]
    if not found or not annotations.is_dir():
        raise MissingData(f"no ADE20K ({split}) in {folder}; {LAYOUT}")
    stored = {path.name for path in annotations.glob("[!.]*.png")}
    for image, map in found:
        if map.name not in stored:
            raise Corrupt(f"{image} has no label map {map}; {LAYOUT}")
    if lone := sorted(stored - {map.name for _, map in found}):
        raise Corrupt(f"{annotations / lone[0]} has no photograph in {images}; {LAYOUT}")
    return found
