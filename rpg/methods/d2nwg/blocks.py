"""The blocks of D2NWG's networks, those of latent diffusion (Rombach et al. 2022): residual blocks with group
normalisation, self-attention over pixels, halving and doubling.

Legend: N images, C channels, H rows, W columns, T values of an embedded time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of channels that are normalised together


class Norm(nn.GroupNorm):
    """Normalises images (N, C, H, W). In training it raises ValueError where groups hold one value each, of which
    nothing is left.
    """

    def forward(self, images: Tensor) -> Tensor:
        if self.training and images[0].numel() == self.num_groups:
            raise ValueError(
                f"a level of 1 x 1 pixels has {self.num_channels} channels, which are normalised one by one, to "
                "nothing; give method.autoencoder.multipliers or method.denoiser.multipliers fewer numbers, or "
                "method.autoencoder.side a larger one"
            )
        return super().forward(images)


def norm(channels: int) -> Norm:
    """Over GROUPS groups, or as many as divide the channels."""
    return Norm(math.gcd(GROUPS, channels), channels, eps=1e-6)


def conv(width_in: int, width_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, stride, padding=1)


class Residual(nn.Module):
    """(N, C, H, W) -> (N, C', H, W): normalise, SiLU, convolve, twice, plus the input. A time (N, T) or (1, T) scales
    and shifts what the second normalisation gives.
    """

    def __init__(self, width_in: int, width_out: int, time: int | None = None) -> None:
        super().__init__()
        self.first_norm, self.first = norm(width_in), conv(width_in, width_out)
        self.second_norm, self.second = norm(width_out), conv(width_out, width_out)
        self.of_time = None if time is None else nn.Linear(time, 2 * width_out)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, images: Tensor, time: Tensor | None = None) -> Tensor:
        features = self.second_norm(self.first(F.silu(self.first_norm(images))))
        if self.of_time is not None and time is not None:
            scale, shift = self.of_time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
            features = features * (1 + scale) + shift
        return self.skip(images) + self.second(F.silu(features))


class Attention(nn.Module):
    """(N, C, H, W) -> the same shape: every pixel attends to all, plus the input."""

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor, time: Tensor | None = None) -> Tensor:
        """The time is for blocks that have use for it."""
        parts = self.qkv(self.norm(images)).flatten(2).chunk(3, dim=1)
        query, key, value = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in parts)
        found = F.scaled_dot_product_attention(query, key, value)
        return images + self.out(found.transpose(2, 3).reshape(images.shape))


class Timed(nn.ModuleList):
    """Blocks one after the other, each of which sees the time."""

    def forward(self, images: Tensor, time: Tensor | None = None) -> Tensor:
        for block in self:
            images = block(images, time)
        return images


class Halve(nn.Module):
    """(N, C, H, W) -> (N, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class Double(nn.Module):
    """(N, C, H, W) -> (N, C, 2H, 2W): nearest pixels, convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(F.interpolate(images, scale_factor=2.0, mode="nearest"))


def middle(channels: int, time: int | None = None, heads: int = 1) -> Timed:
    """Residual, attention, residual."""
    return Timed([Residual(channels, channels, time), Attention(channels, heads), Residual(channels, channels, time)])


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, giving zeros at first."""
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
