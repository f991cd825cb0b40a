"""COCO's files: images in folders, objects in JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import Corrupt, MissingData
from zoo.files import parse_json

FOLDERS: dict[str, str] = {"train": "train2017", "test": "val2017"}
SOURCE = "https://cocodataset.org/#download"

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

    def truth(self, index: Iterable[int]) -> dict[str, list[Json]]:
        """The images at these indices as an annotation file has them."""
        images = [self.images[i] for i in index]
        objects = [one for image in images for one in self.objects[image["id"]]]
        return {"images": images, "annotations": objects, "categories": self.categories}

    def fingerprint(self) -> str:
        """8 hexadecimal digits that change with the images' names, their objects and the classes. Not with pixels."""
        digest = hashlib.sha256()
        for image in self.images:
            for one in self.objects[image["id"]]:
                kept = [image["file_name"], one["category_id"], one["bbox"], one["iscrowd"], one["segmentation"]]
                digest.update(json.dumps(kept).encode())
        digest.update(json.dumps([[c["id"], c["name"]] for c in self.categories]).encode())
        return digest.hexdigest()[:8]


def check_layout(data_root: Path | None) -> None:
    """Raise MissingData unless folders and annotation files are where `read` expects them."""
    layout = f"expected DIR/coco/{{train2017,val2017,annotations}} as unpacked from {SOURCE}, and --data-root DIR"
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
        images = sorted(content["images"], key=lambda image: image["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        known = {category["id"]: category["name"] for category in categories}
        objects: dict[int, list[Json]] = {image["id"]: [] for image in images}
        for one in content["annotations"]:
            one = {"iscrowd": 0, **one}
            learnable = one["iscrowd"] or isinstance(one["segmentation"], list) or split == "test"
            if not (one["category_id"] in known and len(one["bbox"]) == 4 and one["area"] >= 0 and learnable):
                raise ValueError(f"in annotation {one.get('id')}")
            objects[one["image_id"]].append(one)
        for image in images:
            if not (image["file_name"] and image["height"] > 0 and image["width"] > 0):
                raise ValueError(f"in image {image['id']}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else f"a wrong value: {error}"
        raise Corrupt(
            f"{path} is not an annotation file of COCO's ({what}); expected images, annotations with boxes and "
            "polygons, categories"
        ) from error
    if len(categories) != classes:
        raise ValueError(
            f"{path} has {len(categories)} categories, the networks of this recipe tell {classes} apart; expected "
            f"COCO's instances, or --set task.classes={len(categories)}"
        )
    return Annotated(data_root / "coco" / name, images, objects, categories)


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
