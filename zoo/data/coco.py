"""COCO's files: images in folders, objects in JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import Corrupt, MissingData
from zoo.files import parse_json

FOLDERS: dict[str, str] = {"train": "train2017", "test": "val2017"}
SOURCE = "https://cocodataset.org/#download"
LONGEST_SIDE = 100_000  # pixels
FARTHEST = 2**31

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Annotated:
    """The images of one folder, by their numbers, and their objects. `classes` are the numbers that files give to
    classes; networks count them from 0 in this order.
    """

    folder: Path
    images: list[Json]
    objects: dict[int, list[Json]]
    categories: list[Json]

    @property
    def classes(self) -> list[int]:
        return [category["id"] for category in self.categories]

    def whole(self, index: Iterable[int]) -> list[int]:
        """Which of the images at these indices show something to learn from: an object that is no crowd."""
        return [i for i in index if any(not o.get("iscrowd", 0) for o in self.objects[self.images[i]["id"]])]

    def scorable(self, index: Iterable[int]) -> list[int]:
        """Which of the images at these indices networks can be scored on: all their objects, crowds too, have a shape.
        Files to learn from may have others, of which pycocotools makes no mask.
        """
        return [i for i in index if all(_has_shape(one, self.images[i]) for one in self.objects[self.images[i]["id"]])]

    def truth(self, index: Iterable[int]) -> dict[str, list[Json]]:
        """The images at these indices as an annotation file has them."""
        images = [self.images[i] for i in index]
        objects = [one for image in images for one in self.objects[image["id"]]]
        return {"images": images, "annotations": objects, "categories": self.categories}

    def fingerprint(self) -> str:
        """8 hexadecimal digits that change with the classes, with the objects, and with the names of the images that
        show some. Not with pixels, nor with images without objects (protocols count all images), nor with the areas
        that files give beside outlines: scores of COCO are known by these digits, so that what goes into them stays.
        """
        digest = hashlib.sha256()
        for image in self.images:
            for one in self.objects[image["id"]]:
                kept = [image["file_name"], one["category_id"], one["bbox"], one["iscrowd"], one["segmentation"]]
                digest.update(json.dumps(kept).encode())
        digest.update(json.dumps([[c["id"], c["name"]] for c in self.categories]).encode())
        return digest.hexdigest()[:8]


def check_layout(data_root: Path | None) -> None:
    """Raise MissingData unless folders and annotation files are where `read` expects them."""
    layout = (
        f"expected DIR/coco/{{train2017,val2017,annotations}} as unpacked from {SOURCE}, and --data-root DIR; "
        "`rpg-zoo fetch coco DIR` gets it"
    )
    if data_root is None:
        raise MissingData(f"COCO is not on the Hub; {layout}")
    for name in FOLDERS.values():
        for path in (data_root / "coco" / name, _annotations(data_root, name)):
            if not path.exists():
                raise MissingData(f"there is no {path}; {layout}")


def read(data_root: Path, split: Literal["train", "test"], classes: int) -> Annotated:
    """The images of a split and their objects.

    Raises ValueError unless there are `classes` classes, Corrupt for a file that is not as COCO's are.
    """
    name = FOLDERS[split]
    path = _annotations(data_root, name)
    content = parse_json(path.read_bytes(), path)
    try:
        images = sorted(map(_image, _list(content, "images")), key=lambda image: image["id"])
        categories = sorted(map(_category, _list(content, "categories")), key=lambda category: category["id"])
        known = {image["id"]: image for image in images}
        numbers = {category["id"] for category in categories}
        if len(known) < len(images) or len(numbers) < len(categories):
            raise ValueError("a number stands twice among its images or categories")
        objects: dict[int, list[Json]] = {id: [] for id in known}
        for given in _list(content, "annotations"):
            one = _object(given, known, numbers, learnt_from=split == "train")
            objects[one["image_id"]].append(one)
    except ValueError as error:
        raise Corrupt(
            f"{path} is not an annotation file of COCO's: {error}; expected images, annotations with boxes and "
            "polygons, categories"
        ) from error
    if len(categories) != classes:
        raise ValueError(
            f"{path} has {len(categories)} categories, the networks of this recipe tell {classes} apart; expected "
            f"COCO's instances, or --set task.classes={len(categories)}"
        )
    return Annotated(data_root / "coco" / name, images, objects, categories)


def _list(content: Any, key: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"there is no list of {key}")
    return found


def _image(given: Any) -> Json:
    if not isinstance(given, dict) or type(given.get("id")) is not int:
        raise ValueError("an image has no number")
    name = given.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"image {given['id']} has file_name {str(name)[:60]!r}")
    for side in ("height", "width"):
        if type(given.get(side)) is not int or not 0 < given[side] <= LONGEST_SIDE:
            raise ValueError(f"image {given['id']} has {side} {str(given.get(side))[:60]}")
    return given


def _category(given: Any) -> Json:
    if not isinstance(given, dict) or type(given.get("id")) is not int or not isinstance(given.get("name"), str):
        raise ValueError("a category has no number or no name")
    return given


def _object(given: Any, images: Mapping[int, Json], categories: Collection[int], learnt_from: bool) -> Json:
    """An annotation, as pycocotools takes it. Raises ValueError with its number."""
    if not isinstance(given, dict):
        raise ValueError("an annotation is no object")
    one = {"iscrowd": 0, **given}
    where = f"annotation {str(one.get('id'))[:60]}"
    image, category = one.get("image_id"), one.get("category_id")
    if type(image) is not int or image not in images or type(category) is not int or category not in categories:
        raise ValueError(f"{where} is of image {str(image)[:60]}, category {str(category)[:60]}, which are not there")
    box, area = one.get("bbox"), one.get("area")
    if not isinstance(box, list) or len(box) != 4 or not _numbers([*box, area]) or min(area, *box[2:]) < 0:
        raise ValueError(f"{where} has bbox {str(box)[:60]} and area {str(area)[:60]}")
    if one["iscrowd"] not in (0, 1):
        raise ValueError(f"{where} has iscrowd {str(one['iscrowd'])[:60]}")
    shape, height, width = one.get("segmentation"), images[image]["height"], images[image]["width"]
    if learnt_from and one["iscrowd"]:  # which nothing is learnt from
        return one
    if isinstance(shape, list) and learnt_from:  # what is no polygon teaches nothing
        shape = [polygon for polygon in shape if _is_polygon(polygon, height, width)]
    elif not _has_shape(one, images[image]):
        some, none = "of which some is no polygon of three points", "which is no polygon and no mask of its image"
        raise ValueError(f"{where} has segmentation {str(shape)[:60]}, {some if isinstance(shape, list) else none}")
    elif isinstance(shape, dict) and learnt_from:
        raise ValueError(f"{where} has a mask, but is no crowd; expected polygons to learn from")
    return one | {"segmentation": shape}


def _has_shape(one: Json, image: Json) -> bool:
    """Whether an annotation has polygons alone, or a mask of its image."""
    shape, height, width = one.get("segmentation"), image["height"], image["width"]
    if isinstance(shape, list):
        return bool(shape) and all(_is_polygon(polygon, height, width) for polygon in shape)
    return _is_run_lengths(shape, height, width)


def _numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) and abs(value) < FARTHEST for value in values)  # which NaN is not


def _is_polygon(given: Any, height: int, width: int) -> bool:
    """At least three points, not far from the image: pycocotools draws their lines pixel by pixel."""
    if not isinstance(given, list) or len(given) < 6 or len(given) % 2 or not _numbers(given):
        return False
    return max(map(abs, given)) <= 4 * max(height, width) + 1000


def _is_run_lengths(given: Any, height: int, width: int) -> bool:
    """Whether it is a mask of an image of this size, as COCO counts it: lengths of runs, plain or packed as text."""
    if not isinstance(given, dict) or given.get("size") != [height, width]:
        return False
    counts = given.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return False
    return sum(counts) == height * width


def _unpacked(text: str) -> list[int] | None:
    """The run lengths in a text as pycocotools packs them: five bits to a character, each from the third on less the
    one two before it; None where it is no such text.
    """
    found: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value, shift = 0, 0
    return None if shift else found


def check_same_classes(train: Annotated, test: Annotated) -> None:
    """Raise Corrupt unless both number the same classes alike."""
    pairs = zip(train.categories, test.categories, strict=True)
    for mine, theirs in pairs:
        if (mine["id"], mine["name"]) != (theirs["id"], theirs["name"]):
            raise Corrupt(
                f"{train.folder.name} has category {mine['id']} {mine['name']!r} where {test.folder.name} has "
                f"{theirs['id']} {theirs['name']!r}; expected annotation files of one data set"
            )


def _annotations(data_root: Path, name: str) -> Path:
    return data_root / "coco" / "annotations" / f"instances_{name}.json"
