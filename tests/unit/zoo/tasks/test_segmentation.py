"""The segmentation evaluator against a confusion matrix counted by hand, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evaluators.segmentation import IGNORE, POINTS, evaluate, jackknife, means, pixel_areas

CLASSES = 3


def by_hand(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float]:
    """mIoU, mAcc and aAcc from a confusion matrix [label, prediction], in Python."""
    matrix = [[0] * classes for _ in range(classes)]
    for predicted, labels in pairs:
        for p, y in zip(predicted.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if y != IGNORE:
                matrix[y][p] += 1
    ious, accuracies = [], []
    for c in range(classes):
        labelled, predicted_as = sum(matrix[c]), sum(row[c] for row in matrix)
        if labelled + predicted_as:
            ious.append(matrix[c][c] / (labelled + predicted_as - matrix[c][c]))
        if labelled:
            accuracies.append(matrix[c][c] / labelled)
    right = sum(matrix[c][c] for c in range(classes))
    return [100 * sum(v) / len(v) for v in (ious, accuracies, [right / sum(map(sum, matrix))])]


maps = arrays.arrays(np.int64, (2, 4, 5), elements=st.integers(0, CLASSES - 1))
holes = arrays.arrays(np.bool_, (4, 5))


@given(st.lists(st.tuples(maps, holes), min_size=1, max_size=4))
def test_metrics_are_those_of_a_confusion_matrix_counted_by_hand(drawn):
    pairs = []
    for (predicted, labels), hole in drawn:
        labels = np.where(hole, IGNORE, labels)
        labels[0, 0] = predicted[0, 0]  # something is labelled
        pairs.append((predicted, labels))
    samples = [(torch.from_numpy(p), torch.from_numpy(y.astype(np.uint8))) for p, y in pairs]
    found = evaluate(lambda image: image, samples, CLASSES)
    assert [metric.name for metric in found.metrics] == ["mIoU", "mAcc", "aAcc"]
    np.testing.assert_allclose([m.value for m in found.metrics], by_hand(pairs, CLASSES), rtol=1e-9, atol=1e-9)
    assert {metric.n for metric in found.metrics} == {len(pairs)}
    # Images of 4 x 5 pixels are smaller than the grid, so that it has all of them, in their order.
    right = [p[y != IGNORE] == y[y != IGNORE] for p, y in pairs]
    assert np.array_equal(found.correct, np.concatenate(right))


def test_the_standard_error_is_the_jackknife_by_its_definition():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, CLASSES, (6, 7)), rng.integers(0, CLASSES, (6, 7))) for _ in range(5)]
    left_out = np.array([by_hand(pairs[:i] + pairs[i + 1 :], CLASSES) for i in range(5)])
    expected = np.sqrt(4 / 5 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    areas = np.stack([pixel_areas(*map(torch.from_numpy, pair), CLASSES) for pair in pairs])
    np.testing.assert_allclose(jackknife(areas), expected, rtol=1e-9)
    assert jackknife(areas[:1]).tolist() == [0, 0, 0]


def test_the_standard_error_is_how_much_the_value_varies_between_data_sets():
    rng = np.random.default_rng(0)

    def data_set() -> np.ndarray:
        labels = [torch.from_numpy(rng.integers(0, CLASSES, (8, 8))) for _ in range(50)]
        wrong = [torch.from_numpy(rng.random((8, 8)) < rng.random()) for _ in labels]
        pairs = zip(labels, wrong, strict=True)
        return np.stack([pixel_areas(torch.where(bad, (y + 1) % CLASSES, y), y, CLASSES) for y, bad in pairs])

    drawn = [data_set() for _ in range(100)]
    spread = np.std([means(*areas.sum(0)) for areas in drawn], axis=0)
    stated = np.mean([jackknife(areas) for areas in drawn], axis=0)
    assert np.all(np.abs(stated / spread - 1) < 0.3)


def test_the_kept_pixels_are_few_and_the_same_for_every_network():
    labels = torch.zeros(200, 300, dtype=torch.int64)
    labels[:100] = IGNORE
    perfect = evaluate(lambda image: torch.zeros_like(labels), [(None, labels)] * 3, 2)
    assert perfect.correct.shape == (3 * POINTS * POINTS // 2,)
    assert perfect.correct.all()
    left_half = torch.zeros_like(labels)
    left_half[:, 150:] = 1
    half = evaluate(lambda image: left_half, [(None, labels)] * 3, 2)
    assert half.correct.mean() == 0.5
    assert [round(m.value, 9) for m in half.metrics] == [25.0, 50.0, 50.0]


def test_classes_that_are_neither_predicted_nor_labelled_do_not_count():
    labels = torch.tensor([[0, 0], [1, 1]])
    found = evaluate(lambda image: image, [(labels, labels)], 150)
    assert [(m.value, m.stderr) for m in found.metrics] == [(100.0, 0.0)] * 3


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        (torch.zeros(2, 2).long(), torch.full((2, 2), IGNORE), "without a labelled pixel"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 2).long(), r"predict returned .*\(2, 3\); expected .*\(2, 2\)"),
        (torch.zeros(2, 2), torch.zeros(2, 2).long(), "predict returned torch.float32"),
        (torch.zeros(2, 2).long(), torch.zeros(1, 2, 2).long(), "labels torch.int64 of shape"),
        (torch.zeros(2, 2).long(), torch.full((2, 2), 3), "labels span 3 to 3; expected classes from 0 to 2"),
        (torch.full((2, 2), -1), torch.zeros(2, 2).long(), "predictions span -1 to -1"),
    ],
)
def test_maps_that_do_not_fit_are_refused(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(lambda image: predicted, [(None, labels)], 3)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="0 images without a labelled pixel"):
        evaluate(lambda image: image, [], 3)
