"""Batch normalisation over the tokens of all processes that train together.

torch's SyncBatchNorm computes the same, but only on GPUs. Legend: K tokens, C channels, D token size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rpg.methods.rpg.models.recompute import again


class BatchNorm(nn.BatchNorm1d):
    """nn.BatchNorm1d for (K, C, D), or (K, C, ...) of any rank. With `together`, a batch is what all processes hold; K
    may differ between them, and be 0 for some.
    """

    together = False

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, inputs: Tensor) -> Tensor:
        if not (self.training and self.together):
            return super().forward(inputs)
        return self.normalise(inputs, *self.statistics([inputs]))

    def statistics(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) over the tokens of all these (K, C, ...), float32 at least; counted as a batch. More
        than one part takes its squares again in the backward pass, so that they need not be kept.
        """
        axes = [axis for axis in range(parts[0].dim()) if axis != 1]
        # Sums and number together, then squares around the mean: subtracting the mean's square would cancel.
        whole = _total([_wide(part).sum(axes) for part in parts])
        number = whole.new_full((1,), sum(part.numel() for part in parts) // self.num_features)
        sums, number = self._over_processes(torch.cat([whole, number])).split([self.num_features, 1])
        mean = sums / number

        def squares(part: Tensor, mean: Tensor) -> Tensor:
            return (_wide(part) - _by_channel(mean, part)).square().sum(axes)

        one = len(parts) == 1
        around = _total([squares(part, mean) if one else again(squares, part, mean) for part in parts])
        variance = self._over_processes(around) / number
        self._track(mean.detach(), (variance * number / (number - 1)).detach())
        return mean, variance

    def normalise(self, inputs: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """The inputs (K, C, ...) by these statistics, with weight and bias."""
        scale = torch.rsqrt(variance + self.eps) * self.weight
        centred = _wide(inputs) - _by_channel(mean, inputs)
        return (centred * _by_channel(scale, inputs) + _by_channel(self.bias, inputs)).to(inputs.dtype)

    def _over_processes(self, part: Tensor) -> Tensor:
        return _Sum.apply(part) if self.together else part

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)
        self.num_batches_tracked.add_(1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    """(C,) as (C, 1, ...), to go with (K, C, ...)."""
    return values.view(-1, *[1] * (like.dim() - 2))


def _total(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Every process's loss depends on it, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole
