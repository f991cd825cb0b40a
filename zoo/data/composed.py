"""Pictures composed of scikit-learn's handwritten digits, in the layouts of ADE20K and COCO: semantic segmentation and
object detection in small, for who has neither data set nor network.

They are written to files, which the readers of the real data sets then read (zoo.data.ade20k, zoo.data.coco), so that
nothing but the pictures differs: no reader has a branch for them. The files lie in a temporary directory of this
process, which goes with it: making them takes a second, so there is no cache that could be stale, damaged, or in two
processes' way. They are the same in every process and on every machine, but for the rounding of the JPEG library.

A picture is a dark square with two to four light digits, each in a quarter of its own. An object is the convex hull of
a digit's ink: what one would draw around it, and a polygon, as COCO's files want it. Of the training pictures the
digits are from the training images of `digits`, of the others from its test images (zoo.data.images).

Shape suffixes: N images, P points, H rows, W columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import ConvexHull

from zoo.data.images import load_images
from zoo.seeds import derive_seed
from zoo.temporary import directory_of_process

SEED = 0
SIDE = 64  # pixels, of a picture
DIGIT = 28  # pixels a side, of a digit's image
CELL = SIDE // 2
INK = 96  # of 255; lighter pixels of a digit are its ink
COUNTS = {"train": 160, "test": 20}
KINDS = (0, 1, 4)
"""The digits that are used: the smallest networks can tell three apart within minutes."""
CLASSES = ("0", "1", "4", "paper")
"""The classes of the label maps; of COCO's files all but the last."""
COLOURS = ((230, 80, 80), (80, 200, 80), (80, 80, 230), (40, 40, 40))
"""Of the classes, red first, for who shows label maps."""

Colour: TypeAlias = tuple[int, int, int]
Float64Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Object:
    """A digit in a picture: which of KINDS, counted from 0, and the corners of its hull in order, (P, 2), x and y in
    pixels.
    """

    kind: int
    corners_P2: Float64Array

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x and y of its least corner, width, height."""
        low, high = self.corners_P2.min(0), self.corners_P2.max(0)
        return (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))

    @property
    def area(self) -> float:
        """In pixels."""
        return float(ConvexHull(self.corners_P2).volume)

    def mask(self) -> NDArray[np.bool_]:
        """Which pixels have their middle in it, (SIDE, SIDE)."""
        middles = np.arange(SIDE) + 0.5
        points = np.stack(np.meshgrid(middles, middles), -1)
        sides = ConvexHull(self.corners_P2).equations  # a x + b y + c <= 0 inside
        return np.asarray((points @ sides[:, :2].T + sides[:, 2] <= 0).all(-1))


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels uint8 (SIDE, SIDE, 3) and the objects in them, which do not overlap."""

    pixels: NDArray[np.uint8]
    objects: tuple[Object, ...]

    def labels(self) -> NDArray[np.uint8]:
        """The label map, (SIDE, SIDE): classes counted from 1, as ADE20K's files have them."""
        labels = np.full((SIDE, SIDE), 1 + CLASSES.index("paper"), np.uint8)
        for one in self.objects:
            labels[one.mask()] = 1 + one.kind
        return labels


@cache
def data_root() -> Path:
    """A directory with all pictures in both layouts, made when it is first asked for."""
    root = directory_of_process("pictures")
    for split, folders in (("train", ("training", "train2017")), ("test", ("validation", "val2017"))):
        made = list(pictures(split))
        write_scenes(root / "ADEChallengeData2016", folders[0], made)
        write_objects(root / "coco", folders[1], made)
    return root


def pictures(split: str) -> Iterator[Picture]:
    """The pictures of split "train" or "test"."""
    images = load_images("digits", None)
    digits_N, labels_N = images.read("train" if split == "train" else "test")
    chosen_N = np.isin(labels_N.numpy(), KINDS)
    for number in range(COUNTS[split]):
        rng = np.random.default_rng(derive_seed(SEED, "composed", split, number))
        yield _compose(digits_N.numpy()[chosen_N, 0], labels_N.numpy()[chosen_N], rng)


def _compose(digits_N: NDArray[np.uint8], labels_N: NDArray[np.int64], rng: np.random.Generator) -> Picture:
    values = rng.normal(rng.uniform(20, 60), 6, (SIDE, SIDE, 3))
    objects = []
    for cell in rng.permutation(4)[: rng.integers(2, 5)]:
        number = int(rng.integers(len(labels_N)))
        digit = np.asarray(Image.fromarray(digits_N[number]).resize((DIGIT, DIGIT), Image.Resampling.BILINEAR))
        top, left = (CELL * np.array(divmod(cell, 2)) + rng.integers(0, CELL - DIGIT + 1, 2)).tolist()
        part = values[top : top + DIGIT, left : left + DIGIT]
        share = digit[..., None] / 255  # of ink in each pixel
        part[:] = (1 - share) * part + share * rng.uniform(180, 250)
        objects.append(Object(KINDS.index(labels_N[number]), np.add(_hull(digit > INK), (left, top))))
    return Picture(values.clip(0, 255).round().astype(np.uint8), tuple(objects))


def _hull(ink_HW: NDArray[np.bool_]) -> Float64Array:
    """The corners (P, 2), x and y, of the smallest convex polygon around these pixels."""
    rows, columns = ink_HW.nonzero()
    points = np.concatenate([np.stack([columns + right, rows + down], 1) for right in (0, 1) for down in (0, 1)])
    return np.asarray(points[ConvexHull(points).vertices], np.float64)


def write_scenes(folder: Path, split: str, made: list[Picture]) -> None:
    """Photographs and label maps, as ADE20K has them. Label maps are not compressed: their bytes are what scores know
    the data by (zoo.data.ade20k), and should not change with the library that packs them.
    """
    images, annotations = (folder / kind / split for kind in ("images", "annotations"))
    for place in (images, annotations):
        place.mkdir(parents=True)
    for number, picture in enumerate(made):
        Image.fromarray(picture.pixels).save(images / f"{number:08d}.jpg", quality=95)
        Image.fromarray(picture.labels()).save(annotations / f"{number:08d}.png", compress_level=0)


def write_objects(folder: Path, split: str, made: list[Picture]) -> None:
    """Images and their objects, as COCO has them."""
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, objects = [], []
    for number, picture in enumerate(made):
        name = f"{number:012d}.jpg"
        Image.fromarray(picture.pixels).save(folder / split / name, quality=95)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        objects += [_annotation(one, number) for one in picture.objects]
    content = {
        "images": images,
        "annotations": [{"id": number, **one} for number, one in enumerate(objects, start=1)],
        "categories": [{"id": 1 + kind, "name": CLASSES[kind]} for kind in range(len(KINDS))],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotation(one: Object, image: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": 1 + one.kind,
        "bbox": list(one.box),
        "area": one.area,
        "iscrowd": 0,
        "segmentation": [one.corners_P2.ravel().tolist()],
    }
