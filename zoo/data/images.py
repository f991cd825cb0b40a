"""Small labelled images, whole data sets as plain tensors. scikit-learn is imported here only.

Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo.data.loading import Draw
from zoo.data.tables import open_hub, open_parquet, undecoded_images
from zoo.errors import Corrupt, MissingData
from zoo.seeds import cpu_seed, generator
from zoo.tasks.base import Batch

Name = Literal["digits", "cifar10", "cifar100"]


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


@dataclass(frozen=True)
class Source:
    """Where a data set is on the Hub: repository, folder of its parquet files, column of the labels."""

    repo: str
    folder: str
    label: str


SOURCES: dict[Name, Source] = {
    "cifar10": Source("uoft-cs/cifar10", "plain_text", "label"),
    "cifar100": Source("uoft-cs/cifar100", "cifar100", "fine_label"),
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
    """Images uint8 (N, C, H, W) and labels int64 (N,) on the CPU; mean and std per channel, of pixels in [0, 1]."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the same shape on the same device, standardised per channel."""
        return standardize(images, self.mean, self.std)

    def draw(self, plan: Iterable[Draw], seed: int, augment: Callable[[Tensor], Tensor]) -> Iterator[Batch]:
        """The planned training batches, augmented by draws that depend on (seed, epoch, number) alone."""
        for epoch, step, index in plan:
            with cpu_seed(seed, "augment", epoch, step):
                images = augment(self.train[index])
            yield images, self.train_labels[index]

    def plain(self, split: Literal["train", "test"], index: Tensor, batch_size: int) -> Iterator[Batch]:
        """Images uint8 (B, C, H, W) and labels int64 (B,) at these indices, in their order, as they are."""
        images, labels = (self.test, self.test_labels) if split == "test" else (self.train, self.train_labels)
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
    return Images(images[train], labels[train], images[test], labels[test], *STATISTICS["digits"], classes=10)


def _cifar(name: Name, data_root: Path | None) -> Images:
    train, train_labels = _cifar_split(name, "train", data_root)
    test, test_labels = _cifar_split(name, "test", data_root)
    return Images(train, train_labels, test, test_labels, *STATISTICS[name], FORMATS[name].classes)


def _cifar_split(name: Name, split: str, data_root: Path | None) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of `train` or `test`, in the order of the files."""
    source, classes = SOURCES[name], FORMATS[name].classes
    where = f"the {split} split of {name} in {data_root or source.repo}"
    try:
        dataset = _open_hub(name, split) if data_root is None else _open_local(name, split, data_root)
        images_NHWC, labels_N = _decode(dataset, source.label)
    except (OSError, ValueError) as error:  # pyarrow's and Pillow's errors are among these
        raise Corrupt(f"{where} cannot be read: {' '.join(str(error).split())[:200]}") from error
    found = np.unique(labels_N).tolist()
    if images_NHWC.shape[1:] != (32, 32, 3) or not set(found) <= set(range(classes)):
        raise Corrupt(
            f"{where} has images of shape {images_NHWC.shape[1:]} with labels {found[:12]}; "
            f"expected shape (32, 32, 3) and labels from 0 to {classes - 1}"
        )
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels_N)


def _open_local(name: Name, split: str, data_root: Path) -> Any:
    folder = data_root / name / SOURCES[name].folder
    files = sorted(map(str, folder.glob(f"{split}-*.parquet")))
    if not files:
        raise MissingData(
            f"no {split}-*.parquet in {folder}; expected {folder}/train-*.parquet and {folder}/test-*.parquet from "
            f"https://huggingface.co/datasets/{SOURCES[name].repo}, or no data root at all, to read them from there"
        )
    return open_parquet(files)


def _open_hub(name: Name, split: str) -> Any:
    source = SOURCES[name]
    otherwise = f"give --data-root DIR with DIR/{name}/{source.folder}/train-*.parquet and test-*.parquet from there"
    return open_hub(source.repo, split, otherwise)


def _decode(dataset: Any, label: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images (N, H, W, C) and labels (N,) of a data set with the columns `img` (encoded) and `label`."""
    if not {"img", label} <= set(dataset.column_names):
        raise ValueError(f"its columns are {', '.join(dataset.column_names)}; expected img and {label}")
    images, labels = [], []
    # Arrow tables, not rows: building a dictionary for each row would take longer than decoding its image.
    for table in undecoded_images(dataset, "img").with_format("arrow").iter(batch_size=1000):
        encoded = table["img"].combine_chunks().field("bytes").to_pylist()
        images.append(np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]))
        labels.append(table[label].to_numpy())
    if not images:
        raise ValueError("there are no images in it")
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)
