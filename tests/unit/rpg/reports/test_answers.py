"""Answers of networks: what follows from them against scoring every network on every task."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.classification import balanced_accuracy
from evaluators.metrics import proportion
from rpg.reports.answers import NewClasses, Outcome, answers_of, labels_of, majority, of_other_tasks, outcome_of, slopes
from rpg.reports.tasks import class_accuracies
from zoo.conditions import all_conditions
from zoo.scoring import Score

CONDITIONS = st.sampled_from(all_conditions())
CLASSES = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def scored(condition: str, answers: np.ndarray) -> Score:
    correct = answers == labels_of(condition)[CLASSES]
    metrics = proportion("top1", correct), balanced_accuracy(correct, labels_of(condition)[CLASSES].astype(np.int64))
    return Score(
        id="n",
        sha256="0" * 64,
        evaluator="lookup/1",
        protocol="made up",
        condition=condition,
        metrics={metric.name: metric for metric in metrics},
        samples=len(correct),
        correct=base64.b64encode(np.packbits(correct).tobytes()).decode(),
        versions={},
    )


@settings(max_examples=30)
@given(CONDITIONS, st.integers(0, 2**32))
def test_a_score_tells_the_answers_and_shares_tell_the_scores(condition: str, seed: int) -> None:
    answers = np.random.default_rng(seed).random(len(CLASSES)) < 0.4
    score = scored(condition, answers)
    assert np.array_equal(answers_of(score, CLASSES), answers)
    own, counted = outcome_of(score, CLASSES), Outcome.of(condition, answers, CLASSES)
    assert counted.top1 == pytest.approx(own.top1)
    assert counted.balanced == pytest.approx(own.balanced)
    correct = score.correct_per_sample()
    np.testing.assert_allclose(own.right, [100 * correct[k == CLASSES].mean() for k in range(10)])


@settings(max_examples=30)
@given(st.lists(CONDITIONS, min_size=2, max_size=5, unique=True), st.integers(0, 2**32))
def test_a_random_condition_is_every_other_tasks_networks_scored_here(conditions: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [(c, rng.random(len(CLASSES)) < 0.5) for c in conditions for _ in range(2)]
    outcomes = [Outcome.of(c, found, CLASSES) for c, found in answers]
    top1, balanced = of_other_tasks(outcomes, conditions[0], np.bincount(CLASSES))
    expected = [scored(conditions[0], found).metrics for c, found in answers if c != conditions[0]]
    np.testing.assert_allclose(top1, [metrics["top1"].value for metrics in expected])
    np.testing.assert_allclose(balanced, [metrics["balanced"].value for metrics in expected])


def test_no_other_task_has_nothing_to_say() -> None:
    only = Outcome.of("0000011111", CLASSES > 4, CLASSES)
    assert [len(found) for found in of_other_tasks([only], "0000011111", np.bincount(CLASSES))] == [0, 0]


def test_the_majority_answers_and_the_first_decides_a_tie() -> None:
    one, two, three = (np.array(list(bits), dtype=bool) for bits in ([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]))
    assert majority([one, two, three]).tolist() == [True, False, True, False]
    assert majority([one, two]).tolist() == [True, True, False, False]
    assert majority([two, one]).tolist() == [True, False, True, False]


def test_slopes_of_networks_that_do_as_told_half_listen_or_do_not() -> None:
    conditions = all_conditions()[::9]
    labels = np.stack([labels_of(c) for c in conditions]).astype(float)
    told = [Outcome(c, 0.0, 0.0, row) for c, row in zip(conditions, labels, strict=True)]
    assert [slope and (slope.value, slope.stderr) for slope in slopes(told)] == [(1.0, 0.0)] * 10
    half = [Outcome(c, 0.0, 0.0, 0.3 + 0.5 * row) for c, row in zip(conditions, labels, strict=True)]
    assert [slope and slope.value for slope in slopes(half)] == [0.5] * 10
    deaf = [Outcome(c, 0.0, 0.0, np.full(10, 0.7)) for c in conditions]
    assert [slope and slope.value for slope in slopes(deaf)] == [0.0] * 10


def test_slopes_are_least_squares_and_need_both_labels() -> None:
    rng = np.random.default_rng(0)
    conditions = [c for c in all_conditions()[::7] if c[0] == "1"]
    found = [Outcome(c, 0.0, 0.0, rng.random(10)) for c in conditions]
    first, *others = slopes(found)
    assert first is None
    for k, slope in enumerate(others, 1):
        x, y = [float(c[k]) for c in conditions], [outcome.shares[k] for outcome in found]
        assert slope is not None
        assert slope.value == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-6)
        ones, zeros = ([v for v, bit in zip(y, x, strict=True) if bit == side] for side in (1, 0))
        error = np.sqrt(np.var(ones, ddof=1) / len(ones) + np.var(zeros, ddof=1) / len(zeros))
        assert slope.stderr == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("missing", [2, 9])  # the last one, too
def test_a_class_without_samples_has_no_score(missing: int) -> None:
    classes = CLASSES[missing != CLASSES]
    conditions = ["0010000011", "1101000001", "0010011111"]
    answers = np.random.default_rng(0).random(len(classes)) < 0.4
    outcomes = [Outcome.of(c, answers, classes) for c in conditions]
    correct = answers == labels_of(conditions[0])[classes]
    assert outcomes[0].top1 == pytest.approx(100 * correct.mean())
    assert [k for k, right in enumerate(outcomes[0].right) if np.isnan(right)] == [missing]
    assert [k for k, right in enumerate(class_accuracies(outcomes)) if right is None] == [missing]
    assert slopes(outcomes)[missing] is None
    counts = np.bincount(classes, minlength=10)
    top1, balanced = of_other_tasks(outcomes, conditions[0], counts)
    assert np.isfinite([*top1, *balanced]).all()
    found = NewClasses.of({"made": outcomes}, ["1101000000"], counts)  # learnt: 2 and 9 are new
    assert np.isfinite(found.accuracy["made"]).all()
    alone = ["1101000100" if missing == 9 else "1101001000"]
    assert NewClasses.of({"made": outcomes[:1]}, alone, np.where(np.arange(10) == missing, 0, 5)).accuracy


def test_new_classes_are_scored_apart_where_they_are_labelled_1() -> None:
    counts = np.bincount(CLASSES)
    shares = np.linspace(0.1, 1.0, 10)
    asked = ["1100000001", "1010000000", "0010000000"]  # class 0, new, is labelled 0 by the last: nothing to say
    found = NewClasses.of(
        {"made": [Outcome(c, 0.0, 0.0, shares) for c in asked], "other": [Outcome(asked[2], 0.0, 0.0, shares)]},
        ["0110000001", "0010000011"],
        counts,
    )
    assert found.classes == (0,)  # 3, 4 and 5 are never labelled 1, but nothing asks for them
    rights = [Outcome(c, 0.0, 0.0, shares).right for c in asked[:2]]
    others = [(right[1:] * counts[1:]).sum() / counts[1:].sum() for right in rights]
    assert list(found.accuracy) == ["made"]
    assert found.accuracy["made"] == pytest.approx((10.0, np.mean(others)), abs=1e-4)
    assert NewClasses.of({"made": [Outcome(asked[2], 0.0, 0.0, shares)]}, asked, counts).classes == ()
