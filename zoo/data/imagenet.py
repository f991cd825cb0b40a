"""ImageNet-1K: photographs that stay in their files and are decoded by worker processes when asked for.

timm's readers and transforms are imported here only.

Shape suffixes: N images, B images of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.readers import create_reader
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.images import FORMATS, standardize
from zoo.data.loading import Draw, keys, load, loader_workers
from zoo.errors import Corrupt, MissingData
from zoo.seeds import cpu_seed
from zoo.tasks.base import Batch

REPO = "ILSVRC/imagenet-1k"

Reader = Any  # timm's: reader[i] is (open file, label), reader.filename(i) its name
Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, eq=False)
class Photos:
    """Photographs and their labels int64 (N,). `preparation` says how they become network inputs: `input_size`
    (channels, rows, columns), `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation`.
    """

    train: Reader
    train_labels: Tensor
    test: Reader
    test_labels: Tensor
    preparation: Mapping[str, Any]
    workers: int = field(default_factory=loader_workers)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the same shape on the same device, standardised per channel."""
        return standardize(images, self.preparation["mean"], self.preparation["std"])

    def draw(self, plan: Iterable[Draw], seed: int, augment: Transform) -> Iterator[Batch]:
        """The planned training batches; the draws for an image depend on (seed, epoch, its index) alone, whichever
        worker makes them.
        """
        return self._load(_Decoded(self.train, self.train_labels, augment, seed), keys(plan))

    def plain(self, split: Literal["train", "test"], index: Tensor, batch_size: int) -> Iterator[Batch]:
        """Images uint8 (B, 3, H, W) and labels int64 (B,) at these indices, in their order, prepared as timm prepares
        them for evaluation.
        """
        transform = create_transform(**self.preparation, is_training=False, normalize=False)
        reader, labels = (self.test, self.test_labels) if split == "test" else (self.train, self.train_labels)
        batches = ([(0, i) for i in part.tolist()] for part in index.split(batch_size))
        return self._load(_Decoded(reader, labels, transform, seed=0), batches)

    def fingerprint(self) -> str:
        """8 hexadecimal digits that change with the test labels, their order, and the preparation. Not with pixels:
        that would read all files.
        """
        digest = hashlib.sha256(repr(sorted(self.preparation.items())).encode())
        digest.update(self.test_labels.numpy().data)
        return digest.hexdigest()[:8]

    def _load(self, dataset: _Decoded, batches: Iterator[list[tuple[int, int]]]) -> Iterator[Batch]:
        return ((images, labels) for images, labels in load(dataset, batches, self.workers))


@dataclass(frozen=True, eq=False)
class _Decoded(Dataset[tuple[Tensor, Tensor]]):
    """Item (epoch, i) is photograph i, transformed by draws that depend on (seed, epoch, i), and its label."""

    reader: Reader
    labels: Tensor
    transform: Transform
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = key
        # Not timm's ImageDataset: it replaces an image that cannot be read by the next one.
        try:
            with self.reader[i][0] as file, Image.open(file) as encoded:
                image = encoded.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())[:120]
            raise Corrupt(f"image {i} ({self.reader.filename(i)}) cannot be decoded: {reason}") from error
        with cpu_seed(self.seed, "augment", epoch, i):
            return self.transform(image), self.labels[i]


def load_photos(data_root: Path | None, preparation: Mapping[str, Any]) -> Photos:
    """ImageNet-1K from the first of these that is there: folders of JPEGs in `data_root/imagenet`, parquet files in
    `data_root/imagenet-1k`, and, without a data root, the Hub.

    Parquet files, local or the Hub's, are unpacked once into the cache of `datasets` (150 GB). Raises MissingData when
    there is none, Corrupt unless both splits have all 1000 classes.
    """
    train, test = _open("train", data_root), _open("validation", data_root)
    return Photos(train, _labels(train, "train"), test, _labels(test, "validation"), preparation)


def _open(split: str, data_root: Path | None) -> Reader:
    layout = (
        "expected DIR/imagenet/{train,val}/<wnid>/*.JPEG, as of https://image-net.org/download.php, or "
        f"DIR/imagenet-1k/data/{{train,validation}}-*.parquet from https://huggingface.co/datasets/{REPO}, and "
        f"--data-root DIR; or no data root at all, after `hf auth login`, to download it (150 GB)"
    )
    if data_root is None:
        name, root = f"hfds/{REPO}", None
    elif (folder := data_root / "imagenet" / {"validation": "val"}.get(split, split)).is_dir():
        name, root = "", str(folder)
    elif any((data_root / "imagenet-1k" / "data").glob(f"{split}-*.parquet")):
        name, root = f"hfds/{data_root / 'imagenet-1k'}", None
    else:
        raise MissingData(f"no ImageNet ({split}) in {data_root}; {layout}")
    try:
        return create_reader(name, root=root, split=split)
    except OSError as error:
        if data_root is not None:
            raise Corrupt(f"{data_root} cannot be read: {' '.join(str(error).split())[:160]}") from error
        raise MissingData(f"cannot get {REPO} ({' '.join(str(error).split())[:120]}); {layout}") from error
    except (RuntimeError, ValueError) as error:  # a folder without images; damaged parquet
        raise Corrupt(f"{root or name} cannot be read: {' '.join(str(error).split())[:160]}") from error


def _labels(reader: Reader, split: str) -> Tensor:
    """int64 (N,) without decoding an image. Raises Corrupt unless they are the classes of ImageNet-1K, all of them:
    with some left out, the others would be numbered differently than in the pretrained weights.
    """
    if hasattr(reader, "samples"):
        labels = np.asarray([label for _, label in reader.samples])
    else:
        labels = np.asarray(reader.dataset.with_format("numpy")["label"][:])  # not row by row
    found, expected = np.unique(labels), FORMATS["imagenet"].classes
    if not np.array_equal(found, np.arange(expected)):
        raise Corrupt(
            f"ImageNet ({split}) has {len(found)} classes; expected {expected}, each in a folder of its own (the "
            "validation images come in one folder and have to be sorted: https://image-net.org says how)"
        )
    return torch.from_numpy(labels.astype(np.int64))
