"""Similarity measures against sets, loops, exact fractions and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluators import similarity
from evaluators.similarity import (
    disagreement,
    error_iou,
    max_error_iou,
    nearest,
    novel_and_good,
    rms_spread,
    squared_distances,
    squared_distances_within,
)

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 999)


def random_errors(networks: int, samples: int, seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    return rng.random((networks, samples)) < rng.random((networks, 1))  # some networks wrong never, some always


@pytest.fixture(params=[3, similarity.CHUNK])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(similarity, "CHUNK", request.param)
    return request.param


@given(a=SIZES, b=SIZES, samples=st.integers(0, 12), seed=SEEDS)
def test_error_iou_is_the_iou_of_sets(a: int, b: int, samples: int, seed: int) -> None:
    wrong, reference = random_errors(a, samples, seed), random_errors(b, samples, seed + 1)
    iou = error_iou(wrong, reference)
    assert (iou.shape, iou.dtype) == ((a, b), np.float64)
    for i in range(a):
        for j in range(b):
            first, second = set(np.flatnonzero(wrong[i])), set(np.flatnonzero(reference[j]))
            assert iou[i, j] == (len(first & second) / len(first | second) if first | second else 1.0)


def test_error_iou_over_several_chunks(chunk: int) -> None:
    wrong = np.array([[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]], dtype=bool)
    reference = np.array([[0, 0, 0, 1, 1, 1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(error_iou(wrong, reference), [[2 / 8], [0.0]])


@given(networks=st.integers(2, 6), seed=SEEDS)
def test_max_error_iou_leaves_the_network_itself_out(networks: int, seed: int) -> None:
    wrong = random_errors(networks, 12, seed)
    iou = error_iou(wrong, wrong)
    np.testing.assert_array_equal(max_error_iou(wrong, wrong), np.ones(networks))
    expected = [max(iou[i, j] for j in range(networks) if j != i) for i in range(networks)]
    np.testing.assert_array_equal(max_error_iou(wrong, wrong, np.eye(networks, dtype=bool)), expected)


def test_a_copy_is_found() -> None:
    reference = random_errors(5, 100, seed=0)
    copy_and_complement = np.stack([reference[3], ~reference[3]])
    most_alike = max_error_iou(copy_and_complement, reference)
    assert most_alike[0] == 1.0
    assert most_alike[1] < 1.0


@pytest.mark.parametrize(
    ("wrong", "reference", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((2, 4), bool), "same columns"),
        (np.zeros(3, bool), np.zeros((2, 3), bool), "a row per network"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "float64 and bool; expected bool"),
    ],
)
def test_error_iou_refuses_what_is_not_an_error_matrix(wrong: np.ndarray, reference: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        error_iou(wrong, reference)


def test_max_error_iou_needs_somebody_to_compare_with() -> None:
    with pytest.raises(ValueError, match="network 0 has nothing"):
        max_error_iou(np.zeros((2, 3), bool), np.zeros((0, 3), bool))
    with pytest.raises(ValueError, match="network 1 has nothing"):
        max_error_iou(np.zeros((2, 3), bool), np.zeros((1, 3), bool), np.array([[False], [True]]))


@given(
    a=SIZES,
    b=SIZES,
    size=st.integers(0, 9),
    seed=SEEDS,
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_squared_distances_agree_with_exact_fractions(a: int, b: int, size: int, seed: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(seed)
    weights, reference = (torch.randn(n, size, generator=rng).to(dtype) for n in (a, b))
    squared = squared_distances(weights, reference)
    assert (squared.shape, squared.dtype) == ((a, b), np.float64)
    for i in range(a):
        for j in range(b):
            pairs = zip(weights[i].tolist(), reference[j].tolist(), strict=True)
            exact = sum((Fraction(x) - Fraction(y)) ** 2 for x, y in pairs)
            assert squared[i, j] == pytest.approx(float(exact), rel=1e-13, abs=0)


def test_squared_distances_of_nearly_equal_large_weights(chunk: int) -> None:
    """|a|² + |b|² - 2ab would lose this distance entirely: it is 1e-27 of |a|²."""
    weights = torch.full((30, 1000), 1e6, dtype=torch.float64)  # libraries take that shortcut for many rows only
    reference = weights.clone()
    reference[0, 500] += 2.0**-20
    assert squared_distances(weights, reference)[0, 0] == pytest.approx(2.0**-40, rel=1e-13, abs=0)
    np.testing.assert_array_equal(squared_distances(weights, weights), np.zeros((30, 30)))
    within = squared_distances_within(reference)
    assert within[0, 1:] == pytest.approx([2.0**-40] * 29, rel=1e-13, abs=0)
    np.testing.assert_array_equal(within[1:, 1:], np.zeros((29, 29)))


def test_squared_distances_add_up_over_tensors_and_chunks(chunk: int) -> None:
    rng = torch.Generator().manual_seed(0)
    weights, reference = (torch.randn(n, 31, generator=rng, dtype=torch.float64) for n in (4, 5))
    whole = ((weights[:, None] - reference[None]) ** 2).sum(-1).numpy()
    first, second = (weights[:, :11], reference[:, :11]), (weights[:, 11:], reference[:, 11:])
    parts = squared_distances(*first) + squared_distances(*second)
    np.testing.assert_allclose(squared_distances(weights, reference), whole, rtol=1e-13)
    np.testing.assert_allclose(parts, whole, rtol=1e-13)


@given(networks=SIZES, size=st.integers(0, 40), seed=SEEDS)
def test_distances_within_are_those_of_all_pairs(networks: int, size: int, seed: int) -> None:
    weights = torch.randn(networks, size, generator=torch.Generator().manual_seed(seed))
    within = squared_distances_within(weights)
    assert (within.shape, within.dtype) == ((networks, networks), np.float64)
    np.testing.assert_allclose(within, squared_distances(weights, weights), rtol=1e-13)
    np.testing.assert_array_equal(np.diag(within), np.zeros(networks))


def test_a_nan_spoils_its_own_row_and_column_within() -> None:
    weights = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [3.0, 5.0]])
    within = squared_distances_within(weights)
    np.testing.assert_allclose(within, [[0, math.nan, 25], [math.nan, 0, math.nan], [25, math.nan, 0]])


def test_nan_weights_spoil_their_own_network_only() -> None:
    weights = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    squared = squared_distances(weights, torch.zeros(2, 2))
    np.testing.assert_array_equal(squared, [[1.0, 1.0], [math.nan, math.nan]])
    values, _ = nearest(np.sqrt(squared))
    assert novel_and_good(values, 0.5, np.array([90.0, 90.0]), bar=80) == 50.0


def test_squared_distances_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(2, 4\)"):
        squared_distances(torch.zeros(2, 3), torch.zeros(2, 4))


# Few distinct values, so that ties are common.
@given(a=st.integers(2, 6), b=SIZES, seed=SEEDS)
def test_nearest_is_the_first_smallest(a: int, b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 4, size=(a, b)).astype(np.float64)
    values, index = nearest(distances)
    for i, row in enumerate(distances.tolist()):
        assert (values[i], index[i]) == (min(row), row.index(min(row)))

    group = rng.integers(0, 4, size=(a, a)).astype(np.float64)
    before = group.copy()
    runs = rng.permutation(np.arange(a) % 2)
    for leave_out in (np.eye(a, dtype=bool), runs[:, None] == runs):
        values, index = nearest(group, leave_out)
        for i in range(a):
            assert (values[i], index[i]) == min((group[i, j], j) for j in range(a) if not leave_out[i, j])
    np.testing.assert_array_equal(group, before)


def test_nearest_refuses_groups_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="network 0 has nothing"):
        nearest(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="network 0 has nothing"):
        nearest(np.zeros((1, 1)), np.eye(1, dtype=bool))
    with pytest.raises(ValueError, match=r"shape \(2, 3\) but for \(2, 2\)"):
        nearest(np.zeros((2, 3)), np.eye(2, dtype=bool))


def test_novel_and_good_counts_both_conditions_at_their_edges() -> None:
    distances = np.array([1.0, 1.1, 1.1, 9.0])  # on the threshold is not novel
    accuracies = np.array([90.0, 88.0, 87.9, 99.0])  # on the bar is good
    assert novel_and_good(distances, 1.0, accuracies, bar=88.0) == 50.0


@pytest.mark.parametrize(("networks", "accuracies"), [(0, 0), (2, 3)])
def test_novel_and_good_refuses_unequal_or_empty_groups(networks: int, accuracies: int) -> None:
    with pytest.raises(ValueError, match="one of each for at least one network"):
        novel_and_good(np.ones(networks), 1.0, np.ones(accuracies), bar=1.0)


@given(networks=st.integers(2, 8), size=st.integers(1, 20), seed=SEEDS)
def test_rms_spread_is_the_root_of_the_summed_variance(networks: int, size: int, seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(networks, size))
    spread = rms_spread(np.sqrt(squared_distances_within(torch.from_numpy(weights))))
    assert spread == pytest.approx(math.sqrt(weights.var(axis=0, ddof=1).sum()))


def test_rms_spread_of_one_network_and_of_no_group() -> None:
    assert rms_spread(np.zeros((1, 1))) == 0.0
    for shape in [(0, 0), (2, 3)]:
        with pytest.raises(ValueError, match="all pairs of one group"):
            rms_spread(np.zeros(shape))


@given(networks=st.integers(2, 6), samples=st.integers(1, 12), seed=SEEDS)
def test_disagreement_is_the_mean_over_pairs(networks: int, samples: int, seed: int) -> None:
    wrong = random_errors(networks, samples, seed)
    pairs = [np.mean(wrong[i] != wrong[j]) for i in range(networks) for j in range(i)]
    assert disagreement(wrong) == pytest.approx(100 * np.mean(pairs))


def test_one_network_disagrees_with_nobody() -> None:
    with pytest.raises(ValueError, match="expected two networks or more"):
        disagreement(np.zeros((1, 5), dtype=bool))
