"""RPG's generator with a latent in the place of the permutation state, and noisy tokens that may know one another.

Legend: B networks, L tokens of a network, K = B L tokens of whole networks, D token size, R values of a latent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rpg.methods.rpg.models.generator import Generator, embedding
from rpg.methods.rpg.models.recurrent import RecurrentModel
from rpg.methods.rpg_latent.config import Model


class LatentGenerator(Generator):
    """`positions` int64 (L, 2) are the tokens' places (rpg.tokens.tokenisation), `rank` is R."""

    def __init__(self, config: Model, positions: Tensor, rank: int) -> None:
        super().__init__(config, positions, num_states=1, readout=True)
        width, size = config.widths[0], config.token_size
        self.code = embedding(rank, width)
        self.context = nn.Linear(3 * size, width) if config.joint else None
        self.mixer = RecurrentModel(config) if config.joint else None

    def added(self, states: Tensor) -> Tensor:
        """Latents float32 (B, R) -> permutation states (B, width)."""
        return self.code(states)

    def read_out(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes of the networks of latents (B, R), and the clean tokens read out of them, (B, L, D) each."""
        assert self.readout is not None
        prototypes = self.prototypes(latents)
        return prototypes, self.readout(prototypes).float()

    def estimates(self, noisy: Tensor, timesteps: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What training computes of the noisy tokens (K, D) of whole networks, at timesteps int64 (K,), those of a
        network alike if these are `joint`: the denoiser's estimate, and the clean tokens read out, (K, D) each.
        """
        prototypes, readouts = (tokens.flatten(0, 1) for tokens in self.read_out(latents))
        time = self.denoiser.time_embedding(timesteps)
        told = (readouts if self.mixer else prototypes).detach()
        return self.sampled_with.denoise(noisy, time, told), readouts

    @property
    def sampled_with(self) -> Told:
        return Told(self)

    def mixed(self, noisy: Tensor, time: Tensor, readouts: Tensor) -> Tensor:
        """Prototypes (K, D), each of which knows all of its network: noisy tokens and tokens read out (K, D), and the
        embedded time, (K, D) or (1, D).
        """
        assert self.context is not None
        assert self.mixer is not None
        length = len(self.positions)
        seen = torch.cat([noisy, readouts, time.expand_as(noisy)], -1)
        inputs_BLW = self.positions + self.context(seen).unflatten(0, (-1, length))
        # Causal as it is, the recurrent model knows in the second reading what it has read in the first.
        return self.mixer(torch.cat([inputs_BLW, inputs_BLW], 1))[:, length:].flatten(0, 1)


class Told:
    """A Denoiser (rpg.diffusion). It is told prototypes or, where tokens are denoised jointly, the tokens read out;
    then it has to be given whole networks.
    """

    def __init__(self, generator: LatentGenerator) -> None:
        self.generator, self.training = generator, generator.training

    @property
    def time_embedding(self) -> Callable[[Tensor], Tensor]:
        return self.generator.denoiser.time_embedding

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        if self.generator.mixer:
            prototypes = self.generator.mixed(noisy, time, prototypes)
        return self.generator.denoiser.denoise(noisy, time, prototypes)
