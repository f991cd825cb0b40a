"""Metric, proportion and summarize against numpy, closed forms and JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.metrics import Metric, best_3, proportion, summarize

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(correct=st.lists(st.booleans(), min_size=1, max_size=200))
def test_proportion_is_the_mean_in_percent_with_its_standard_error(correct: list[bool]) -> None:
    percent = 100.0 * np.array(correct)
    metric = proportion("top1", np.array(correct))
    assert metric.n == len(correct)
    assert metric.value == pytest.approx(percent.mean())
    assert metric.stderr == pytest.approx(percent.std() / math.sqrt(len(correct)))


def test_proportion_of_30_in_100() -> None:
    metric = proportion("top1", np.arange(100) < 30)
    assert (metric.value, metric.n) == (30.0, 100)
    assert metric.stderr == pytest.approx(4.58257569)  # 100 * sqrt(0.3 * 0.7 / 100)
    assert metric.higher_is_better


@pytest.mark.parametrize("correct", [np.zeros(0, bool), np.ones(3), np.ones((2, 2), bool)])
def test_proportion_refuses_what_is_not_one_boolean_per_sample(correct: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"top1: got .* expected a boolean"):
        proportion("top1", correct)


@given(value=st.floats(allow_nan=False, allow_infinity=False), n=st.integers(1, 10**9), higher=st.booleans())
def test_metric_survives_strict_json(value: float, n: int, higher: bool) -> None:
    metric = Metric("loss", value, n=n, stderr=0.5, higher_is_better=higher)
    assert Metric.from_json(json.loads(json.dumps(metric.to_json(), allow_nan=False))) == metric


def test_metric_from_numpy_scalars_is_plain_json() -> None:
    metric = Metric("loss", np.float64(1.5), n=3, stderr=np.float64(0.25))
    assert json.loads(json.dumps(metric.to_json())) == {
        "name": "loss",
        "value": 1.5,
        "n": 3,
        "stderr": 0.25,
        "higher_is_better": True,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": "93.1"},
        {"n": 0},
        {"n": 2.5},
        {"stderr": -1.0},
        {"stderr": math.nan},
        {"higher_is_better": 1},
        {"valeu": 1.0},
    ],
)
def test_metric_refuses_bad_fields(change: dict[str, object]) -> None:
    good = {"name": "top1", "value": 93.1, "n": 10, "stderr": 0.1, "higher_is_better": True}
    assert Metric.from_json(good).to_json() == good
    with pytest.raises(ValueError, match=next(iter(change))):
        Metric.from_json(good | change)


def test_metric_refuses_a_missing_field() -> None:
    with pytest.raises(ValueError, match="stderr"):
        Metric.from_json({"name": "top1", "value": 93.1, "n": 10})


@given(values=NUMBERS, higher=st.booleans())
def test_summary_agrees_with_numpy(values: list[float], higher: bool) -> None:
    summary = summarize(values, higher_is_better=higher)
    assert summary.best == (max(values) if higher else min(values))
    assert summary.min == min(values)
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert summary.median == pytest.approx(np.median(values))
    expected_std = np.std(values, ddof=1) if len(values) > 1 else 0.0
    assert summary.std == pytest.approx(expected_std, rel=1e-6, abs=1e-6)
    assert min(values) <= summary.mean <= max(values)
    assert set(json.loads(json.dumps(summary.to_json()))) == {"best", "mean", "median", "min", "std", "n"}


@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 20))
def test_equal_values_have_no_spread(value: float, n: int) -> None:
    summary = summarize([value] * n)
    assert (summary.best, summary.mean, summary.median, summary.min, summary.std) == (
        value,
        value,
        value,
        value,
        0.0,
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_summary_names_the_value_that_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="value 1 of 3 is"):
        summarize([1.0, bad, 2.0])


def test_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values to summarize"):
        summarize([])


def test_the_best_3_are_the_largest_and_all_of_fewer() -> None:
    assert best_3([1.0, 7.0, 3.0, 5.0]) == 5.0
    assert best_3([1.0, 2.0]) == 1.5
