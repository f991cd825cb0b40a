"""p-diff's two networks (Wang et al. 2024, https://arxiv.org/abs/2402.13144), both 1-D convolutional.

Legend: N networks, D values of a vector, L values of its code, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.rpg.models.denoiser import ConvStage, TimeEmbedding


class Autoencoder(nn.Module):
    """Vectors (N, D) -> codes (N, L) -> vectors. The encoder halves the length once per channel count and then mixes
    all that is left by one linear map; the decoder mirrors it and ends with a convolution to one channel.

    With `batch_statistics`, BatchNorm normalises by the batch at hand in evaluation, too, as the published code does,
    which never leaves training mode: what a vector becomes then depends on those beside it.
    """

    def __init__(
        self, size: int, channels: Sequence[int], code: int, kernel_size: int, batch_statistics: bool = False
    ) -> None:
        super().__init__()
        track = not batch_statistics
        self.shape = (channels[-1], size >> len(channels))
        flat, padding = self.shape[0] * self.shape[1], kernel_size // 2
        halving: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise((1, *channels)):
            halving += [
                nn.Conv1d(width_in, width_out, kernel_size, stride=2, padding=padding),
                nn.BatchNorm1d(width_out, track_running_stats=track),
                nn.LeakyReLU(),
            ]
        doubling: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise((*channels[::-1], channels[0])):
            doubling += [
                nn.ConvTranspose1d(width_in, width_out, kernel_size, stride=2, padding=padding, output_padding=1),
                nn.BatchNorm1d(width_out, track_running_stats=track),
                nn.ELU(),
            ]
        self.halving = nn.Sequential(*halving)
        self.to_code = nn.Linear(flat, code)
        self.from_code = nn.Linear(code, flat)
        self.doubling = nn.Sequential(*doubling)
        self.last = nn.Conv1d(channels[0], 1, kernel_size, padding=padding)

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors (N, D) -> codes (N, L)."""
        return self.to_code(self.halving(vectors[:, None]).flatten(1))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, L) -> vectors (N, D)."""
        return self.last(self.doubling(self.from_code(codes).unflatten(1, self.shape)))[:, 0]


def reconstruction_error(
    model: Autoencoder, vectors: Tensor, input_noise: float, latent_noise: float, rng: torch.Generator
) -> Tensor:
    """The mean squared error of vectors (N, D) that are encoded with noise of these deviations on themselves and on
    their codes, a scalar.
    """

    def noised(values: Tensor, deviation: float) -> Tensor:
        return values + deviation * torch.randn(values.shape, generator=rng).to(values.device)

    codes = model.encode(noised(vectors, input_noise))
    return F.mse_loss(model.decode(noised(codes, latent_noise)), vectors)


class Denoiser(nn.Module):
    """Estimates the noise in noisy codes (N, L), sequences of one channel whose length stays. `channels` widen to the
    middle and narrow back, as in RPG's denoiser, which is its heir: every convolution after the middle one also sees
    (adds) the output of the early one that has its input's width. The time, embedded to a vector of L values, is added
    to what every convolution sees.
    """

    def __init__(self, code: int, channels: Sequence[int], kernel_size: int) -> None:
        super().__init__()
        self.time_embedding = TimeEmbedding(code)
        last = len(channels) - 2
        self.stages = nn.ModuleList(
            ConvStage(width_in, width_out, kernel_size, last=index == last)
            for index, (width_in, width_out) in enumerate(itertools.pairwise(channels))
        )

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """noisy (N, L), timesteps int64 (N,) -> estimate of the noise (N, L)."""
        return self.denoise(noisy, self.time_embedding(timesteps), noisy)

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`forward` with the time embedded, (N, L) or (1, L); nobody tells codes apart, so prototypes are ignored."""
        features, time = noisy[..., None], time[..., None]
        middle, mirrored = len(self.stages) // 2, len(self.stages) - 1
        skips: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            if index > middle:
                features = features + skips.pop()
            features = stage(features + time)
            if index < mirrored - middle:
                skips.append(features)
        return features.squeeze(-1)
