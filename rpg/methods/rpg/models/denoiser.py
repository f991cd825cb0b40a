"""The denoiser: a 1-D convolutional network over the values of one token (paper, section A.3, wired as published).

Every convolution sees (features + prototype) * time: the prototype is added, the time embedding multiplied, both shared
by all channels. Legend: K tokens, D token size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rpg.methods.rpg.models.batchnorm import BatchNorm
from rpg.methods.rpg.models.elu import ELU
from rpg.methods.rpg.models.recompute import Recomputing, again, at_once

TIME_DIM = 256
MAX_PERIOD = 10_000.0


class TimeEmbedding(nn.Module):
    """Diffusion steps int64 (K,) -> (K, token_size): sinusoid (cosines, then sines), Linear, SiLU, Linear."""

    def __init__(self, token_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_DIM, token_size), nn.SiLU(), nn.Linear(token_size, token_size))

    def forward(self, timesteps: Tensor) -> Tensor:
        half = TIME_DIM // 2
        frequency = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(MAX_PERIOD) / half))
        angle = timesteps[:, None] * frequency
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


class ConvStage(nn.Sequential):
    """Convolution that keeps the length, BatchNorm and ELU; the last stage of the network is the convolution alone.

    Features are (K, D, channels): with channels last, and as images one pixel high, the convolutions run at the rate of
    matrix products, two to three times as fast as Conv1d on a CPU (benchmarks/bench_step.py).
    """

    def __init__(self, width_in: int, width_out: int, kernel_size: int, last: bool) -> None:
        conv = nn.Conv1d(width_in, width_out, kernel_size, padding=kernel_size // 2)
        super().__init__(conv, *([] if last else [BatchNorm(width_out), ELU()]))

    def forward(self, features: Tensor) -> Tensor:
        image = self.convolve(features)
        for layer in list(self)[1:]:
            image = layer(image)
        return _features(image)

    def convolve(self, features: Tensor) -> Tensor:
        """(K, D, channels) as an image (K, channels, 1, D), which lies in memory as channels_last does, through the
        convolution alone.
        """
        conv = self[0]
        assert isinstance(conv, nn.Conv1d)
        weight = conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        image = features.transpose(1, 2)[:, :, None]
        return F.conv2d(image, weight, conv.bias, padding=(0, conv.kernel_size[0] // 2))

    @property
    def channels(self) -> int:
        """The wider of its two sides."""
        conv = self[0]
        assert isinstance(conv, nn.Conv1d)
        return max(conv.in_channels, conv.out_channels)

    @property
    def norm(self) -> BatchNorm:
        norm = self[1]
        assert isinstance(norm, BatchNorm)
        return norm

    def activate(self, image: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """What follows the convolution, with given statistics: `forward(x)` is `activate(convolve(x), ...)`."""
        return _features(self[2](self.norm.normalise(image, mean, variance)))


def _features(image: Tensor) -> Tensor:
    return image.squeeze(2).transpose(1, 2)


class Denoiser(Recomputing, nn.Module):
    """Estimates the noise in noisy tokens. `channels` is a palindrome: the stages widen to the middle and narrow back.
    Every stage after the middle one also sees (adds) the output of the early stage that has its input's width.
    """

    def __init__(self, token_size: int, channels: Sequence[int], kernel_size: int) -> None:
        super().__init__()
        self.time_embedding = TimeEmbedding(token_size)
        last = len(channels) - 2
        self.stages = nn.ModuleList(
            ConvStage(width_in, width_out, kernel_size, last=index == last)
            for index, (width_in, width_out) in enumerate(itertools.pairwise(channels))
        )

    @torch.no_grad()
    def fuse_conv_bn(self) -> None:
        """Put every BatchNorm into the convolution before it. The estimate in evaluation mode stays the same, up to
        rounding, and takes less time; training is over.
        """
        for stage in self.stages:
            assert isinstance(stage, ConvStage)
            if len(stage) == 1:
                continue
            conv, norm, _ = stage
            assert isinstance(conv, nn.Conv1d)
            assert isinstance(norm, BatchNorm)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
            )
            del stage[1]

    def forward(self, noisy: Tensor, timesteps: Tensor, prototypes: Tensor) -> Tensor:
        """noisy (K, D), timesteps int64 (K,), prototypes (K, D) -> estimate of the noise (K, D), float32 at least."""
        estimate = self.denoise(noisy, self.time_embedding(timesteps), prototypes)
        return estimate.clone()  # not a view: FSDP2 hangs its backward pass on the result

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`forward` with the time embedding (K, D), or (1, D) for all tokens alike: samplers compute it once a step."""
        if self.recompute and self.training:
            return self._in_chunks(noisy, time, prototypes)
        features, time, prototypes = noisy[..., None], time[..., None], prototypes[..., None]
        middle = len(self.stages) // 2
        skips: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            if index > middle:
                features = features + skips.pop()
            features = stage((features + prototypes) * time)
            if index < len(self.stages) - 1 - middle:
                skips.append(features)
        return features.squeeze(-1).to(torch.promote_types(features.dtype, torch.float32))

    def _in_chunks(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`denoise`, recomputing, chunk by chunk of the tokens. All that is kept are the convolutions' results; what
        lies between two of them is computed again. BatchNorm's statistics, which need all tokens, are computed once.
        """
        stages = [stage for stage in self.stages if isinstance(stage, ConvStage)]
        statistics: list[tuple[Tensor, Tensor]] = []  # by stage

        def activated(stage: int, image: Tensor) -> Tensor:
            return stages[stage].activate(image, *statistics[stage])

        def step(index: int, time: Tensor, prototypes: Tensor, before: Tensor, skipped: Tensor | None) -> Tensor:
            """The convolution of stage `index`, from the results of those before it, or the noisy tokens."""
            features = before if index == 0 else activated(index - 1, before)
            if skipped is not None:
                features = features + activated(len(stages) - 1 - index, skipped)
            return stages[index].convolve((features + prototypes) * time)

        size = at_once(noisy.shape[1] * max(stage.channels for stage in stages))
        times, prototype_chunks, images = (tensor[..., None].split(size) for tensor in (time, prototypes, noisy))
        results: list[Sequence[Tensor]] = []  # by stage, then by chunk
        for index, stage in enumerate(stages):
            skips = index > len(stages) // 2
            skipped = results[len(stages) - 1 - index] if skips else [None] * len(images)
            chunks = zip(times, prototype_chunks, images, skipped, strict=True)
            images = tuple(again(step, index, *chunk) for chunk in chunks)
            results.append(images)
            if index < len(stages) - 1:
                statistics.append(stage.norm.statistics(images))
        estimate = torch.cat([_features(image) for image in images]).squeeze(-1)
        return estimate.to(torch.promote_types(estimate.dtype, torch.float32))
