"""COCO's files, and what is said where they, or detectron2, are not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import coco_data
import pytest
import torch
from commands import call

from zoo.data.coco import check_layout, check_same_classes, read
from zoo.errors import Corrupt, MissingData, MissingExtra
from zoo.networks import detectron
from zoo.recipe import load_recipe
from zoo.tasks.detection import Config, DetectionTask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return coco_data.write(tmp_path)


def annotations(root: Path, name: str = "val2017") -> Path:
    return root / "coco" / "annotations" / f"instances_{name}.json"


def test_images_and_objects_are_read(root: Path) -> None:
    check_layout(root)
    train, test = read(root, "train", 2), read(root, "test", 2)
    check_same_classes(train, test)
    assert (len(train.images), len(test.images), train.classes) == (10, 4, [3, 7])
    assert train.whole(range(10)) == list(range(8))  # not the crowd, not the one that shows nothing
    assert train.whole([9, 3]) == [3]
    truth = test.truth([2, 0])
    assert [image["id"] for image in truth["images"]] == [102, 100]
    assert [one["image_id"] for one in truth["annotations"]] == [102, 102, 100, 100]
    assert truth["categories"] == coco_data.CATEGORIES


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["annotations"][0].update(bbox=[1, 2, 3, 5]),
        lambda content: content["annotations"][0].update(category_id=10 - content["annotations"][0]["category_id"]),
        lambda content: content["images"][0].update(file_name="other.jpg"),
        lambda content: content["categories"][0].update(name="bright"),
    ],
)
def test_the_fingerprint_changes_with_the_truth(root: Path, change) -> None:
    before = read(root, "test", 2).fingerprint()
    assert read(root, "test", 2).fingerprint() == before
    content = json.loads(annotations(root).read_text())
    change(content)
    annotations(root).write_text(json.dumps(content))
    assert read(root, "test", 2).fingerprint() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["annotations"][0].update(area=5000),
        lambda content: content["images"].append({"id": 1, "file_name": "nothing.jpg", "height": 64, "width": 64}),
    ],
)
def test_scores_that_are_there_stay_known_by_the_fingerprint(root: Path, change) -> None:
    """Its docstring says what it is of; with anything more, all scores of COCO would be made again."""
    assert read(root, "test", 2).fingerprint() == "356b4541"
    content = json.loads(annotations(root).read_text())
    change(content)
    annotations(root).write_text(json.dumps(content))
    assert read(root, "test", 2).fingerprint() == "356b4541"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("images"),
        lambda content: content.pop("categories"),
        lambda content: content["annotations"][1].pop("bbox"),
        lambda content: content["annotations"][1].pop("segmentation"),
        lambda content: content["annotations"][1].pop("area"),
        lambda content: content["annotations"][1].update(bbox=[1, 2, 3]),
        lambda content: content["annotations"][1].update(image_id=5),
        lambda content: content["annotations"][1].update(category_id=5),
        lambda content: content["annotations"].append(5),
        lambda content: content["images"].append([]),
        lambda content: content["images"][0].pop("height"),
        lambda content: content.update(annotations=None),
    ],
)
def test_other_content_is_refused_in_one_line(root: Path, change) -> None:
    content = json.loads(annotations(root).read_text())
    change(content)
    annotations(root).write_text(json.dumps(content))
    with pytest.raises(Corrupt, match=r"instances_val2017.json is not an annotation file of COCO's"):
        read(root, "test", 2)


def test_objects_to_learn_from_are_polygons(root: Path) -> None:
    content = json.loads(annotations(root, "train2017").read_text())
    content["annotations"][2]["segmentation"] = {"size": [48, 64], "counts": [0, 48 * 64]}
    annotations(root, "train2017").write_text(json.dumps(content))
    with pytest.raises(Corrupt, match="annotation 3 has a mask, but is no crowd"):
        read(root, "train", 2)


@pytest.mark.parametrize("changed", [{"segmentation": [[1, 2, 3, 4]]}, {"iscrowd": 1, "segmentation": None}], ids=str)
def test_images_with_objects_without_a_shape_are_trained_on_and_not_scored(root: Path, changed, caplog) -> None:
    """pycocotools makes no mask of them: an IndexError, or a KeyError, had ended the first validation."""
    config = Config(name="detection", model="vitdet-mini", data="coco", classes=2, validation=0.3)
    before = DetectionTask(config, root, torch.device("cpu"))
    (first, *_) = held_out = before.validation_index.tolist()
    assert len(held_out) == 3
    assert not caplog.records
    content = json.loads(annotations(root, "train2017").read_text())
    content["annotations"][2 * first].update(changed)
    annotations(root, "train2017").write_text(json.dumps(content))
    task = DetectionTask(config, root, torch.device("cpu"))
    assert task.validation_index.tolist() == held_out[1:]
    assert sorted([*task.train_index.tolist(), *task.validation_index.tolist()]) == list(range(8))
    assert all(one["segmentation"] for one in task.train.truth(task.validation_index.tolist())["annotations"])
    (said,) = (record.message for record in caplog.records)
    assert said.startswith("1 of 8 images of")


def packed(counts: list[int]) -> str:
    """Run lengths as pycocotools packs them (its rleToString)."""
    text = ""
    for i, count in enumerate(counts):
        left, more = count - counts[i - 2] if i > 2 else count, True
        while more:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return text


@pytest.mark.parametrize(
    ("segmentation", "taken"),
    [
        ([], False),
        (None, False),
        ([[1, 2, 3, 4]], False),
        ([[]], False),
        ([[1, 2, 3, 4, 5]], False),
        ([[1, 2, 3, 4, 5, "6"]], False),
        ([[1, 2, 3, 4, 5, 1e300]], False),
        ([[1, 2, 30, 4, 5, 20], [1, 2]], False),
        ({"size": [64, 56], "counts": [64 * 56 - 1]}, False),
        ({"size": [56, 64], "counts": [64 * 56]}, False),
        ({"size": [64, 56], "counts": [-1, 64 * 56 + 1]}, False),
        ({"size": [64, 56], "counts": "~~~"}, False),
        ("polygon", False),
        ({"size": [64, 56], "counts": [64, 7, 64 * 55 - 7]}, True),
        ({"size": [64, 56], "counts": packed([64, 7, 100, 3, 64 * 55 - 110])}, True),
        ([[1, 2, 30, 4, 5, 20]], True),
    ],
    ids=str,
)
def test_shapes_are_shapes_of_their_image(root: Path, segmentation, taken: bool) -> None:
    """The objects that are scored, that is: from those to learn from, what is no polygon is left out."""
    for name in ("val2017", "train2017"):
        content = json.loads(annotations(root, name).read_text())
        content["annotations"][0]["segmentation"] = segmentation
        annotations(root, name).write_text(json.dumps(content))
    if taken:
        assert read(root, "test", 2).objects[100][0]["segmentation"] == segmentation
    else:
        with pytest.raises(Corrupt, match=r"annotation 1 has segmentation"):
            read(root, "test", 2)
    if isinstance(segmentation, list):
        kept = read(root, "train", 2).objects[100][0]["segmentation"]
        assert kept == ([segmentation[0]] if segmentation and segmentation[0][4:5] == [5] and taken else kept)
        assert all(len(polygon) >= 6 for polygon in kept)


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "", None, "a/../../x.jpg"])
def test_names_of_images_stay_in_their_folder(root: Path, name) -> None:
    content = json.loads(annotations(root).read_text())
    content["images"][0]["file_name"] = name
    annotations(root).write_text(json.dumps(content))
    with pytest.raises(Corrupt, match="image 100 has file_name"):
        read(root, "test", 2)


def test_what_is_no_annotation_file_is_refused(root: Path) -> None:
    annotations(root).write_text("[1, 2]")
    with pytest.raises(Corrupt, match="not an annotation file"):
        read(root, "test", 2)
    annotations(root).write_bytes(annotations(root, "train2017").read_bytes()[:-9])
    with pytest.raises(Corrupt, match="not JSON"):
        read(root, "test", 2)


def test_classes_that_do_not_fit_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"2 categories, .* tell 80 apart; .*--set task.classes=2"):
        read(root, "test", 80)
    train, test = read(root, "train", 2), read(root, "test", 2)
    content = json.loads(annotations(root).read_text())
    content["categories"][1]["name"] = "darker"
    annotations(root).write_text(json.dumps(content))
    with pytest.raises(Corrupt, match="train2017 has category 7 'dark' where val2017 has 7 'darker'"):
        check_same_classes(train, read(root, "test", 2))
    check_same_classes(train, test)


@pytest.mark.parametrize("gone", ["train2017", "val2017", "annotations/instances_train2017.json", "annotations"])
def test_a_missing_part_is_said_with_layout_and_source(root: Path, gone: str, tmp_path: Path) -> None:
    (root / "coco" / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(MissingData, match=r"there is no .*coco/.*; expected DIR/coco/\{train2017,.*cocodataset.org"):
        check_layout(root)
    with pytest.raises(MissingData, match="COCO is not on the Hub; expected DIR/coco"):
        check_layout(None)


def test_without_detectron2_it_is_said_how_to_get_it(root: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    config = load_recipe("coco").task
    with pytest.raises(MissingExtra, match=r"rpg-zoo.det..*no-build-isolation.*detectron2@"):
        config.build(root, "cpu")  # type: ignore[arg-type]
    monkeypatch.chdir(root)
    for command in ("rpg estimate coco --device h100", f"rpg-zoo collect coco --data-root {root}"):
        assert detectron.INSTALL in call(command, code=3)
    listed = [line.split()[:4] for line in call("rpg-zoo recipes").splitlines()]
    assert ["coco", "detection", "vitdet-base", "coco"] in listed


def test_the_how_to_has_the_install_line() -> None:
    page = Path(__file__).parents[2] / "docs/how-to/coco.md"
    assert detectron.INSTALL in page.read_text(encoding="utf-8").splitlines()
