"""Recomputation: a part of the generator keeps its inputs for the backward pass, and computes the rest again then.

The mathematics are the same; sums are taken in another order, so results are equal up to rounding. Legend: B sequences,
K picked tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Picked: TypeAlias = tuple[Tensor, Tensor]
"""The tokens whose outputs are wanted: sequence (K,) and place in it (K,), int64."""

VALUES_AT_ONCE = 2**25  # of a part's widest tensor, which are computed again together; fewer would not fill a GPU


class Recomputing:
    """A module that can do so; `recompute_in` says whether it does."""

    recompute = False

    def by_sequence(
        self, work: Callable[..., Tensor], sequences: Sequence[Tensor], values: int, picked: Picked | None = None
    ) -> Tensor:
        """`work(*sequences)` of tensors (B, ...), or `work(*sequences, picked)`: (B, ...), or (K, ...) in the order of
        the picked tokens. Recomputing, some of the B sequences at a time, each with `values` values.
        """
        if not self.recompute:
            return work(*sequences) if picked is None else work(*sequences, picked)
        group = at_once(values)
        groups = list(zip(*(tensor.split(group) for tensor in sequences), strict=True))
        if picked is None:
            return torch.cat([again(work, *some) for some in groups])
        row, place = picked
        order = row.argsort()
        counts = torch.bincount(row // group, minlength=len(groups)).tolist()
        results = [
            again(work, *some, (row[chosen] - number * group, place[chosen]))
            for number, (some, chosen) in enumerate(zip(groups, order.split(counts), strict=True))
        ]
        return torch.cat(results)[order.argsort()]


def recompute_in(model: nn.Module, on: bool = True) -> None:
    """Let all parts of a generator recompute in training, or not."""
    for module in model.modules():
        if isinstance(module, Recomputing):
            module.recompute = on


def again(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments)`, and once more in the backward pass, under the same autocast and with the same random numbers.
    It must change nothing beside its result.
    """
    return checkpoint(work, *arguments, use_reentrant=False)


def at_once(values: int) -> int:
    """How many things with so many values each are computed together."""
    return max(1, VALUES_AT_ONCE // values)
