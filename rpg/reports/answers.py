"""What networks of binary tasks answer, and what follows from it without running any of them again.

Each gives one of two answers to every image, so an answer is known from whether it is right on the network's own task,
and then also whether it is right on any other task. Legend: N samples, K classes of the data set, M networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from zoo.conditions import bits, never_one
from zoo.scoring import Score
from zoo.structure import Frozen

Answers = NDArray[np.bool_]
Classes = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A network on the task it was made for: `top1` and `balanced` accuracy in percent; `shares` (K,) of the samples of
    each class that it answers with 1, not a number for classes that have none.
    """

    condition: str
    top1: float
    balanced: float
    shares: Shares

    @classmethod
    def of(cls, condition: str, answers: Answers, classes: Classes) -> Outcome:
        """Of these answers (N,) to samples of these classes (N,)."""
        count = len(condition)
        shares_K = shares_of(answers, classes, count)
        top1, balanced = accuracies(shares_K[None], np.bincount(classes, minlength=count), condition)
        return cls(condition, float(top1[0]), float(balanced[0]), shares_K)

    @property
    def right(self) -> Shares:
        """The accuracy on the samples of each class, (K,), in percent."""
        return 100 * np.where(labels_of(self.condition), self.shares, 1 - self.shares)


class Slope(Frozen):
    """By how much the share of a class's samples that are answered with 1 is larger where its bit is 1: 1 for networks
    that do as they are told, 0 for those that do not listen. `stderr` over networks, None where one side has only one.
    """

    value: float
    stderr: float | None


class NewClasses(Frozen):
    """`classes` that no task that was learnt from labels 1, but tasks of a report do. `accuracy` of each group in
    percent, on the samples of these where they are labelled 1, and on all others: means over networks.
    """

    classes: tuple[int, ...]
    accuracy: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, outcomes: Mapping[str, Sequence[Outcome]], learnt: Sequence[str], counts: NDArray[np.int64]) -> Self:
        """Of groups of networks, where these tasks were learnt, on data with `counts` (K,) samples of each class."""
        asked = {outcome.condition for found in outcomes.values() for outcome in found}
        classes = tuple(k for k in never_one(learnt) if any(condition[k] == "1" for condition in asked))
        accuracy = {}
        for name, found in outcomes.items():
            new_MK = np.stack([[k in classes and bit for k, bit in enumerate(labels_of(o.condition))] for o in found])
            right_MK = np.nan_to_num(np.stack([outcome.right for outcome in found]))
            weights = (new_MK * counts, ~new_MK * counts)
            some_M = weights[0].any(1) & weights[1].any(1)
            if some_M.any():
                on_new, on_others = ((right_MK * each).sum(1)[some_M] / each.sum(1)[some_M] for each in weights)
                accuracy[name] = round(float(on_new.mean()), 4), round(float(on_others.mean()), 4)
        return cls(classes=classes, accuracy=accuracy)


def labels_of(condition: str) -> Answers:
    """The label of each class (K,)."""
    return bits(condition).numpy().astype(bool)


def answers_of(score: Score, classes: Classes) -> Answers:
    """What the network answers to each sample (N,)."""
    return score.correct_per_sample() == labels_of(str(score.condition))[classes]


def outcome_of(score: Score, classes: Classes) -> Outcome:
    """A scored network."""
    metrics, condition = score.metrics, str(score.condition)
    shares_K = shares_of(answers_of(score, classes), classes, len(condition))
    return Outcome(condition, metrics["top1"].value, metrics["balanced"].value, shares_K)


def shares_of(answers: Answers, classes: Classes, count: int) -> Shares:
    """The share of each class's samples (K,) that are answered with 1; of answers and classes (N,), of so many classes.
    Not a number for a class without samples.
    """
    ones_K, samples_K = np.bincount(classes, weights=answers, minlength=count), np.bincount(classes, minlength=count)
    return np.divide(ones_K, samples_K, out=np.full(count, np.nan), where=samples_K > 0)


def accuracies(shares: Shares, counts: NDArray[np.int64], condition: str) -> tuple[Shares, Shares]:
    """Top-1 and balanced accuracy on a task, in percent, (M,) each, of networks whose shares are (M, K), on data that
    have `counts` (K,) samples of each class.
    """
    label_K = labels_of(condition)
    right_MK = np.nan_to_num(np.where(label_K, shares, 1 - shares)) * counts
    top1_M = 100 * right_MK.sum(1) / counts.sum()
    sides = [side for side in (label_K, ~label_K) if counts[side].any()]
    balanced_M = np.mean([100 * right_MK[:, side].sum(1) / counts[side].sum() for side in sides], axis=0)
    return top1_M, balanced_M


def majority(answers: Sequence[Answers]) -> Answers:
    """What most networks answer (N,), the first one's answer where there is a tie."""
    ones_N = np.sum(answers, axis=0, dtype=np.int64)
    found: Answers = np.where(2 * ones_N == len(answers), answers[0], 2 * ones_N > len(answers))
    return found


def of_other_tasks(outcomes: Sequence[Outcome], condition: str, counts: NDArray[np.int64]) -> tuple[Shares, Shares]:
    """Top-1 and balanced accuracy, (M,) each, of the networks of all other tasks as if they had been made for this one:
    what a random condition gives, with all conditions instead of a draw. Nothing where there is no other task.
    """
    others = [outcome.shares for outcome in outcomes if outcome.condition != condition]
    if not others:
        return np.zeros(0), np.zeros(0)
    return accuracies(np.stack(others), counts, condition)


def slopes(outcomes: Sequence[Outcome]) -> tuple[Slope | None, ...]:
    """The slope of each class (K,), by least squares of the share on the bit: the difference between the means. None
    where all tasks label the class alike, and where it has no samples.
    """
    shares_MK = np.stack([outcome.shares for outcome in outcomes])
    label_MK = np.stack([labels_of(outcome.condition) for outcome in outcomes])
    return tuple(_slope(shares_MK[label_MK[:, k], k], shares_MK[~label_MK[:, k], k]) for k in range(shares_MK.shape[1]))


def _slope(ones: Shares, zeros: Shares) -> Slope | None:
    if not len(ones) or not len(zeros) or np.isnan(ones).any():
        return None
    value = round(float(ones.mean() - zeros.mean()), 6)
    if min(len(ones), len(zeros)) < 2:
        return Slope(value=value, stderr=None)
    variance = ones.var(ddof=1) / len(ones) + zeros.var(ddof=1) / len(zeros)
    return Slope(value=value, stderr=round(float(variance**0.5), 6))
