"""A tensor as a picture, and the networks nearest to one: in pieces, so memory does not grow with their sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluators.similarity import squared_distances
from zoo.manifest import Entry
from zoo.store import Zoo

PIECE = 2**20  # values at a time
BINS = 60
CELLS = 96  # of a heat map, along each side


@dataclass(frozen=True)
class Summary:
    """A tensor's values. `counts` int64 (BINS,) fall between `edges` float64 (BINS + 1,); `cells` float64 (rows,
    columns) are means over equal parts of the tensor, seen as a matrix with its first axis down, NaN where no value of
    the part is finite. Numbers are those of finite values alone; `not_finite` counts the others.
    """

    count: int
    not_finite: int
    mean: float
    std: float
    low: float
    high: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    cells: NDArray[np.float64]


def summarize_tensor(tensor: Tensor) -> Summary:
    """Two passes over the values, the second for the histogram, whose range the first finds. Raises ValueError for a
    tensor without a finite value, or with values farther apart than float64 can tell.
    """
    flat = tensor.detach().reshape(-1)
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    columns = flat.numel() // max(rows, 1)
    height, width = min(rows, CELLS), min(columns, CELLS)
    sums, filled = np.zeros(height * width), np.zeros(height * width)
    count, low, high, total = 0, math.inf, -math.inf, 0.0
    for start, values, finite in _pieces(flat):
        place = start + np.flatnonzero(finite)
        cell = place // columns * height // rows * width + place % columns * width // columns
        sums += np.bincount(cell, weights=values, minlength=len(sums))
        filled += np.bincount(cell, minlength=len(filled))
        if len(values):
            count, total = count + len(values), total + float(values.sum())
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not count:
        raise ValueError("the tensor has no finite value, so there is nothing to draw")
    if not math.isfinite(high - low):
        raise ValueError("the tensor's values are too far apart to draw")
    mean, squares = total / count, 0.0
    edges = _edges(low, high)
    counts = np.zeros(BINS, dtype=np.int64)
    for _, values, _ in _pieces(flat):
        squares += float(np.square(values - mean).sum())
        counts += np.histogram(values, edges)[0]
    cells = np.divide(sums, filled, out=np.full_like(sums, np.nan), where=filled > 0).reshape(height, width)
    std = math.sqrt(squares / count)
    return Summary(count, flat.numel() - count, mean, std, low, high, edges, counts, cells)


def _pieces(flat: Tensor) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
    """Where each piece begins, its finite values, and which of its values they are."""
    for start in range(0, flat.numel(), PIECE):
        values = flat[start : start + PIECE].double().numpy()
        finite = np.isfinite(values)
        yield start, values[finite], finite


def _edges(low: float, high: float) -> NDArray[np.float64]:
    """BINS equal bins; around a single value, bins of a width that its float64 can tell apart."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - max(abs(low), 1e-9) / 2, high + max(abs(high), 1e-9) / 2
    return np.linspace(low, high, BINS + 1)


def values_to_read(others: Sequence[Entry], zoo: Zoo) -> int:
    """How many values `distances_to` reads."""
    return (len(others) + 1) * zoo.structure.numel


def distances_to(zoo: Zoo, entry: Entry, source: Zoo, others: Sequence[Entry]) -> NDArray[np.float64]:
    """Euclidean distances float64 (len(others),) of one network to `others` of a zoo of the same structure, over all
    floating-point tensors, tied ones once.

    Raises ValueError for another structure, Corrupt for damaged checkpoints.
    """
    if differences := zoo.structure.diff(source.structure):
        raise ValueError(f"{source.path.name} holds other networks: {differences[0]}")
    width = max(1, PIECE // (len(others) + 1))
    total = np.zeros(len(others))
    mine = zoo.columns([entry], values=width)
    theirs = source.columns(others, values=width * len(others))
    for one, many in zip(mine, theirs, strict=True):
        total += squared_distances(one.block, many.block)[0]
    return np.sqrt(total)
