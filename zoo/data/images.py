"""Small labelled images, whole data sets as plain tensors. scikit-learn is imported here only.

Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.loading import Draw
from zoo.data.pictures import read_picture
from zoo.data.tables import IMAGES, Rows, columns, encoded, open_hub, shards, undecoded_images
from zoo.errors import Corrupt, MissingData
from zoo.seeds import cpu_seed, generator
from zoo.tasks.base import Batch

Name = Literal["digits", "cifar10", "cifar100"]
Split: TypeAlias = Literal["train", "test"]
Labelled: TypeAlias = tuple[Tensor, Tensor]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""


class Format(NamedTuple):
    """What the images of a data set look like: `size` pixels a side, for photographs the usual choice."""

    classes: int
    channels: int
    size: int


FORMATS = {
    "digits": Format(10, 1, 8),
    "cifar10": Format(10, 3, 32),
    "cifar100": Format(100, 3, 32),
    "imagenet": Format(1000, 3, 224),
}


CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "digits": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""What the classes are called, in the order of their labels."""


@dataclass(frozen=True)
class Source:
    """Where a data set is on the Hub: repository, folder of its parquet files, names of the column of labels."""

    repo: str
    folder: str
    labels: tuple[str, ...]


SOURCES: dict[Name, Source] = {
    "cifar10": Source("uoft-cs/cifar10", "plain_text", ("label", "labels")),
    "cifar100": Source("uoft-cs/cifar100", "cifar100", ("fine_label", "fine_labels")),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS_MEAN, DIGITS_STD = (0.3044,), (0.3752,)  # of the training images
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": (DIGITS_MEAN, DIGITS_STD),
    "cifar10": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar100": (IMAGENET_MEAN, IMAGENET_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
}
"""Mean and standard deviation per channel, of pixels in [0, 1], for networks that start from nothing."""
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Images:
    """Images uint8 (N, C, H, W) and labels int64 (N,) on the CPU, of two splits that are read when they are needed:
    who scores needs no training images. Mean and std per channel, of pixels in [0, 1]. The last `validation` of the
    training images are for validation, where the data say which.
    """

    read: Callable[[Split], Labelled]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    validation: int = 0

    @classmethod
    def of(
        cls, train: Labelled, test: Labelled, mean: tuple[float, ...], std: tuple[float, ...], classes: int
    ) -> Images:
        """Images that are in memory already."""
        return cls({"train": train, "test": test}.__getitem__, mean, std, classes)

    @property
    def train(self) -> Tensor:
        return self.read("train")[0]

    @property
    def train_labels(self) -> Tensor:
        return self.read("train")[1]

    @property
    def test(self) -> Tensor:
        return self.read("test")[0]

    @property
    def test_labels(self) -> Tensor:
        return self.read("test")[1]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the same shape on the same device, standardised per channel."""
        return standardize(images, self.mean, self.std)

    def draw(self, plan: Iterable[Draw], seed: int, augment: Callable[[Tensor], Tensor]) -> Iterator[Batch]:
        """The planned training batches, augmented by draws that depend on (seed, epoch, number) alone."""
        for epoch, step, index in plan:
            with cpu_seed(seed, "augment", epoch, step):
                images = augment(self.train[index])
            yield images, self.train_labels[index]

    def plain(self, split: Split, index: Tensor, batch_size: int) -> Iterator[Batch]:
        """Images uint8 (B, C, H, W) and labels int64 (B,) at these indices, in their order, as they are."""
        images, labels = self.read(split)
        for part in index.split(batch_size):
            yield images[part], labels[part]

    def fingerprint(self) -> str:
        """8 hexadecimal digits that change with any pixel, label or order of the test data, or the normalisation."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        digest.update(self.test.numpy().data)
        digest.update(self.test_labels.numpy().data)
        return digest.hexdigest()[:8]


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels from 0 to 255 (N, C, H, W) -> float32 of the same shape on the same device, standardised per channel."""
    mean_C11 = torch.tensor(mean, device=images.device)[:, None, None]
    std_C11 = torch.tensor(std, device=images.device)[:, None, None]
    return (images.float() / 255 - mean_C11) / std_C11


def load_images(name: Name, data_root: Path | None) -> Images:
    """A data set by name.

    - `digits`: scikit-learn's 1,797 handwritten digits, 1 x 8 x 8; a stratified third of them is the test set.
    - `cifar10`, `cifar100` (fine labels): 3 x 32 x 32, from parquet files under `data_root`, or from the Hub without
      one. Standardised with ImageNet's statistics, as in RPG's published code.

    Raises MissingData when files are not there, Corrupt when they are not what they should be.
    """
    return _digits() if name == "digits" else _cifar(name, data_root)


def stratified_split(labels: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split indices at random, class by class: labels int64 (N,) -> sorted int64 indices (rest, taken).

    `taken` gets `share` of each class, rounded to whole images.
    """
    taken_N = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=rng)
        taken_N[members[order[: round(share * len(members))]]] = True
    return (~taken_N).nonzero().squeeze(1), taken_N.nonzero().squeeze(1)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images)[:, None].mul(255 / 16).round().to(torch.uint8)  # values are 0 to 16
    labels = torch.from_numpy(digits.target).to(torch.int64)
    train, test = stratified_split(labels, 1 / 3, generator(DIGITS_SPLIT_SEED, "digits", "test"))
    return Images.of(
        (images[train], labels[train]), (images[test], labels[test]), *STATISTICS["digits"], FORMATS["digits"].classes
    )


def _cifar(name: Name, data_root: Path | None) -> Images:
    read = cache(partial(_cifar_split, name, data_root=data_root))
    return Images(read, *STATISTICS[name], FORMATS[name].classes)


def _cifar_split(name: Name, split: Split, data_root: Path | None) -> Labelled:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of `train` or `test`, in the order of the files."""
    if data_root is None:
        where = f"{SOURCES[name].repo} ({split})"
        return _decoded_cifar(_hub_rows(name, split), lambda row: f"row {row} of {where}", FORMATS[name])
    found = _local(name, split, data_root)
    rows = (row for batch in found.batches() for row in encoded(batch, found.image, found.label))
    return _decoded_cifar(rows, found.where, FORMATS[name])


def _local(name: Name, split: Split, data_root: Path) -> Rows:
    """The files of a split. Raises MissingData when there are none, Corrupt when they are not whole or number the
    classes otherwise than those of the other split.
    """
    folder = data_root / name / SOURCES[name].folder
    files = shards(folder, split)
    if not files:
        raise MissingData(
            f"no {split}-*.parquet in {folder}; expected {folder}/train-*.parquet and {folder}/test-*.parquet from "
            f"https://huggingface.co/datasets/{SOURCES[name].repo}, or no data root at all, to read them from there"
        )
    found = Rows(files, SOURCES[name].labels)
    check_same_classes(found, folder, "train" if split == "test" else "test")
    return found


def check_same_classes(found: Rows, folder: Path, split: str) -> None:
    """Raise Corrupt if files of another split in a folder number the classes otherwise than these do, where both say
    how. Whether that split is there and whole is for who needs it.
    """
    try:
        other = Rows(files, (found.label,), (found.image, *IMAGES)) if (files := shards(folder, split)) else None
        theirs = other.class_names if other else None
    except Corrupt:
        return
    mine = found.class_names
    if other and mine and theirs and mine != theirs:
        pairs = enumerate(zip_longest(mine, theirs, fillvalue="no class"))
        number, (one, two) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        raise Corrupt(
            f"label {number} is {one!r} in {found.files[0]}, but {two!r} in {other.files[0]}; expected one data set"
        )


def _open_hub(name: Name, split: str) -> Any:
    source = SOURCES[name]
    otherwise = f"give --data-root DIR with DIR/{name}/{source.folder}/train-*.parquet and test-*.parquet from there"
    return open_hub(source.repo, split, otherwise)


def _hub_rows(name: Name, split: Split) -> Iterator[tuple[bytes | None, object]]:
    dataset = _open_hub(name, split)
    image, label = columns(dataset.column_names, SOURCES[name].repo, SOURCES[name].labels)
    # Arrow tables, not rows: building a dictionary for each row would take longer than decoding its image.
    for table in undecoded_images(dataset, image).with_format("arrow").iter(batch_size=1000):
        yield from encoded(table, image, label)


def _decoded_cifar(
    rows: Iterable[tuple[bytes | None, object]], where: Callable[[int], str], expected: Format
) -> Labelled:
    def pixels(file: IO[bytes] | Path) -> NDArray[np.uint8]:
        image = np.asarray(read_picture(file))
        if image.shape != (expected.size, expected.size, 3):
            raise ValueError(f"it has shape {image.shape}; expected {(expected.size, expected.size, 3)}")
        return image

    return decoded(rows, where, expected.classes, pixels)


def decoded(
    rows: Iterable[tuple[bytes | Path | None, object]],
    where: Callable[[int], str],
    classes: int,
    pixels: Callable[[IO[bytes] | Path], NDArray[np.uint8]],
) -> Labelled:
    """Images uint8 (N, C, H, W) and labels int64 (N,) of files, or their bytes, and labels. `pixels` decodes a file to
    (H, W, C). Raises Corrupt, with the row, for one that is none.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for row, (data, label) in enumerate(rows):
        if type(label) is not int or not 0 <= label < classes:
            given = "no label" if label is None else f"label {str(label)[:40]}"
            raise Corrupt(f"{where(row)} has {given}; expected one from 0 to {classes - 1}")
        if data is None:
            raise Corrupt(f"{where(row)} has no image; expected one in its bytes")
        try:
            images.append(pixels(io.BytesIO(data) if isinstance(data, bytes) else data))
        except (ValueError, OSError) as error:
            raise Corrupt(f"the image in {where(row)} cannot be decoded: {error}") from error
        labels.append(label)
    if not images:
        raise Corrupt(f"{where(0)} is not there: there are no images at all")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
