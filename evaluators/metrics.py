"""Metrics of one network, and the paper's statistics over many networks.

Proportions are in percent. All values are finite, so everything here can be written as standard JSON.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=STRICT)
class Metric:
    """One measured value: the mean of `n` samples, and the standard error of that mean in the same unit.

    Raises ValueError (pydantic's ValidationError) for a wrong type, NaN, infinity, n < 1 or stderr < 0.
    """

    name: str
    value: float
    n: PositiveInt
    stderr: NonNegativeFloat
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """The inverse of `to_json`. Raises ValueError for missing, unknown or badly typed fields."""
        return cls(**data)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one network, and `correct`, bool (N,): which samples it gets right, in the order of the data. Networks
    are compared by what they get wrong (evaluators.similarity); each evaluator says what its samples are.
    """

    metrics: tuple[Metric, ...]
    correct: NDArray[np.bool_]


def proportion(name: str, correct: NDArray[np.bool_]) -> Metric:
    """The share of True in `correct` (n,), in percent, with the standard error of a binomial proportion.

    Raises ValueError if `correct` is not boolean, not one-dimensional or empty.
    """
    if correct.dtype != np.bool_ or correct.ndim != 1 or not len(correct):
        raise ValueError(f"{name}: got {correct.dtype} of shape {correct.shape}; expected a boolean per sample, n >= 1")
    n = len(correct)
    p = int(correct.sum()) / n
    return Metric(name=name, value=100 * p, n=n, stderr=100 * math.sqrt(p * (1 - p) / n))


@dataclass(frozen=True, config=STRICT)
class Summary:
    """One metric over `n` networks: the statistics of the paper's tables.

    `best` is the largest value, or the smallest where lower is better; `min` is the smallest in both cases.
    `std` is the sample standard deviation over the networks (divisor n - 1), 0 for one network.
    """

    best: float
    mean: float
    median: float
    min: float
    std: NonNegativeFloat
    n: PositiveInt

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def best_3(values: Sequence[float]) -> float:
    """Mean of the three largest values, or of all where they are fewer: D2NWG's statistic, a selection by the data that
    it is reported on.
    """
    return statistics.mean(sorted(values)[-3:])


def summarize(values: Sequence[float], higher_is_better: bool = True) -> Summary:
    """The paper's statistics over the values of one metric, one value per network.

    Raises ValueError for no values, or NaN or infinity among them.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("no values to summarize; expected one value per network, for at least one network")
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"value {index} of {len(numbers)} is {number}; expected finite values, leave this one out")
    # `statistics` sums exactly, so equal values have exactly their own mean and a deviation of exactly 0.
    return Summary(
        best=max(numbers) if higher_is_better else min(numbers),
        mean=statistics.mean(numbers),
        median=statistics.median(numbers),
        min=min(numbers),
        std=statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
        n=len(numbers),
    )
