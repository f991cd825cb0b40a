"""Pictures composed of handwritten digits: the same every time, and masks, polygons, boxes and areas of one object."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo.data import coco, composed
from zoo.data.composed import SIDE, Object, Picture
from zoo.tasks import detection
from zoo.temporary import directory_of_process


@pytest.fixture(scope="module")
def made() -> list[Picture]:
    return list(composed.pictures("test"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_seeds_give_equal_files(made: list[Picture], tmp_path: Path) -> None:
    again = list(composed.pictures("test"))
    for name, pictures in (("one", made), ("other", again)):
        composed.write_scenes(tmp_path / name, "validation", pictures)
        composed.write_objects(tmp_path / name, "val2017", pictures)
    one, other = digests(tmp_path / "one"), digests(tmp_path / "other")
    assert one == other
    assert len(one) == 3 * composed.COUNTS["test"] + 1
    assert len(set(one.values())) > 2 * composed.COUNTS["test"], "pictures differ from each other"


def test_the_label_map_is_the_objects_and_paper(made: list[Picture]) -> None:
    kinds = set()
    for picture in made:
        labels, covered = picture.labels(), np.zeros((SIDE, SIDE), int)
        for one in picture.objects:
            assert set(np.unique(labels[one.mask()])) == {1 + one.kind}
            covered += one.mask()
            kinds.add(one.kind)
        assert covered.max() == 1, "objects do not overlap"
        assert set(np.unique(labels[covered == 0])) == {1 + composed.CLASSES.index("paper")}
        assert picture.pixels[covered == 1].mean() > picture.pixels[covered == 0].mean() + 50, "ink is in the objects"
    assert kinds == {0, 1, 2}


def test_masks_agree_with_boxes_polygons_and_areas(made: list[Picture]) -> None:
    for one in (one for picture in made for one in picture.objects):
        mask, (x, y, w, h) = one.mask(), one.box
        rows, columns = mask.nonzero()
        assert x <= columns.min() < x + 2
        assert y <= rows.min() < y + 2
        assert x + w - 3 < columns.max() < x + w
        assert y + h - 3 < rows.max() < y + h
        drawn = Image.new("1", (8 * SIDE, 8 * SIDE))
        ImageDraw.Draw(drawn).polygon([tuple(8 * corner) for corner in one.corners_P2], fill=1)
        share = np.asarray(drawn, float).reshape(SIDE, 8, SIDE, 8).mean((1, 3))  # of each pixel
        assert np.abs(mask - share).sum() < 0.2 * mask.sum()
        assert one.area == pytest.approx(share.sum(), rel=0.1)


def test_the_mask_of_a_triangle_is_its_pixels() -> None:
    mask = Object(0, np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])).mask()
    expected = np.zeros((SIDE, SIDE), bool)
    expected[:4, :4] = np.add.outer(np.arange(4), np.arange(4)) + 1 <= 4
    assert np.array_equal(mask, expected)
    assert Object(0, np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])).area == pytest.approx(8)


def test_the_readers_of_coco_take_them(made: list[Picture]) -> None:
    root = composed.data_root()
    coco.check_layout(root)
    test, train = coco.read(root, "test", 3), coco.read(root, "train", 3)
    coco.check_same_classes(train, test)
    assert [one["name"] for one in test.categories] == ["0", "1", "4"]
    assert len(test.whole(range(len(test.images)))) == len(made) == len(test.images)
    for number, picture in enumerate(made):
        found = test.objects[number]
        assert [one["category_id"] for one in found] == [1 + one.kind for one in picture.objects]
        assert [tuple(one["bbox"]) for one in found] == [one.box for one in picture.objects]
    assert composed.data_root() == root, "made once"
    names = {json.dumps(one["segmentation"]) for image in train.images for one in train.objects[image["id"]]}
    assert not names & {json.dumps(one["segmentation"]) for image in test.images for one in test.objects[image["id"]]}


def test_a_directory_of_the_process_is_new() -> None:
    place = directory_of_process("for-a-test")
    assert list(place.iterdir()) == []
    with pytest.raises(FileExistsError):
        directory_of_process("for-a-test")


def test_a_task_of_digits_needs_no_data_root() -> None:
    config = {"name": "detection", "model": "vitdet-mini", "data": "digits", "classes": 3, "image_size": 64}
    assert detection.Config.model_validate(config).data == "digits"
