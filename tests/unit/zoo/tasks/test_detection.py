"""Detection scores: those of pycocotools called directly, on random objects and detections; standard errors by
resampling images.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.detection import METRICS, RESAMPLES, bootstrap, evaluate, match, resampled

mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is in extra [det]")
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

SIZE = 240
CATEGORIES = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}, {"id": 90, "name": "never there"}]


def rle(box: list[float]) -> dict[str, Any]:
    x, y, w, h = box
    found = mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], SIZE, SIZE)[0]
    return found | {"counts": found["counts"].decode()}


def scene(seed: int, images: int = 8) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, one crowd, and detections near some of them with many equal scores."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    detections = []
    for i in range(images):
        truth["images"].append({"id": 10 * i, "height": SIZE, "width": SIZE})
        for _ in range(rng.integers(0, 5)):
            x, y = rng.uniform(0, 90, 2)
            w, h = rng.choice([15, 50, 140], 2) * rng.uniform(0.7, 1, 2)
            category = int(rng.choice([3, 7]))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": 10 * i,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
            for _ in range(rng.integers(0, 3)):
                box = [float(v) for v in np.array([x, y, w, h]) + rng.normal(0, 4, 4).clip(-9, 9)]
                detections.append(
                    {
                        "image_id": 10 * i,
                        "category_id": category if rng.random() < 0.8 else 10 - category,
                        "bbox": box,
                        "score": round(float(rng.random()), 1),
                        "segmentation": rle(box),
                    }
                )
    crowd = {"id": 999, "image_id": 0, "category_id": 3, "bbox": [0, 0, 30, 30], "area": 900, "iscrowd": 1}
    truth["annotations"].append(crowd | {"segmentation": rle([0, 0, 30, 30])})
    return truth, detections


def direct(truth: dict[str, Any], detections: list[dict[str, Any]], iou_type: str, path: Path) -> Any:
    """pycocotools as its own demo calls it, through files."""
    (path / "truth.json").write_text(json.dumps(truth))
    left_out = "bbox" if iou_type == "segm" else ""
    results = [{key: value for key, value in one.items() if key != left_out} for one in detections]
    (path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(str(path / "truth.json"))
        found = COCOeval(there, there.loadRes(str(path / "results.json")), iou_type)
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    truth, detections = scene(seed)
    before = json.dumps([truth, detections])
    found = {metric.name: metric for metric in evaluate(truth, detections).metrics}
    assert json.dumps([truth, detections]) == before
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        stats = direct(truth, detections, iou_type, tmp_path).stats[:6]
        assert 0 < stats[0] < 1
        for name, value in zip(METRICS, stats, strict=True):
            assert found[f"{kind}_{name}"].value == 100 * value
            assert found[f"{kind}_{name}"].n == 8


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_resample_is_what_pycocotools_says_of_images_copied_so_often(iou_type: str, tmp_path: Path) -> None:
    truth, detections = scene(3)
    found = match(truth, detections, iou_type)
    copies = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), 5)
    copies = np.vstack([np.ones(8, int), copies])
    sizes = {size: resampled(found, size, copies.astype(float)) for size in ("all", "small", "medium", "large")}
    for r, row in enumerate(copies):
        copied: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
        results = []
        for i, times in enumerate(row):
            for copy in range(times):
                id = {"image_id": 1000 * i + copy}
                copied["images"].append({"id": id["image_id"], "height": SIZE, "width": SIZE})
                for one in truth["annotations"]:
                    if one["image_id"] == 10 * i:
                        copied["annotations"].append(one | id | {"id": len(copied["annotations"]) + 1})
                results += [one | id for one in detections if one["image_id"] == 10 * i]
        stats = direct(copied, results, iou_type, tmp_path).stats
        found_here = [sizes["all"][r].mean(), sizes["all"][r, 0], sizes["all"][r, 5]]
        found_here += [sizes[size][r].mean() for size in ("small", "medium", "large")]
        np.testing.assert_allclose(np.nan_to_num(found_here, nan=-1), stats[:6], rtol=1e-12)


def test_the_standard_error_is_that_of_the_mean_where_ap_is_a_share() -> None:
    """One object and one sure detection in each image, no false ones: AP50 is about the share of objects found."""
    rng = np.random.default_rng(1)
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES[:1]}
    detections = []
    for i in range(400):
        truth["images"].append({"id": i, "height": SIZE, "width": SIZE})
        box = [10.0, 10.0, 40.0, 40.0]
        about = {"image_id": i, "category_id": 3, "bbox": box}
        truth["annotations"].append(about | {"id": i + 1, "area": 1600.0, "iscrowd": 0, "segmentation": rle(box)})
        if rng.random() < 0.6:
            detections.append(about | {"score": 0.9, "segmentation": rle(box)})
    evaluation = evaluate(truth, detections)
    ap50 = {metric.name: metric for metric in evaluation.metrics}["box_AP50"]
    share = evaluation.correct.mean()
    assert evaluation.correct.shape == (400,)
    assert ap50.value == pytest.approx(100 * share, abs=1)
    expected = 100 * (share * (1 - share) / 400) ** 0.5
    assert ap50.stderr == pytest.approx(expected, rel=4 / (2 * RESAMPLES) ** 0.5)
    found = match(truth, detections, "bbox")
    assert bootstrap(found, np.random.default_rng(1)) == bootstrap(found, np.random.default_rng(1))


def test_which_objects_are_found() -> None:
    truth, _ = scene(4)
    objects = [one for one in truth["annotations"] if not one["iscrowd"]]
    perfect = [
        {"image_id": o["image_id"], "category_id": o["category_id"], "bbox": o["bbox"], "score": 1.0}
        | {"segmentation": rle(o["bbox"])}
        for o in objects
    ]
    assert evaluate(truth, perfect).correct.all()
    evaluation = evaluate(truth, perfect[1::2])
    assert evaluation.correct.shape == (len(objects),)
    assert not evaluation.correct[::2].all()
    assert evaluation.correct[1::2].all()
    values = {metric.name: metric.value for metric in evaluate(truth, perfect).metrics}
    assert values["box_AP"] == pytest.approx(100)


def test_without_detections_everything_is_zero_and_what_is_undecided_is_left_out() -> None:
    truth, _ = scene(5)
    truth["annotations"] = [one for one in truth["annotations"] if one["area"] >= 32**2]
    evaluation = evaluate(truth, [])
    assert {metric.name: (metric.value, metric.stderr) for metric in evaluation.metrics} == {
        f"{kind}_{name}": (0, 0) for kind in ("box", "mask") for name in METRICS if name != "APs"
    }
    assert not evaluation.correct.any()


def test_what_does_not_belong_together_is_refused() -> None:
    truth, detections = scene(6)
    with pytest.raises(ValueError, match="image_id 5, which is not among the 8 images"):
        evaluate(truth, [detections[0] | {"image_id": 5}])
    with pytest.raises(ValueError, match="category_id 1, which is not among the 3 categories"):
        evaluate(truth, [detections[0] | {"category_id": 1}])
    truth["annotations"] = [one for one in truth["annotations"] if one["iscrowd"]]
    with pytest.raises(ValueError, match="no objects in 8 images"):
        evaluate(truth, [])
