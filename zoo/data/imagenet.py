"""ImageNet-1K: photographs that stay in their files and are decoded by worker processes when asked for.

timm's readers and transforms are imported here only.

Shape suffixes: N images, B images of a batch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform
from timm.data.readers import create_reader
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.images import FORMATS, Split, check_same_classes, standardize
from zoo.data.loading import Draw, keys, load, loader_workers
from zoo.data.pictures import read_picture
from zoo.data.tables import Rows, open_cached, shards
from zoo.errors import Corrupt, MissingData, brief
from zoo.seeds import cpu_seed
from zoo.tasks.base import Batch

REPO = "ILSVRC/imagenet-1k"
SORT = "the validation images come in one folder and have to be sorted: https://image-net.org says how"

Reader = Any  # timm's: reader[i] is (open file, label), reader.filename(i) its name
Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, eq=False)
class Photos:
    """Photographs and their labels int64 (N,), of two splits that are found when they are needed: who scores needs no
    training images. `preparation` says how they become network inputs: `input_size` (channels, rows, columns), `mean`,
    `std`, `crop_pct`, `crop_mode`, `interpolation`.
    """

    find: Callable[[Split], tuple[Reader, Tensor]]
    preparation: Mapping[str, Any]
    workers: int = field(default_factory=loader_workers)

    @property
    def train_labels(self) -> Tensor:
        return self.find("train")[1]

    @property
    def test_labels(self) -> Tensor:
        return self.find("test")[1]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the same shape on the same device, standardised per channel."""
        return standardize(images, self.preparation["mean"], self.preparation["std"])

    def draw(self, plan: Iterable[Draw], seed: int, augment: Transform) -> Iterator[Batch]:
        """The planned training batches; the draws for an image depend on (seed, epoch, its index) alone, whichever
        worker makes them.
        """
        return self._load(_Decoded(*self.find("train"), augment, seed), keys(plan))

    def plain(self, split: Split, index: Tensor, batch_size: int) -> Iterator[Batch]:
        """Images uint8 (B, 3, H, W) and labels int64 (B,) at these indices, in their order, prepared as timm prepares
        them for evaluation.
        """
        transform = create_transform(**self.preparation, is_training=False, normalize=False)
        reader, labels = self.find(split)
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
            with self.reader[i][0] as file:
                image = read_picture(file)
        except (OSError, ValueError) as error:
            raise Corrupt(f"image {i} ({self.reader.filename(i)}) cannot be decoded: {brief(error, 120)}") from error
        with cpu_seed(self.seed, "augment", epoch, i):
            return self.transform(image), self.labels[i]


class Parquet:
    """A split in parquet files, as timm's readers are used: item i is (open file, label)."""

    def __init__(self, files: Sequence[Path], split: str) -> None:
        """Raises Corrupt for files that are not as expected."""
        self.rows = Rows(files)
        names = {"train": "validation", "validation": "train"}
        check_same_classes(self.rows, files[0].parent, names[split])
        self._dataset = open_cached(files, self.rows.image)

    def __getitem__(self, i: int) -> tuple[io.BytesIO, int]:
        row = self._dataset[i]
        picture = row[self.rows.image]
        data = picture.get("bytes") if isinstance(picture, dict) else picture
        return io.BytesIO(data or b""), row[self.rows.label]

    def filename(self, i: int) -> str:
        return self.rows.where(i)

    def labels(self) -> list[object]:
        """All of them, without reading an image."""
        return [label for batch in self.rows.batches([self.rows.label]) for label in batch.column(0).to_pylist()]


def class_folders() -> list[str]:
    """How the folders of ImageNet's classes are called, in the order of their labels."""
    names: list[str] = ImageNetInfo().label_names()
    return names[: FORMATS["imagenet"].classes]


def load_photos(data_root: Path | None, preparation: Mapping[str, Any]) -> Photos:
    """ImageNet-1K from the first of these that is there: folders of JPEGs in `data_root/imagenet`, parquet files in
    `data_root/imagenet-1k`, and, without a data root, the Hub.

    Parquet files, local or the Hub's, are unpacked once into the cache of `datasets` (150 GB). Finding a split raises
    MissingData when it is not there, Corrupt unless it has all 1000 classes under their names.
    """
    return Photos(cache(partial(_find, data_root=data_root)), preparation)


def _find(split: Split, data_root: Path | None) -> tuple[Reader, Tensor]:
    reader = _open({"test": "validation"}.get(split, split), data_root)
    return reader, _labels(reader, split)


def _open(split: str, data_root: Path | None) -> Reader:
    layout = (
        "expected DIR/imagenet/{train,val}/<wnid>/*.JPEG, as of https://image-net.org/download.php, or "
        f"DIR/imagenet-1k/data/{{train,validation}}-*.parquet from https://huggingface.co/datasets/{REPO}, and "
        f"--data-root DIR; or no data root at all, after `hf auth login`, to download it (150 GB)"
    )
    if data_root is None:
        try:
            return create_reader(f"hfds/{REPO}", split=split)
        except OSError as error:
            raise MissingData(f"cannot get {REPO} ({brief(error, 120)}); {layout}") from error
    folder = data_root / "imagenet" / {"validation": "val"}.get(split, split)
    if folder.is_dir():
        return _open_folder(folder)
    if files := shards(data_root / "imagenet-1k" / "data", split):
        return Parquet(files, split)
    raise MissingData(f"no ImageNet ({split}) in {data_root}; {layout}")


def _open_folder(folder: Path) -> Reader:
    """Raises Corrupt unless the folders in it are those of ImageNet's classes: with one of another name, all after it
    would be numbered otherwise than in pretrained weights.
    """
    expected = class_folders()
    found = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    lost, odd = [name for name in expected if name not in found], sorted(found - set(expected))
    if lost or odd:
        known = f"; it has {len(odd)} others: {', '.join(odd[:3])}" if odd else ""
        raise Corrupt(
            f"{folder} has no folder for {len(lost)} classes: {', '.join(lost[:3])}{known}; expected {len(expected)} "
            f"folders, called as the classes are ({SORT})"
        )
    try:
        reader = create_reader("", root=str(folder), class_map={name: i for i, name in enumerate(expected)})
    except (RuntimeError, ValueError, OSError) as error:  # folders without images
        raise Corrupt(f"there are no images in the folders of {folder} ({brief(error, 80)}; {SORT})") from error
    reader.samples = [(path, label) for path, label in reader.samples if not Path(path).name.startswith(".")]
    return reader


def _labels(reader: Reader, split: str) -> Tensor:
    """int64 (N,) without decoding an image. Raises Corrupt unless they are the classes of ImageNet-1K, all of them:
    with some left out, the others would be numbered differently than in the pretrained weights.
    """
    if isinstance(reader, Parquet):
        labels = reader.labels()
    elif hasattr(reader, "samples"):
        labels = [label for _, label in reader.samples]
    else:
        labels = reader.dataset.with_format("numpy")["label"][:].tolist()  # not row by row
    expected = FORMATS["imagenet"].classes
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < expected:
            given = "no label" if label is None else f"label {str(label)[:40]}"
            raise Corrupt(f"{reader.filename(i)} has {given}; expected one from 0 to {expected - 1}")
    if len(found := set(labels)) < expected:
        raise Corrupt(f"ImageNet ({split}) has images of {len(found)} classes; expected {expected}")
    return torch.tensor(labels, dtype=torch.int64)
