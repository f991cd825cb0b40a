"""G.pt's transformer (Peebles et al. 2022, https://arxiv.org/abs/2209.12892).

Legend: N networks, D values of a padded vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rpg.conditions.scalars import waves
from rpg.methods.attention import Transformer
from rpg.methods.chunked import TransformerConfig, begin, maps_in, maps_out, read, write

SCALARS = 4  # the level of noise, the change of the metric, the metric that is wanted, the metric now


class Denoiser(nn.Module):
    """Estimates a later network of a training: a sequence of the tokens of the network now, those of a noisy later one,
    and four numbers. Each place has linear maps of its own, without bias, into the transformer and out of it; tokens
    are normalised before their positions are added. What comes out is added to the network now, and is zero before
    training.
    """

    def __init__(self, sizes: Sequence[int], num_steps: int, config: TransformerConfig) -> None:
        super().__init__()
        self.sizes, self.config, self.num_steps, width = list(sizes), config, num_steps, config.width
        self.values = len(sizes) * config.chunk

        self.now, self.noisy = maps_in(sizes, width), maps_in(sizes, width)
        self.scalars = maps_in([2 * config.frequencies + 1] * SCALARS, width)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(2 * len(sizes) + SCALARS, width))
        self.transformer = Transformer(config.layers, width, config.heads, 4 * width, "gelu")
        self.out = maps_out(sizes, width)
        begin(self, self.out)

    def forward(self, noisy: Tensor, timesteps: Tensor, now: Tensor, prompt: Tensor) -> Tensor:
        """noisy and now (N, D), timesteps (N,), prompt (N, 2): the metric now and the one that is wanted, in training
        0 to 1 -> the estimate of the later network (N, D).
        """
        metric, wanted = prompt.unbind(1)
        level = (timesteps / self.num_steps).to(prompt.dtype).expand(len(prompt))
        numbers = torch.stack([level, wanted - metric, wanted, metric], 1)
        told = waves(numbers, self.config.frequencies, self.config.octaves)
        scalars = [linear(told[:, k]) for k, linear in enumerate(self.scalars)]
        chunk = self.config.chunk
        tokens = torch.stack([*read(now, self.now, chunk), *read(noisy, self.noisy, chunk), *scalars], 1)
        found = self.transformer(self.norm(tokens) + self.positions)[:, len(self.sizes) : 2 * len(self.sizes)]
        return now + write(found, self.out, chunk)


class Prompted:
    """The denoiser with the prompts (N, 2) of all networks that are sampled, as `rpg.diffusion.sample` wants it."""

    def __init__(self, model: Denoiser, prompt: Tensor) -> None:
        self.model, self.prompt, self.training = model, prompt, model.training

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        """The level as it is."""
        return timesteps

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`prototypes` are the networks now."""
        return self.model(noisy, time, prototypes, self.prompt)
