"""How close networks are to reference networks, in behaviour (error-IoU) and in weights (Euclidean distance).

A generator that copies its training checkpoints scores as well as they do; these measures expose the copies.
The nearest-neighbour ones also compare the reference networks with one another, leaving out some pairs: the yardstick.

Shape suffixes: A networks, B reference networks, N test samples, P weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float64Array = NDArray[np.float64]

CHUNK = 2**18  # numbers at a time, of all networks together: they fit the cache


def error_iou(wrong: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Float64Array:
    """Similarity of the errors, |E_a & E_b| / |E_a | E_b|, where E is the set of samples a network gets wrong.

    wrong (A, N) and reference (B, N), both bool and True where wrong -> (A, B), in [0, 1]. Two networks without
    any error behave alike: 1. Source: RPG, section B.4, after p-diff (Wang et al., 2024).

    Raises ValueError for other dtypes, or shapes that do not fit.
    """
    _check_matrices(wrong, reference, "error matrices")
    if wrong.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"error matrices are {wrong.dtype} and {reference.dtype}; expected bool, True where wrong")
    both_AB = np.zeros((len(wrong), len(reference)))
    for part in _chunks(wrong, reference):  # float32 counts are exact up to 2**24, far above a chunk
        both_AB += wrong[:, part].astype(np.float32) @ reference[:, part].astype(np.float32).T
    either_AB = wrong.sum(1)[:, None] + reference.sum(1)[None, :] - both_AB
    return np.divide(both_AB, either_AB, out=np.ones_like(both_AB), where=either_AB > 0)


def max_error_iou(
    wrong: NDArray[np.bool_], reference: NDArray[np.bool_], leave_out: NDArray[np.bool_] | None = None
) -> Float64Array:
    """The error-IoU of each network with the reference network that is most like it: (A, N), (B, N) -> (A,).

    `leave_out` bool (A, B) says which pairs do not count, such as a network and itself.

    Raises ValueError as `error_iou` does, and without a reference network to compare with.
    """
    return _kept(error_iou(wrong, reference), leave_out, instead=-np.inf).max(1)


def squared_distances(weights: Tensor, reference: Tensor) -> Float64Array:
    """Squared Euclidean distances, (A, P) and (B, P) of any floating dtypes -> (A, B). Those of a network's pieces add
    up to its own.

    Sums squared differences in float64. The faster |a|² + |b|² - 2ab would cancel: consecutive checkpoints of a
    run differ by far less than their norms. Weights that are not finite give NaN or infinity, in their own row
    or column only.

    Raises ValueError for shapes that do not fit.
    """
    _check_matrices(weights, reference, "weight matrices")
    total_AB = torch.zeros(len(weights), len(reference), dtype=torch.float64)
    for part in _chunks(weights, reference):
        a_AP, b_BP = weights[:, part].double(), reference[:, part].double()
        total_AB += torch.cdist(a_AP, b_BP, compute_mode="donot_use_mm_for_euclid_dist").square()
    return total_AB.numpy()


def squared_distances_within(weights: Tensor) -> Float64Array:
    """`squared_distances` of networks (A, P) to one another, (A, A), in a quarter of the time. A network is at 0 from
    itself, whatever its weights.
    """
    _check_matrices(weights, weights, "weight matrices")
    networks = len(weights)
    pairs = torch.zeros(networks * (networks - 1) // 2, dtype=torch.float64)
    for part in _chunks(weights):
        pairs += torch.pdist(weights[:, part].double()).square()
    total_AA = torch.zeros(networks, networks, dtype=torch.float64)
    row, column = torch.triu_indices(networks, networks, 1)
    total_AA[row, column] = total_AA[column, row] = pairs
    return total_AA.numpy()


def nearest(
    distances: Float64Array, leave_out: NDArray[np.bool_] | None = None
) -> tuple[Float64Array, NDArray[np.int64]]:
    """The nearest reference of each network: distances (A, B) -> its distance (A,) and its index in B (A,).

    Of equally near ones the first. `leave_out` bool (A, B) says which pairs do not count, such as a network and
    itself. A NaN distance counts as the smallest, so it shows in the result.

    Raises ValueError without a reference network to compare with.
    """
    kept_AB = _kept(distances, leave_out, instead=np.inf)
    return kept_AB.min(1), kept_AB.argmin(1)


def novel_and_good(nearest_distances: Float64Array, threshold: float, accuracies: Float64Array, bar: float) -> float:
    """The share of networks, in percent, with nearest distance > threshold (novel) and accuracy >= bar (good).

    nearest_distances (A,), accuracies (A,). The usual threshold is the median of the reference networks'
    leave-one-out distances, the usual bar the median accuracy of the originals less 2 points. NaN is neither
    novel nor good.

    Raises ValueError if the two differ in length or are empty.
    """
    if nearest_distances.shape != accuracies.shape or nearest_distances.ndim != 1 or not len(accuracies):
        raise ValueError(
            f"got distances of shape {nearest_distances.shape} and accuracies of shape {accuracies.shape}; "
            "expected one of each for at least one network"
        )
    return 100 * float(np.mean((nearest_distances > threshold) & (accuracies >= bar)))


def disagreement(wrong: NDArray[np.bool_]) -> float:
    """How much networks differ in what they get right, in percent: the share of samples that one of two networks gets
    wrong and the other right, averaged over distinct pairs. wrong (A, N) bool.

    Raises ValueError for less than two networks, or no samples.
    """
    networks, samples = wrong.shape
    if networks < 2 or not samples:
        raise ValueError(f"errors have shape {wrong.shape}; expected two networks or more, and samples")
    wrong_N = wrong.sum(0, dtype=np.int64)
    return 100 * float((wrong_N * (networks - wrong_N)).sum() / (networks * (networks - 1) / 2) / samples)


def rms_spread(distances: Float64Array) -> float:
    """How far the networks of one group scatter: the root of the summed variance of all their weights.

    distances (A, A), Euclidean (not squared), within the group. The variances (divisor A - 1) sum to half the
    mean squared distance of distinct pairs, so the weights are not needed: sqrt(mean of d² over i != j, / 2).
    One network has a spread of 0.

    Raises ValueError if the matrix is not square or empty.
    """
    networks = len(distances)
    if distances.shape != (networks, networks) or not networks:
        raise ValueError(f"distances have shape {distances.shape}; expected all pairs of one group, (A, A)")
    if networks == 1:
        return 0.0
    return float(np.sqrt(np.square(distances).sum() / (networks * (networks - 1)) / 2))


def _chunks(*matrices: NDArray[np.bool_] | Tensor) -> Iterator[slice]:
    """The columns of matrices, in pieces of at most CHUNK numbers of all of them, or of one column."""
    width = max(1, CHUNK // max(1, sum(map(len, matrices))))
    for start in range(0, matrices[0].shape[1], width):
        yield slice(start, start + width)


def _check_matrices(networks: NDArray[np.bool_] | Tensor, reference: NDArray[np.bool_] | Tensor, what: str) -> None:
    if networks.ndim != 2 or reference.ndim != 2 or networks.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{what} have shapes {tuple(networks.shape)} and {tuple(reference.shape)}; "
            "expected a row per network and the same columns in both"
        )


def _kept(matrix: Float64Array, leave_out: NDArray[np.bool_] | None, instead: float) -> Float64Array:
    """The matrix (A, B) to reduce over B, with a value that never wins for the pairs to leave out."""
    out_AB = np.zeros(matrix.shape, dtype=bool) if leave_out is None else leave_out
    if matrix.ndim != 2 or out_AB.shape != matrix.shape:
        raise ValueError(f"comparing over shape {matrix.shape} but for {out_AB.shape}; expected (A, B) twice")
    if (lonely := np.flatnonzero(out_AB.all(1))).size:
        raise ValueError(f"network {lonely[0]} has nothing to be compared with; expected a reference network for each")
    return np.where(out_AB, instead, matrix)
