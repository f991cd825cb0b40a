"""Semantic segmentation: mIoU, mAcc and aAcc of one network, and which of a fixed set of pixels it gets right.

Shape suffixes: N images, C classes, H rows and W columns of an image, P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.metrics import Evaluation, Metric

EVALUATOR = "segmentation/1"
"""Name and version; the version is raised whenever the same network would get other scores."""

IGNORE = 255  # the label of pixels that do not count
POINTS = 16  # a side of the grid of pixels, in each image, whose correctness is kept

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]


@torch.no_grad()
def evaluate(
    predict: Callable[[Any], Tensor], samples: Iterable[tuple[Any, Tensor]], classes: int, ignore: int = IGNORE
) -> Evaluation:
    """Score a network on images with label maps: the metrics `mIoU`, `mAcc` and `aAcc`, in percent.

    `predict` maps an image to the classes of its pixels, integers (H, W) below `classes`; `samples` yields images, of
    any kind, and label maps (H, W) of integers, in which `ignore` marks pixels that do not count.

    Pixels are counted over all images before anything is divided, as mmsegmentation's IoUMetric does, but in integers,
    which do not round. `mIoU` is the mean over classes of |predicted and labelled| / |predicted or labelled|, without
    classes that are neither; `mAcc` that of the share of a class's pixels that are right, without classes that have
    none; `aAcc` the share of all pixels. n is the number of images: pixels of an image are not independent. The
    standard error is the jackknife's over images.

    `correct` of the evaluation are the labelled ones of POINTS x POINTS evenly spaced pixels of each image: they depend
    on the data alone, and a network's score takes 32 bytes an image at most, however large the images are.

    Raises ValueError if there are no labelled pixels, for labels or predictions that are no classes, and for a
    prediction of another shape than its label map.
    """
    areas, points = [], []
    for image, labels in samples:
        predicted = predict(image)
        _check(predicted, labels, classes, ignore)
        labels_HW = labels.to(predicted.device)
        areas.append(pixel_areas(predicted, labels_HW, classes, ignore))
        points.append(_on_grid(predicted, labels_HW, ignore))
    area_N3C = np.stack(areas) if areas else np.zeros((0, 3, classes), dtype=np.int64)
    total_3C = area_N3C.sum(0)
    correct = np.concatenate(points) if points else np.zeros(0, dtype=np.bool_)
    if not total_3C[2].any() or not len(correct):
        raise ValueError(
            f"{len(areas)} images without a labelled pixel to evaluate on; expected some of the {classes} classes"
        )
    values = means(*total_3C)
    stderr = jackknife(area_N3C)
    names = ("mIoU", "mAcc", "aAcc")
    metrics = (
        Metric(name, float(v), n=len(areas), stderr=float(s)) for name, v, s in zip(names, values, stderr, strict=True)
    )
    return Evaluation(tuple(metrics), correct)


def pixel_areas(predicted: Tensor, labels: Tensor, classes: int, ignore: int = IGNORE) -> Int64Array:
    """Pixels of each class that are both predicted and labelled so, that are predicted so, that are labelled so: two
    maps (H, W) -> int64 (3, C). Ignored pixels count nowhere.
    """
    counted = labels != ignore
    predicted_P, labels_P = predicted[counted].long(), labels[counted].long()
    both_P = labels_P[predicted_P == labels_P]
    counts = [torch.bincount(part, minlength=classes) for part in (both_P, predicted_P, labels_P)]
    return torch.stack(counts).cpu().numpy()


def means(both: Int64Array, predicted: Int64Array, labelled: Int64Array) -> Float64Array:
    """mIoU, mAcc and aAcc in percent from areas (..., C) -> (3, ...). Classes whose ratio is 0 / 0 are left out of the
    means; where none is left the value is NaN.
    """
    iou = _mean_ratio(both, predicted + labelled - both)
    accuracy = _mean_ratio(both, labelled)
    return 100 * np.stack([iou, accuracy, _ratio(both.sum(-1), labelled.sum(-1))])


def jackknife(areas: Int64Array) -> Float64Array:
    """Standard errors (3,) of mIoU, mAcc and aAcc over images, from the areas of each, (N, 3, C): how much the values
    vary when an image is left out (Efron, 1982). 0 for one image. An image without which nothing is labelled is kept.
    """
    without_3N = means(*(areas.sum(0) - areas).swapaxes(0, 1))
    without_3N = without_3N[:, np.isfinite(without_3N).all(0)]
    n = without_3N.shape[1]
    if n < 2:
        return np.zeros(3)
    return np.asarray(math.sqrt(n - 1) * without_3N.std(1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Float64Array:
    """part / whole; NaN for 0 / 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean_ratio(part: Int64Array, whole: Int64Array) -> Float64Array:
    ratio = _ratio(part, whole)
    return _ratio(np.nansum(ratio, -1), (whole > 0).sum(-1))


def _on_grid(predicted: Tensor, labels: Tensor, ignore: int) -> NDArray[np.bool_]:
    rows, columns = (_spaced(size).to(labels.device) for size in labels.shape)
    here = labels[rows][:, columns]
    return (predicted[rows][:, columns] == here)[here != ignore].cpu().numpy()


def _spaced(size: int) -> Tensor:
    """The middles of at most POINTS equal parts of `size` pixels: int64 (P,)."""
    parts = min(POINTS, size)
    return (2 * torch.arange(parts) + 1) * size // (2 * parts)


def _check(predicted: Tensor, labels: Tensor, classes: int, ignore: int) -> None:
    for what, found in (("labels", labels), ("predict returned", predicted)):
        if found.ndim != 2 or found.shape != labels.shape or found.is_floating_point():
            raise ValueError(
                f"{what} {found.dtype} of shape {tuple(found.shape)}; "
                f"expected integers of shape {tuple(labels.shape)}, (H, W)"
            )
    for what, values in (("labels", labels[labels != ignore]), ("predictions", predicted)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(
                f"{what} span {int(values.min())} to {int(values.max())}; expected classes from 0 to {classes - 1}"
            )
