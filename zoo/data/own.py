"""Image data sets of the user's own, whole in memory at one size: a folder for each class, or any data set of the Hub.

Shape suffixes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import IO, Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from zoo.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Images,
    Labelled,
    Split,
    check_same_classes,
    decoded,
    stratified_split,
)
from zoo.data.pictures import read_picture
from zoo.data.tables import NoColumn, Rows, columns, encoded, open_hub, shards, undecoded_images
from zoo.errors import MissingData
from zoo.seeds import Seed, generator
from zoo.structure import Frozen

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["folder", "hub"]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_BYTES = 2**34
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"
"""No part begins with a dot, so that a name from anyone stays under the data root."""
SPLIT = r"^[A-Za-z0-9_][A-Za-z0-9_.:%+\[\]-]*$"
"""One part of a file's name. The Hub takes slices, too: `train[:80%]`."""
Named: TypeAlias = Annotated[str, Field(pattern=NAME, max_length=200)]
NamedSplit: TypeAlias = Annotated[str, Field(pattern=SPLIT, max_length=200)]


class DatasetConfig(Frozen):
    """Section `task.dataset:` of a recipe, for `data: folder` and `data: hub`.

    - `name`: of `folder`, a directory under the data root; of `hub`, the repository, as in `user/flowers`.
    - `classes`: how many. Their labels are the order of the folders' names, or the Hub's.
    - `size`: pixels a side that pictures are brought to: `crop` resizes the shorter side and takes the centre,
      `stretch` resizes both.
    - `channels`: 1 (grey), 3 (colour), or 4 (with opacity). Where opacity is given up, white is what shows through.
    - `mean`, `std`: per channel, of pixels in [0, 1]; ImageNet's for colour and 0.5 for others by default.
    - `test`, `seed`: the share of each class that is taken for testing where the data have no test split, and the seed
      of the draw.
    - `config`, `image`, `label`, `train_split`, `test_split`: of `hub`, the configuration, the columns and the splits;
      with `test_split: null` a share of the training split is taken.
    """

    name: Named
    classes: Annotated[int, Field(ge=2, le=100_000)]
    size: PositiveInt = 32
    resize: Literal["crop", "stretch"] = "crop"
    channels: Literal[1, 3, 4] = 3
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Seed = 0
    config: Named | None = None
    image: str = "image"
    label: str = "label"
    train_split: NamedSplit = "train"
    test_split: NamedSplit | None = "test"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in ("mean", "std"):
            if (count := len(getattr(self, key))) not in (0, self.channels):
                raise ValueError(f"{key} has {count} numbers; expected one for each of {self.channels} channels")
        if self.test_split == self.train_split:
            raise ValueError(f"test_split is {self.test_split}, which is trained on; name another, or null for a share")
        return self

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel."""
        colour = self.channels == 3
        mean = IMAGENET_MEAN if colour else (0.5,) * self.channels
        std = IMAGENET_STD if colour else (0.5,) * self.channels
        return self.mean or mean, self.std or std


def load_own(source: Source, config: DatasetConfig, data_root: Path | None) -> Images:
    """The images of `DIR/NAME/{train,test}/CLASS/*`, with pictures for validation in `val` if they are there, or of
    `DIR/NAME/CLASS/*` (`folder`), or of a data set of the Hub, without a data root from there, else from the parquet
    files in `DIR/NAME` without its user (`hub`).

    Raises MissingData when there is nothing, ValueError when it is not what the recipe says (classes, columns), Corrupt
    for a picture that cannot be decoded.
    """
    return _load_folders(config, data_root) if source == "folder" else _load_hub(config, data_root)


def prepared(picture: Image.Image, config: DatasetConfig) -> Image.Image:
    """Upright, in the channels and at the size of the recipe."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        raise ValueError(f"it has pixels of mode {picture.mode}; expected 8 bits a channel")
    if "transparency" in picture.info or "A" in picture.getbands() or "a" in picture.getbands():
        picture = picture.convert("RGBA")
        if config.channels != 4:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
    picture = picture.convert(MODES[config.channels])
    size = (config.size, config.size)
    if config.resize == "stretch":
        return picture.resize(size, Image.Resampling.BILINEAR)
    return ImageOps.fit(picture, size, Image.Resampling.BILINEAR)


def _images(config: DatasetConfig, read: Callable[[Split], Labelled], validation: int = 0) -> Images:
    return Images(read, *config.statistics, config.classes, validation)


def _pixels(config: DatasetConfig, file: IO[bytes] | Path) -> NDArray[np.uint8]:
    """(H, W, C)."""
    pixels = np.asarray(prepared(read_picture(file, mode=None), config))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _divided(config: DatasetConfig, read: Callable[[], Labelled]) -> Callable[[Split], Labelled]:
    """Two splits of one, class by class, at random."""

    @cache
    def split(name: Split) -> Labelled:
        images, labels = read()
        train, test = stratified_split(labels, config.test, generator(config.seed, "dataset", "test"))
        if not len(train) or not len(test):
            raise ValueError(
                f"task.dataset.test {config.test} of {len(labels)} images leaves {len(train)} to train on and "
                f"{len(test)} to test on; expected some of both"
            )
        if untested := sorted({*labels.tolist()} - {*labels[test].tolist()}):
            log.warning(
                f"{config.name} has so few images of {len(untested)} classes (the first is class {untested[0]}) that "
                f"task.dataset.test {config.test} leaves none to test on; reports have no score for these"
            )
        index = train if name == "train" else test
        return images[index], labels[index]

    return split


def _check_memory(count: int, config: DatasetConfig) -> None:
    if (size := count * config.channels * config.size**2) > MAX_BYTES:
        raise ValueError(
            f"{config.name} has {count:,} images, which take {size / 2**30:.0f} GiB of memory at {config.size} px; "
            f"expected at most {MAX_BYTES / 2**30:.0f} GiB, choose a smaller task.dataset.size"
        )


# --- class folders

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {*SPLITS, "training", "valid", "validation", "testing"}
Listed: TypeAlias = list[tuple[Path, int]]
"""Files of pictures and their labels."""


def _load_folders(config: DatasetConfig, data_root: Path | None) -> Images:
    layout = f"expected DIR/{config.name}/{{train,test}}/CLASS/*.png (or jpg, ...), or DIR/{config.name}/CLASS/*.png"
    if data_root is None:
        raise MissingData(f"nobody said where the folder {config.name} is; {layout}, and --data-root DIR")
    root = data_root / config.name
    if not root.is_dir():
        raise MissingData(f"no folder {root}; {layout}")
    splits = _splits(root, layout)
    if not splits:
        listed = _listed(root, config)
        return _images(config, _divided(config, cache(partial(_read_listed, listed, config))))
    if "train" not in splits or len(splits) < 2:
        raise ValueError(f"{root} has {', '.join(splits)} alone; {layout}")
    _check_same_folders(list(splits.values()))
    parts = {name: _listed(path, config) for name, path in splits.items()}
    if len(parts) == 2:
        parts = {"train": parts.pop("train"), "test": next(iter(parts.values()))}  # called test, or val
    kept = parts.get("val", [])
    parts["train"] += kept
    return _images(config, cache(lambda split: _read_listed(parts[split], config)), len(kept))


def _splits(root: Path, layout: str) -> dict[str, Path]:
    """The folders of splits by their names; none where there are folders of classes alone. Raises ValueError for names
    that are nearly those of splits, and for other folders beside splits: pictures in them would be lost, or be given
    the split's name as their label.
    """
    folders = {path.name: path for path in _folders(root)}
    if not any(name.casefold() in SPLIT_NAMES for name in folders):
        return {}
    for name, folder in folders.items():
        if name not in SPLITS and (name.casefold() in SPLIT_NAMES or _pictures(folder)):
            raise ValueError(
                f"{root} has a folder {name} beside {', '.join(n for n in folders if n != name)}; {layout}"
            )
    return {name: folder for name, folder in folders.items() if name in SPLITS}


def _pictures(folder: Path) -> list[Path]:
    """Hidden files, and those in hidden folders, are none: Jupyter keeps copies in `.ipynb_checkpoints`, one of which
    might be tested on where the picture itself is trained on.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _check_same_folders(splits: Sequence[Path]) -> None:
    """Raise ValueError where a class has no folder in some split: all after it would be numbered otherwise there."""
    names = [{path.name for path in _folders(split)} for split in splits]
    for split, found in zip(splits, names, strict=True):
        if lost := sorted(set.union(*names) - found):
            raise ValueError(f"{split} has no folder {', '.join(lost[:3])}; expected the same classes in every split")


def _listed(root: Path, config: DatasetConfig) -> Listed:
    """The pictures under a folder of classes, class by class. Raises ValueError unless there are as many classes as the
    recipe says, with a picture each.
    """
    classes = _folders(root)
    if len(classes) != config.classes:
        names = ", ".join(path.name for path in classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise ValueError(
            f"{root} has {len(classes)} folders ({names}), task.dataset.classes is {config.classes}; expected one for "
            "each class"
        )
    found: Listed = []
    for label, folder in enumerate(classes):
        files = _pictures(folder)
        if not files:
            raise ValueError(f"there are no pictures in {folder}; expected files of {', '.join(SUFFIXES)}")
        found += [(file, label) for file in files]
    return found


def _read_listed(listed: Listed, config: DatasetConfig) -> Labelled:
    _check_memory(len(listed), config)
    return decoded(listed, lambda row: str(listed[row][0]), config.classes, partial(_pixels, config))


# --- the Hub


def _load_hub(config: DatasetConfig, data_root: Path | None) -> Images:
    read = cache(partial(_named_split, config, data_root))
    if config.test_split is None:
        return _images(config, _divided(config, partial(read, config.train_split)))
    names: dict[Split, str] = {"train": config.train_split, "test": config.test_split}
    return _images(config, lambda split: read(names[split]))


def _named_split(config: DatasetConfig, data_root: Path | None, split: str) -> Labelled:
    """As `_hub_split`. The recipe says how the columns are called, so that one that is not there is bad input."""
    try:
        return _hub_split(config, data_root, split)
    except NoColumn as error:
        raise ValueError(f"{error}; task.dataset.image and task.dataset.label name the columns") from error


def _hub_split(config: DatasetConfig, data_root: Path | None, split: str) -> Labelled:
    """One split of the data set, as its own name says."""
    local = config.name.rpartition("/")[2]
    layout = f"DIR/{local}/{split}-00000-of-00001.parquet (or in {config.config or 'data'} there)"
    if data_root is None:
        dataset = open_hub(config.name, split, f"give --data-root DIR with {layout}", config.config)
        image, label = columns(dataset.column_names, config.name, (config.label,), (config.image,))
        _check_classes(getattr(dataset.features[label], "names", None), config)
        _check_memory(len(dataset), config)
        tables = undecoded_images(dataset, image).with_format("arrow").iter(batch_size=1000)
        rows = (row for table in tables for row in encoded(table, image, label))
        return decoded(
            rows, lambda row: f"row {row} of {config.name} ({split})", config.classes, partial(_pixels, config)
        )
    root = data_root / local
    folders = [root, root / (config.config or "data")]
    files = next((files for folder in folders if (files := shards(folder, split))), None)
    if files is None:
        raise MissingData(
            f"no {split}-*.parquet in {root}; expected {layout} from https://huggingface.co/datasets/{config.name}, or "
            "no data root at all, to read them from there; task.dataset.train_split and test_split name the splits"
        )
    found = Rows(files, (config.label,), (config.image,))
    other = {config.train_split: config.test_split}.get(split, config.train_split)
    if other is not None:
        check_same_classes(found, files[0].parent, other)
    _check_classes(found.class_names, config)
    _check_memory(len(found), config)
    rows = (row for batch in found.batches() for row in encoded(batch, found.image, found.label))
    return decoded(rows, found.where, config.classes, partial(_pixels, config))


def _check_classes(names: Sequence[str] | None, config: DatasetConfig) -> None:
    if names is not None and len(names) != config.classes:
        raise ValueError(
            f"{config.name} has {len(names)} classes ({', '.join(names)[:80]}), task.dataset.classes is "
            f"{config.classes}; expected as many"
        )
