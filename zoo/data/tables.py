"""Data sets as tables of rows: parquet files of one data set, whole, and the Hub. Only this file imports `datasets`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from glob import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from zoo.errors import Corrupt, MissingData, brief
from zoo.index import open_parquet

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?\.parquet")
IMAGES = ("img", "image")
LABELS = ("label", "labels")
ROWS = 1000  # read at a time
UNREADABLE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError)  # pyarrow's are among these


def shards(folder: Path, split: str) -> list[Path]:
    """The parquet files of a split in a folder, in their order; none if there are none.

    Raises Corrupt, with the file's name, unless they are the parts of one data set, each of them once.
    """
    named = folder.glob(f"{escape(split)}-*.parquet")
    files = sorted(path for path in named if not path.name.startswith("."))
    parts = {path: SHARD.fullmatch(path.name) for path in files}
    expected = f"expected {split}-00000-of-00001.parquet, or as many parts as their names say"
    if odd := [path for path, match in parts.items() if match is None]:
        raise Corrupt(f"{odd[0]} is not a part of the data set by its name; {expected}, and nothing else")
    counts = {path: (int(match[3]), match[4]) for path, match in parts.items() if match}
    if len(set(counts.values())) > 1:
        other = next(path for path in files if counts[path] != counts[files[0]])
        raise Corrupt(f"{files[0]} and {other.name} are parts of different versions; {expected}, and nothing else")
    numbers = [int(match[2]) for match in parts.values() if match]
    for number in range(counts[files[0]][0] if files else 0):
        if number not in numbers:
            raise Corrupt(f"{folder}/{split}-{number:05d}-of-{counts[files[0]][0]:05d}.parquet is missing; {expected}")
    if len(numbers) > (counts[files[0]][0] if files else 0):
        raise Corrupt(f"{files[-1]} is one part too many; {expected}")
    return files


class NoColumn(Corrupt):
    """There is no column of such a name: where the name came from the user, bad input."""


class Rows:
    """The images and labels of parquet files, a batch at a time, and where each row is."""

    def __init__(self, files: Sequence[Path], labels: Sequence[str] = LABELS, images: Sequence[str] = IMAGES) -> None:
        """`labels` and `images` are how their columns may be called. Raises Corrupt for files that cannot be read,
        NoColumn for those without columns of images and labels.
        """
        self.files = list(files)
        self._open = []
        for path in self.files:
            try:
                self._open.append(open_parquet(path))
            except UNREADABLE as error:
                raise Corrupt(f"{path} cannot be read: {brief(error)}") from error
        self.starts = [0, *accumulate(file.metadata.num_rows for file in self._open)]
        found = [
            columns(file.schema_arrow.names, path, labels, images) for file, path in zip(self._open, files, strict=True)
        ]
        self.image, self.label = found[0]
        if len(set(found)) > 1:
            raise Corrupt(f"{files[0]} and {files[-1]} have columns of other names; expected parts of one data set")

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their labels, where the files say so. Raises Corrupt where they say other things
        of them.
        """
        found = {_class_names(file.schema_arrow.metadata, self.label) for file in self._open} - {None}
        if len(found) > 1:
            raise Corrupt(f"{self.files[0]} and the files beside it number other classes; expected one data set")
        return found.pop() if found else None

    def where(self, row: int) -> str:
        """The file of a row of all, and its number there."""
        number = max((i for i, start in enumerate(self.starts[:-1]) if start <= row), default=0)
        return f"row {row - self.starts[number]} of {self.files[number]}"

    def batches(self, columns: Sequence[str] = ()) -> Iterator[Any]:
        """Arrow record batches of both columns, or of these, in order. Raises Corrupt."""
        for path, file in zip(self.files, self._open, strict=True):
            try:
                yield from file.iter_batches(batch_size=ROWS, columns=list(columns or (self.image, self.label)))
            except UNREADABLE as error:
                raise Corrupt(f"{path} cannot be read: {brief(error)}") from error


def columns(
    names: Sequence[str], where: object, labels: Sequence[str] = LABELS, images: Sequence[str] = IMAGES
) -> tuple[str, str]:
    """The columns of images and labels. Raises NoColumn, with the columns that are there and those expected."""
    image = next((name for name in images if name in names), None)
    found = next((name for name in labels if name in names), None)
    if image is None or found is None:
        raise NoColumn(
            f"{where} has the columns {', '.join(names)[:200]}; expected images in {' or '.join(images)} and labels in "
            f"{' or '.join(labels)}"
        )
    return image, found


def _class_names(metadata: Any, label: str) -> tuple[str, ...] | None:
    """What the Hub's tools write into parquet files about the classes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def encoded(batch: Any, image: str, label: str) -> Iterator[tuple[bytes | None, object]]:
    """The files of images and the labels of an Arrow table or batch, as they are."""
    pictures = batch.column(image).to_pylist()
    for picture, number in zip(pictures, batch.column(label).to_pylist(), strict=True):
        data = picture.get("bytes") if isinstance(picture, dict) else picture
        yield data if isinstance(data, bytes) else None, number


def open_cached(files: Sequence[Path], image: str) -> Any:
    """Parquet files as a data set with rows at random, whose images are bytes of their files: unpacked once into the
    cache of `datasets`. Raises Corrupt.
    """
    datasets = _datasets()
    try:
        found = datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train")
        return found.cast_column(image, datasets.Image(decode=False))
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        raise Corrupt(f"{files[0]} and the files beside it cannot be read: {brief(error)}") from error


def open_hub(repo: str, split: str, otherwise: str, config: str | None = None) -> Any:
    """A split of a data set on the Hugging Face Hub, downloaded. Raises MissingData where that is out of reach, which
    says what to do `otherwise`; ValueError for a split or configuration that it has not.
    """
    try:
        return _datasets().load_dataset(repo, config, split=split)
    except ValueError as error:
        raise ValueError(f"{repo} of the Hugging Face Hub cannot be read so: {brief(error)}") from error
    except OSError as error:
        raise MissingData(
            f"cannot get {repo} from the Hugging Face Hub ({brief(error, 120)}); without network, {otherwise}"
        ) from error


def undecoded_images(dataset: Any, column: str) -> Any:
    """The data set with the images of a column as bytes of their files."""
    return dataset.cast_column(column, _datasets().Image(decode=False))


def _datasets() -> Any:
    """The library, without its bars and warnings."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets
