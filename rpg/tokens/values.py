"""Statistics of every single value over the training checkpoints, where the paper has two numbers per tensor.

Where all checkpoints started from the same weights, most of a value's distance from its tensor's mean
(rpg.tokens.layout) is the same in all of them. Standardised once more, by its own mean and deviation, what is left to
learn is how they differ, at unit scale. Legend: L tokens, D token size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from rpg.tokens.layout import Layout
from zoo.errors import Corrupt


@dataclass(frozen=True, eq=False)
class ValueStatistics:
    """`mean` and population `std` of a layout's tokens, float32 (L, D) each; both are 0 in padding."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, layout: Layout, checkpoints: Iterable[Mapping[str, Tensor]]) -> Self:
        """Measured in one pass over training checkpoints, at least one, in float64 (Welford 1962)."""
        mean = torch.zeros(layout.num_tokens, layout.token_size, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        count = 0
        for count, weights in enumerate(checkpoints, 1):
            tokens = layout.encode(weights).double()
            delta = tokens - mean
            mean += delta / count
            squares += delta * (tokens - mean)
        return cls(mean.float(), (squares / count).sqrt().float())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], layout: Layout) -> Self:
        """The inverse of `tensors`. Raises Corrupt unless they are those of this layout."""
        shape = (layout.num_tokens, layout.token_size)
        if set(tensors) != {"mean", "std"} or any(
            t.shape != shape or t.dtype != torch.float32 or not bool(t.isfinite().all()) for t in tensors.values()
        ):
            raise Corrupt(f"the statistics of values are not a finite float32 mean and std of shape {shape}")
        return cls(tensors["mean"], tensors["std"])

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std}

    def standardise(self, tokens: Tensor) -> Tensor:
        """Tokens float32 (L, D) of a layout, with mean 0 and deviation 1 for every value; a value that never changes
        becomes 0.
        """
        return torch.where(self.std > 0, (tokens - self.mean) / self.std, 0.0)

    def restore(self, tokens: Tensor, window: range) -> Tensor:
        """The inverse for the tokens of a window, float32 (..., K, D)."""
        part = slice(window.start, window.stop)
        return tokens * self.std[part] + self.mean[part]
