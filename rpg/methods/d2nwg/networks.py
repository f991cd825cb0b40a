"""D2NWG's two networks: an autoencoder that looks at a vector as at an image, and the denoiser of its codes.

Legend: N networks, D values of a vector, S pixels a side of its image, s of its code, L = 4 s^2 values of a code (an
image of 2 s pixels a side for the denoiser), E values of a data set's embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.d2nwg.blocks import Attention, Double, Halve, Residual, Timed, conv, middle, norm, zeroed
from rpg.methods.rpg.models.denoiser import TimeEmbedding

CODE_CHANNELS = 4  # a code is an image of so many channels; the square of 2, so that it is also one of one channel


class Autoencoder(nn.Module):
    """Vectors (N, D) -> means and logarithms of variances of codes (N, L) each -> vectors.

    A vector is cut into chunks of `chunk` values. One linear map, the same for all chunks, makes `projection` pixels of
    each; all pixels together are an image of `side` pixels a side, with as many channels as that takes. The encoder and
    decoder of latent diffusion make 4 channels of it, halved once less than there are `multipliers` of `width`.
    """

    def __init__(
        self, size: int, chunk: int, projection: int, side: int, width: int, multipliers: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.size, self.chunk, self.side = size, chunk, side
        self.chunks = -(-size // chunk)
        pixels = self.chunks * projection
        self.pixels, self.channels = pixels, -(-pixels // side**2)
        self.code = (CODE_CHANNELS, side >> (len(multipliers) - 1), side >> (len(multipliers) - 1))
        self.to_pixels, self.from_pixels = nn.Linear(chunk, projection), nn.Linear(projection, chunk)
        self.encoder = nn.Sequential(*_encoder(self.channels, width, multipliers, blocks))
        self.decoder = nn.Sequential(*_decoder(self.channels, width, multipliers, blocks))
        self.log_scale = nn.Parameter(torch.zeros(()))  # of the errors, in the loss

    def encode(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) -> mean and logarithm of the variance of their codes, (N, L) each."""
        chunks = F.pad(vectors, (0, self.chunks * self.chunk - self.size)).unflatten(1, (self.chunks, self.chunk))
        pixels = F.leaky_relu(self.to_pixels(chunks)).flatten(1)
        pixels = F.pad(pixels, (0, self.channels * self.side**2 - self.pixels))
        mean, log_variance = self.encoder(pixels.unflatten(1, (self.channels, self.side, self.side))).chunk(2, dim=1)
        return mean.flatten(1), log_variance.flatten(1).clamp(-30, 20)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, L) -> vectors (N, D)."""
        pixels = self.decoder(codes.unflatten(1, self.code)).flatten(1)[:, : self.pixels]
        return self.from_pixels(pixels.unflatten(1, (self.chunks, -1))).flatten(1)[:, : self.size]


def _encoder(channels: int, width: int, multipliers: Sequence[int], blocks: int) -> list[nn.Module]:
    found: list[nn.Module] = [conv(channels, width)]
    now = width
    for level, multiplier in enumerate(multipliers):
        found += [Halve(now)] if level else []
        for _ in range(blocks):
            found.append(Residual(now, width * multiplier))
            now = width * multiplier
    return [*found, middle(now), norm(now), nn.SiLU(), conv(now, 2 * CODE_CHANNELS), _mix(2 * CODE_CHANNELS)]


def _decoder(channels: int, width: int, multipliers: Sequence[int], blocks: int) -> list[nn.Module]:
    now = width * multipliers[-1]
    found: list[nn.Module] = [_mix(CODE_CHANNELS), conv(CODE_CHANNELS, now), middle(now)]
    for level, multiplier in enumerate(multipliers[::-1]):
        found += [Double(now)] if level else []
        for _ in range(blocks + 1):
            found.append(Residual(now, width * multiplier))
            now = width * multiplier
    return [*found, norm(now), nn.SiLU(), conv(now, channels)]


def _mix(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1)


def variational_loss(model: Autoencoder, vectors: Tensor, kl: float, squared: float, rng: torch.Generator) -> Tensor:
    """The loss of vectors (N, D), a scalar: the negative log-likelihood of their values under Laplace distributions of
    one learnt scale, `kl` times the divergence of the codes from standard normal ones, both summed over a network, and
    `squared` times the mean squared error.
    """
    mean, log_variance = model.encode(vectors)
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    error = model.decode(mean + (log_variance / 2).exp() * noise) - vectors
    likelihood = (error.abs() * (-model.log_scale).exp() + model.log_scale).sum(1).mean()
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return likelihood + kl * divergence + squared * error.square().mean()


class Denoiser(nn.Module):
    """Estimates the noise in noisy codes (N, L), told an embedding of a data set: a U-Net on two images of 2 s pixels a
    side, the code and what two linear maps make of the embedding. `multipliers` of `width` are the channels of its
    levels, each half as large as the one before, with `blocks` residual blocks and, from level `attention_from` on,
    attention.
    """

    def __init__(
        self,
        code: int,
        embedding: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_from: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.side = round(code**0.5)
        time = 4 * width
        self.time_embedding = TimeEmbedding(time)
        self.dataset = nn.Sequential(nn.Linear(embedding, code), nn.LeakyReLU(), nn.Linear(code, code))
        self.first, now = conv(2, width), width
        skips, self.down, self.halvings = [width], nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                attention = [Attention(width * multiplier, heads)] if level >= attention_from else []
                self.down.append(Timed([Residual(now, width * multiplier, time), *attention]))
                now = width * multiplier
                skips.append(now)
            if level < len(multipliers) - 1:
                self.halvings.append(Halve(now))
                skips.append(now)
        self.middle = middle(now, time, heads)
        self.up, self.doublings = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                attention = [Attention(width * multiplier, heads)] if level >= attention_from else []
                self.up.append(Timed([Residual(now + skips.pop(), width * multiplier, time), *attention]))
                now = width * multiplier
            if level:
                self.doublings.append(Double(now))
        self.last = nn.Sequential(norm(now), nn.SiLU(), zeroed(conv(now, 1)))
        self.blocks = blocks

    def forward(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """noisy (N, L), timesteps int64 (N,), embeddings (N, E) -> estimate of the noise (N, L)."""
        return self.denoise(noisy, self.time_embedding(timesteps), self.dataset(embeddings))

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`forward` with the time embedded, (N, T) or (1, T), and the data sets, (N, L)."""
        images = torch.stack([noisy, prototypes], dim=1).unflatten(2, (self.side, self.side))
        skips = [self.first(images)]
        for number, block in enumerate(self.down):
            skips.append(block(skips[-1], time))
            level, place = divmod(number, self.blocks)
            if place == self.blocks - 1 and level < len(self.halvings):
                skips.append(self.halvings[level](skips[-1]))
        features = self.middle(skips[-1], time)
        for number, block in enumerate(self.up):
            features = block(torch.cat([features, skips.pop()], dim=1), time)
            level, place = divmod(number, self.blocks + 1)
            if place == self.blocks and level < len(self.doublings):
                features = self.doublings[level](features)
        return self.last(features).flatten(1)
