"""Tina's transformer (Li et al. 2024, https://arxiv.org/abs/2405.14132), which is G.pt's with other company.

Legend: N networks, D values of a padded vector, K classes, F values of a class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rpg.conditions.scalars import waves
from rpg.methods.attention import Transformer
from rpg.methods.chunked import TransformerConfig, begin, maps_in, maps_out, read, write


class Denoiser(nn.Module):
    """Estimates a network from a noisy one: a sequence of its tokens, the level of noise, and a token for each class.
    Each piece of a network has linear maps of its own, without bias, into the transformer and out of it; classes share
    one, and have no positions: they are a set.
    """

    def __init__(self, sizes: Sequence[int], num_steps: int, config: TransformerConfig, features: int) -> None:
        super().__init__()
        self.sizes, self.config, self.num_steps, width = list(sizes), config, num_steps, config.width
        self.values = len(sizes) * config.chunk
        self.noisy = maps_in(sizes, width)
        self.level = nn.Linear(2 * config.frequencies + 1, width, bias=False)
        self.classes = nn.Linear(features, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(len(sizes) + 1, width))
        self.transformer = Transformer(config.layers, width, config.heads, 4 * width, "gelu")
        self.out = maps_out(sizes, width)
        begin(self, self.out)

    def forward(self, noisy: Tensor, timesteps: Tensor, told: Tensor) -> Tensor:
        """noisy (N, D), timesteps (N,) or (1,), told (N, K, F) -> the estimate of the clean networks (N, D)."""
        chunk = self.config.chunk
        share = (timesteps / self.num_steps).to(noisy.dtype).expand(len(noisy))
        level = self.level(waves(share, self.config.frequencies, self.config.octaves))
        own = self.norm(torch.stack([*read(noisy, self.noisy, chunk), level], 1)) + self.positions
        found = self.transformer(torch.cat([own, self.norm(self.classes(told))], 1))
        return write(found[:, : len(self.sizes)], self.out, chunk)


class Told:
    """The denoiser with what all networks that are sampled are told (N, K, F), as `rpg.diffusion.sample` wants it."""

    def __init__(self, model: Denoiser, told: Tensor) -> None:
        self.model, self.told, self.training = model, told, model.training

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        """The level as it is."""
        return timesteps

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """There are no prototypes."""
        return self.model(noisy, time, self.told)
