"""Ridge regression from bits to weights, with a penalty that is chosen by leaving one task out.

A task counts once, with the mean of its checkpoints: these have the same bits, so a checkpoint left out would be
predicted from its siblings. Legend: N networks, T tasks, r directions that the tasks' bits span, k values of a piece.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.conditions import bits
from zoo.derive.mixtures import Draft, dimensions, piece_values
from zoo.manifest import Entry
from zoo.progress import progress
from zoo.store import Zoo

log = logging.getLogger(__name__)

PENALTIES = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # in units of the mean squared singular value
RANK = 1e-8  # directions with singular values below this share of the largest are none
DECIDED = 1e-9  # a task whose leverage is nearer to 1 cannot be left out


@dataclass(frozen=True, eq=False)
class Bits:
    """The tasks' bits, centred, as their singular value decomposition: `left` float64 (T, r), `singular` (r,), `right`
    (r, classes), and their `mean` (classes,).
    """

    left: Tensor
    singular: Tensor
    right: Tensor
    mean: Tensor

    @classmethod
    def of(cls, conditions: Sequence[str]) -> Bits:
        x = torch.stack([bits(condition) for condition in conditions]).double()
        left, singular, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        kept = (singular > RANK * singular.max()) & (singular > 0)
        return cls(left[:, kept], singular[kept], right[kept], x.mean(0))

    def shrinkage(self, penalty: float) -> Tensor:
        """What a penalty leaves of each direction, (r,), between 0 and 1."""
        squares = self.singular.square()
        return squares / (squares + penalty * squares.mean()) if len(squares) else squares

    def coefficients(self, condition: str, penalty: float) -> Tensor:
        """What to multiply the tasks' networks with, (T,); the constant is not penalised, so they sum to 1."""
        code = self.right @ (bits(condition).double() - self.mean)
        return 1 / len(self.left) + self.left @ (self.shrinkage(penalty) / self.singular * code)


def ridge(zoo: Zoo, entries: Sequence[Entry]) -> Callable[[str], Draft]:
    """What ridge regression of every weight on the bits says for a condition, as a combination of the networks."""
    conditions = [str(entry.condition) for entry in entries]
    tasks = list(dict.fromkeys(conditions))
    of_N = torch.tensor([tasks.index(condition) for condition in conditions])
    known = Bits.of(tasks)
    errors = leave_one_out(known, zoo, entries, of_N)
    penalty = min(errors, key=lambda p: errors[p])
    log.info(f"ridge regression of {zoo.path.name}: penalty {penalty:g}, leaving one of {len(tasks)} tasks out")
    everything, share_N = tuple(range(len(entries))), 1 / torch.bincount(of_N)[of_N].double()

    def draft(condition: str) -> Draft:
        coefficients = known.coefficients(condition, penalty)[of_N] * share_N
        return Draft(everything, coefficients, everything, condition=condition)

    return draft


def leave_one_out(known: Bits, zoo: Zoo, entries: Sequence[Entry], task: Tensor) -> dict[float, float]:
    """For each penalty the mean squared distance, summed over weights, between a task's mean network and what ridge
    regression on the others says of it; infinite where a task cannot be left out. `task` int64 (N,): whose the entries
    are. In one pass over the zoo, and without a regression per task: the residual of a task left out is its residual
    over one less its leverage (Allen 1974; the constant, not being penalised, adds 1 / T to it).
    """
    left, tasks = known.left, len(known.left)
    counts = torch.bincount(task).double()
    products = torch.zeros(left.shape[1], tasks, dtype=torch.float64)  # (r, T): left.T @ networks @ networks.T
    squares = torch.zeros(tasks, dtype=torch.float64)
    size = piece_values(len(entries))
    with progress(f"ridge regression of {zoo.path.name}", dimensions(zoo.structure)) as bar:
        for column in zoo.columns(entries, size * len(entries)):
            means = torch.zeros(tasks, column.block.shape[1], dtype=torch.float64)
            means.index_add_(0, task, column.block.double()).div_(counts[:, None])
            means -= means.mean(0)
            products += (left.T @ means) @ means.T
            squares += means.square().sum(1)
            bar.advance(column.block.shape[1])
    among = products @ left  # (r, r)
    found = {}
    for penalty in PENALTIES:
        shrunk = left * known.shrinkage(penalty)  # (T, r)
        residuals = squares - 2 * (shrunk * products.T).sum(1) + ((shrunk @ among) * shrunk).sum(1)
        rest = 1 - 1 / tasks - (shrunk * left).sum(1)
        if bool((rest < DECIDED).any()):
            found[penalty] = float("inf")
        else:
            found[penalty] = float((residuals.clamp_min(0) / rest.square()).mean())
    return found
