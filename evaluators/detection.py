"""Object detection and instance segmentation by COCO's rules: AP of boxes and masks, as pycocotools computes it.

pycocotools is imported here only. Shape suffixes: I images, D detections of one class, N objects, T IoU thresholds,
R resamples of the images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluators.metrics import Evaluation, Metric

EVALUATOR = "detection/1"
"""Name and version; the version is raised whenever the same network would get other scores."""

Truth: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""`images`, `annotations` and `categories` as in COCO's annotation files."""
Detection: TypeAlias = Mapping[str, Any]
"""`image_id`, `category_id`, `score`, `bbox` [x, y, width, height] and `segmentation` (RLE), as in COCO's results."""
Float64Array: TypeAlias = NDArray[np.float64]

KINDS = {"box": "bbox", "mask": "segm"}
"""What is compared with the truth, and pycocotools' word for it."""
METRICS = {
    "AP": ("all", None),
    "AP50": ("all", 0),
    "AP75": ("all", 5),
    "APs": ("small", None),
    "APm": ("medium", None),
    "APl": ("large", None),
}
"""The first six of COCO's summary, in its order: sizes of objects, and which of the ten IoU thresholds (all: None)."""
RESAMPLES = 100


def evaluate(truth: Truth, detections: Sequence[Detection]) -> Evaluation:
    """Score the detections of one network on all images of `truth`: `box_AP`, `box_AP50`, `box_AP75`, `box_APs`,
    `box_APm`, `box_APl` and the same for masks, in percent; at most 100 detections an image count, as always in COCO.

    - A metric that nothing in `truth` decides (no small objects, say) is left out; without detections all are 0.
    - The standard error is that of the sample of images: the standard deviation over 100 bootstrap resamples of them.
    - The samples of `correct` are the objects of `truth` (crowds left out), in the order of its annotations: right are
      those that a detection of their class finds, with a box IoU of at least 0.5 after COCO's matching.

    Raises ValueError without objects to find, or for detections of images or classes that `truth` does not have.
    """
    if not any(not annotation.get("iscrowd", 0) for annotation in truth["annotations"]):
        raise ValueError(f"no objects in {len(truth['images'])} images; expected at least one to be found")
    _check(truth, detections)
    metrics: list[Metric] = []
    correct = np.zeros(0, bool)
    for kind, iou_type in KINDS.items():
        found = match(truth, detections, iou_type)
        if kind == "box":
            correct = _found_objects(truth, found)
        errors = bootstrap(found, np.random.default_rng(0))
        values = dict(zip(METRICS, found.stats, strict=False))
        metrics += [
            Metric(f"{kind}_{name}", 100 * float(value), n=len(truth["images"]), stderr=100 * errors[name])
            for name, value in values.items()
            if value >= 0  # -1: nothing decides it
        ]
    return Evaluation(tuple(metrics), correct)


def match(truth: Truth, detections: Sequence[Detection], iou_type: str) -> Any:
    """pycocotools' COCOeval for `bbox` or `segm`, after its matching, accumulation and summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # It writes into its input, takes an object numbered 0 for none, and uses a detection's box for its mask's area.
    objects = [{"iscrowd": 0, **annotation, "id": id} for id, annotation in enumerate(truth["annotations"], 1)]
    left_out = {"segm": "bbox", "bbox": "segmentation"}[iou_type]
    results = [{key: value for key, value in found.items() if key != left_out} for found in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        there, reported = COCO(), COCO()
        there.dataset = {**truth, "annotations": objects}
        there.createIndex()
        if results:
            reported = there.loadRes(results)
        found = COCOeval(there, reported, iou_type)
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


def _check(truth: Truth, detections: Sequence[Detection]) -> None:
    for what, key in (("images", "image_id"), ("categories", "category_id")):
        known = {one["id"] for one in truth[what]}
        other = next((found[key] for found in detections if found[key] not in known), None)
        if other is not None:
            raise ValueError(f"a detection has {key} {other}, which is not among the {len(known)} {what} of the truth")


def _found_objects(truth: Truth, found: Any) -> NDArray[np.bool_]:
    right_N = np.zeros(len(truth["annotations"]), bool)
    for image in filter(None, found.evalImgs):
        if list(image["aRng"]) == list(found.params.areaRng[0]):  # objects of all sizes
            right_N[np.asarray(image["gtIds"], int) - 1] = image["gtMatches"][0] > 0
    return right_N[[not annotation.get("iscrowd", 0) for annotation in truth["annotations"]]]


def bootstrap(found: Any, rng: np.random.Generator) -> dict[str, float]:
    """Standard deviations of the metrics over resamples of the images, as shares; 0 for those that are undecided."""
    count = len(found.params.imgIds)
    copies_RI = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    areas = {area: resampled(found, area, copies_RI) for area in ("all", "small", "medium", "large")}
    errors = {}
    for name, (area, threshold) in METRICS.items():
        values_R = areas[area].mean(1) if threshold is None else areas[area][:, threshold]
        decided_R = values_R[~np.isnan(values_R)]
        errors[name] = float(decided_R.std(ddof=1)) if len(decided_R) > 1 else 0.0
    return errors


def resampled(found: Any, area: str, copies: Float64Array) -> Float64Array:
    """AP (R, T) for objects of this size when image i is there `copies[r, i]` times, copies (R, I). NaN where no object
    is left. `found` is pycocotools' COCOeval after its matching. A class without objects does not count.
    """
    total_RT = np.zeros((len(copies), len(found.params.iouThrs)))
    classes_R = np.zeros(len(copies))
    for matches in _by_class(found, area):
        precision_RT, there_R = matches.average_precision(copies, found.params.recThrs)
        total_RT += precision_RT
        classes_R += there_R
    return np.divide(total_RT, classes_R[:, None], out=np.full_like(total_RT, np.nan), where=classes_R[:, None] > 0)


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of one class, best first: which image they are of, whether they are right or wrong (or neither: of
    another size). `objects` counts the objects of each image.
    """

    image_D: NDArray[np.int64]
    right_TD: NDArray[np.bool_]
    wrong_TD: NDArray[np.bool_]
    objects_I: Float64Array

    def average_precision(self, copies: Float64Array, recalls: Float64Array) -> tuple[Float64Array, NDArray[np.bool_]]:
        """Mean precision over `recalls`, (R, T), as pycocotools' `accumulate` computes it, and in which resamples there
        are objects at all, (R,); 0 in the others.
        """
        objects_R = copies @ self.objects_I
        precision_RT = np.zeros((len(copies), len(self.right_TD)))
        if not len(self.image_D):
            return precision_RT, objects_R > 0
        copies_RD = copies[:, self.image_D]
        for t, (right_D, wrong_D) in enumerate(zip(self.right_TD, self.wrong_TD, strict=True)):
            right_RD = np.cumsum(copies_RD * right_D, 1)
            share_RD = right_RD / (np.cumsum(copies_RD * wrong_D, 1) + right_RD + np.spacing(1))
            share_RD = np.maximum.accumulate(share_RD[:, ::-1], 1)[:, ::-1]
            for r in np.flatnonzero(objects_R):
                first = np.searchsorted(right_RD[r] / objects_R[r], recalls, side="left")
                precision_RT[r, t] = share_RD[r, first[first < len(self.image_D)]].sum() / len(recalls)
        return precision_RT, objects_R > 0


def _by_class(found: Any, area: str) -> Iterator[Matches]:
    """The matches that `evaluate` of pycocotools left: a list by class, size and image."""
    settings = found.params
    images, sizes = len(settings.imgIds), len(settings.areaRng)
    for k in range(len(settings.catIds)):
        start = (k * sizes + settings.areaRngLbl.index(area)) * images
        there = [(i, one) for i, one in enumerate(found.evalImgs[start : start + images]) if one is not None]
        if not there:
            continue
        objects_I = np.zeros(images)
        for i, one in there:
            objects_I[i] = np.count_nonzero(one["gtIgnore"] == 0)
        order_D = np.argsort(-np.concatenate([one["dtScores"] for _, one in there]), kind="mergesort")
        matched_TD = np.concatenate([one["dtMatches"] for _, one in there], 1)[:, order_D] > 0
        ignored_TD = np.concatenate([one["dtIgnore"] for _, one in there], 1)[:, order_D].astype(bool)
        image_D = np.concatenate([np.full(len(one["dtIds"]), i, int) for i, one in there])[order_D]
        yield Matches(image_D, matched_TD & ~ignored_TD, ~matched_TD & ~ignored_TD, objects_I)
