"""Batch normalisation over the tokens of all processes that train together.

torch's SyncBatchNorm computes the same, but only on GPUs. Legend: K tokens, C channels, D token size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        axes = [axis for axis in range(wide.dim()) if axis != 1]
        by_channel = (-1, *[1] * (wide.dim() - 2))
        # Sums and number together, then squares around the mean: subtracting the mean's square would cancel.
        number = wide.new_full((1,), inputs.numel() // self.num_features)
        *sums, number = _Sum.apply(torch.cat([wide.sum(axes), number])).split([self.num_features, 1])
        mean = sums[0] / number
        centred = wide - mean.view(by_channel)
        variance = _Sum.apply(centred.square().sum(axes)) / number
        self._track(mean.detach(), (variance * number / (number - 1)).detach())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale.view(by_channel) + self.bias.view(by_channel)).to(inputs.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)
        self.num_batches_tracked.add_(1)


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
