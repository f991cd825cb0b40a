"""Whether two groups of networks come from one distribution: a classifier, the energy distance, the shift of the mean.

"Novel and good" can be gained by one learned shift plus noise: far from every training network, accurate, and all of
them moved the same way. Networks that nobody trained on, held out, expose it: a sample of the true distribution is as
hard to tell from them as chance, lies at an energy distance of zero and has their mean.

All is computed from distances, so the weights are not needed. Legend: A networks of the one group, B of the other, R
reference networks (the training checkpoints), K principal components. Distances are Euclidean, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluators.similarity import Float64Array

COMPONENTS = 50  # of the reference networks; what lies outside is in the radius
FOLDS, SHUFFLES = 5, 20
PENALTIES = (1, 10, 100, 1e3, 1e4, 1e5)
FEWEST = 10  # networks of a group: with fewer, the classifier's error is as large as its answer


@dataclass(frozen=True)
class Codes:
    """Where networks lie: `components` (A, K), along the principal components of the reference networks, and `radius`
    (A,), the distance from their mean.
    """

    components: Float64Array
    radius: Float64Array

    @property
    def features(self) -> Float64Array:
        """(A, K + 1)."""
        return np.column_stack([self.components, self.radius])


def codes(to_reference: Float64Array, within_reference: Float64Array, components: int = COMPONENTS) -> Codes:
    """Codes of networks with these distances to the reference networks, (A, R), and those among them, (R, R).

    The scalar products of deviations from the reference networks' mean follow from squared distances (Gower 1968), and
    principal components from these. K is `components`, or fewer where the reference networks span fewer.

    Raises ValueError for shapes that do not fit, and for fewer than two reference networks.
    """
    count = len(within_reference)
    if within_reference.shape != (count, count) or to_reference.ndim != 2 or to_reference.shape[1] != count:
        raise ValueError(
            f"distances have shapes {to_reference.shape} and {within_reference.shape}; expected (A, R) and (R, R)"
        )
    if count < 2:
        raise ValueError(f"principal components need two reference networks or more, got {count}")
    squared_RR, squared_AR = np.square(within_reference), np.square(to_reference)
    mean_R, mean = squared_RR.mean(1), squared_RR.mean()
    gram_RR = (mean_R[:, None] + mean_R[None, :] - squared_RR - mean) / 2
    products_AR = (squared_AR.mean(1)[:, None] + mean_R[None, :] - squared_AR - mean) / 2
    values, vectors = np.linalg.eigh(gram_RR)
    kept = [k for k in reversed(range(count)) if values[k] > 1e-9 * values[-1]][: min(components, count - 1)]
    along_AK = products_AR @ vectors[:, kept] / np.sqrt(values[kept])
    radius_A = np.sqrt(np.maximum(squared_AR.mean(1) - mean / 2, 0))
    return Codes(along_AK, radius_A)


@dataclass(frozen=True)
class Auc:
    """The area under the ROC curve, 1 where a classifier tells two groups apart without fail; where nothing does it is
    0.5, with this standard deviation.
    """

    value: float
    chance_std: float


def classifier_auc(group: Codes, other: Codes, seed: int = 0) -> Auc | None:
    """How well a classifier tells the two groups apart on networks that it has not seen: ridge regression on
    standardised codes and their squares, its penalty the best of leave-one-out on the training folds (a closed form);
    5-fold cross-validation, the folds' AUCs averaged. None where one of the groups has fewer than FEWEST networks.

    What it gives where there is no difference is measured, on shuffled labels: with as many codes as networks it
    scatters up to twice as much as the usual formula for an AUC (Hanley and McNeil 1982) has it.
    Source: classifier two-sample tests, Lopez-Paz and Oquab 2017, https://arxiv.org/abs/1610.06545.
    """
    sizes = [len(group.radius), len(other.radius)]
    if min(sizes) < FEWEST:
        return None
    values = np.concatenate([group.features, other.features])
    values = np.column_stack([values, np.square(values - values.mean(0))])
    labels = np.repeat([True, False], sizes)
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(labels) for _ in range(SHUFFLES)]
    auc, *chance = _cross_validated(values, np.column_stack([labels, *shuffled]), seed)
    return Auc(float(auc), float(np.sqrt(np.mean(np.square(np.array(chance) - 0.5)))))


def _cross_validated(values: Float64Array, labels: NDArray[np.bool_], seed: int) -> Float64Array:
    """The AUC for every column of labels (N, L); the folds have equal shares of the first. All columns share one
    decomposition of the values (N, features).
    """
    rng, fold = np.random.default_rng(seed), np.empty(len(labels), dtype=np.int64)
    for kind in (True, False):
        members = rng.permutation(np.flatnonzero(labels[:, 0] == kind))
        fold[members] = np.arange(len(members)) % FOLDS
    found = []
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        predicted = ridge(values[train], labels[train].astype(np.float64), values[test])
        found.append([_auc(*pair) for pair in zip(predicted.T, labels[test].T, strict=True)])
    return np.nanmean(found, axis=0)


def ridge(values: Float64Array, targets: Float64Array, asked: Float64Array) -> Float64Array:
    """Ridge regression on standardised values (N, F), fitted to targets (N, L), at the values that are asked for,
    (M, F) -> (M, L). Each target has the penalty of PENALTIES with the least leave-one-out error, which is known in
    closed form (Golub, Heath and Wahba 1979).
    """
    mean, std, middle = values.mean(0), values.std(0), targets.mean(0)
    unit = np.where(std > 0, std, 1.0)
    left, singular, right = np.linalg.svd((values - mean) / unit, full_matrices=False)
    along_KL, points_MK = left.T @ (targets - middle), (asked - mean) / unit @ right.T
    errors, answers = [], []
    for penalty in PENALTIES:
        kept_K = singular**2 / (singular**2 + penalty)
        leverage_N = 1 / len(values) + np.square(left) @ kept_K
        residual_NL = targets - middle - left @ (kept_K[:, None] * along_KL)
        errors.append(np.square(residual_NL / (1 - leverage_N)[:, None]).mean(0))
        answers.append(middle + points_MK @ ((singular / (singular**2 + penalty))[:, None] * along_KL))
    best_L = np.argmin(errors, axis=0)
    return np.stack(answers)[best_L, :, np.arange(targets.shape[1])].T


def _auc(scores: Float64Array, labels: NDArray[np.bool_]) -> float:
    """The share of pairs in which the positive one scores higher; NaN where all are of one kind."""
    higher = scores[labels][:, None] - scores[~labels][None, :]
    return float(np.mean((np.sign(higher) + 1) / 2)) if higher.size else np.nan


def energy_distance(between: Float64Array, within: Float64Array, within_other: Float64Array) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, estimated without bias (so it may be slightly negative): zero where the two
    groups have one distribution, positive otherwise (Székely and Rizzo 2013). In units of the distances.

    between (A, B), within (A, A), within_other (B, B). Raises ValueError for groups of less than two networks.
    """
    return 2 * float(between.mean()) - _pairs(within) - _pairs(within_other)


def mean_shift(between: Float64Array, within: Float64Array, within_other: Float64Array) -> float:
    """How far apart the two groups' means are, in units of the distances; the part that finite samples of one
    distribution would have is taken off, and nothing below zero is left. Shapes and errors as for `energy_distance`.
    """
    squared = float(np.square(between).mean()) - _pairs(np.square(within)) / 2 - _pairs(np.square(within_other)) / 2
    return float(np.sqrt(max(squared, 0)))


def _pairs(within: Float64Array) -> float:
    """The mean over distinct pairs."""
    count = len(within)
    if within.shape != (count, count) or count < 2:
        raise ValueError(f"distances have shape {within.shape}; expected all pairs of two networks or more, (A, A)")
    return float(within.sum() / (count * (count - 1)))
