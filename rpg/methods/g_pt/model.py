"""G.pt's transformer (Peebles et al. 2022, https://arxiv.org/abs/2209.12892).

Legend: N networks, D values of a padded vector, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.conditions.scalars import waves
from rpg.methods.attention import Transformer
from rpg.methods.g_pt.config import TransformerConfig
from rpg.tokens.layout import generated
from rpg.tokens.tokenisation import place
from zoo.structure import Structure

SCALARS = 4  # the level of noise, the change of the metric, the metric that is wanted, the metric now


def token_sizes(structure: Structure, chunk: int) -> list[int]:
    """How many values each token has: every tensor is cut into pieces of `chunk`, of which the last may have fewer."""
    places = place([spec.shape for spec in generated(structure)], "layer", chunk)
    return [min(chunk, where.numel - k * chunk) for where in places for k in range(where.num_tokens)]


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

        def maps(widths: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(size, width, bias=False) for size in widths)

        self.now, self.noisy = maps(sizes), maps(sizes)
        self.scalars = maps([2 * config.frequencies + 1] * SCALARS)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(2 * len(sizes) + SCALARS, width))
        self.transformer = Transformer(config.layers, width, config.heads, 4 * width, "gelu")
        self.out = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in self.out:
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]

    def forward(self, noisy: Tensor, timesteps: Tensor, now: Tensor, prompt: Tensor) -> Tensor:
        """noisy and now (N, D), timesteps (N,), prompt (N, 2): the metric now and the one that is wanted, in training
        0 to 1 -> the estimate of the later network (N, D).
        """
        metric, wanted = prompt.unbind(1)
        level = (timesteps / self.num_steps).to(prompt.dtype).expand(len(prompt))
        numbers = torch.stack([level, wanted - metric, wanted, metric], 1)
        told = waves(numbers, self.config.frequencies, self.config.octaves)
        scalars = [linear(told[:, k]) for k, linear in enumerate(self.scalars)]
        tokens = torch.stack([*self._tokens(now, self.now), *self._tokens(noisy, self.noisy), *scalars], 1)
        found = self.transformer(self.norm(tokens) + self.positions)[:, len(self.sizes) : 2 * len(self.sizes)]
        parts = [
            F.pad(linear(found[:, k]), (0, self.config.chunk - size))
            for k, (linear, size) in enumerate(zip(self.out, self.sizes, strict=True))
        ]
        return now + torch.cat(parts, 1)

    def _tokens(self, vectors: Tensor, maps: nn.ModuleList) -> list[Tensor]:
        """Tokens (N, C), place by place."""
        chunk = self.config.chunk
        return [
            linear(vectors[:, k * chunk : k * chunk + size])
            for k, (linear, size) in enumerate(zip(maps, self.sizes, strict=True))
        ]


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
