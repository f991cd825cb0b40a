"""SANE's autoencoder: a code for every token, through windows of tokens.

Legend: B networks, D values of a vector, T tokens of a network, W of a window, S values of a token, Z of its code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rpg.methods.attention import Transformer, check_heads
from rpg.tokens.layers import Chunks, Layers, windows
from zoo.structure import Frozen

PROJECTION = 30


class Model(Frozen):
    """Tokens are `token_size` values of a neuron. Encoder and decoder have `layers` blocks each, of this `width` and
    `heads`; `latent` values are a token's code. A network of more than `window` tokens is seen in windows, which answer
    for all but `halo` tokens on either side.
    """

    token_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    latent: PositiveInt
    window: PositiveInt
    halo: NonNegativeInt

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_heads(self.width, self.heads)
        if self.width % 2:
            raise ValueError(f"width = {self.width} is odd; half of it is a token's place, half its neuron's")
        if self.window <= 2 * self.halo:
            raise ValueError(f"window = {self.window} is nothing but halo; expected more than {2 * self.halo}")
        return self


class Positions(nn.Module):
    """Learned positions: half of the width says which token of the network and which layer, half which neuron."""

    def __init__(self, most: tuple[int, int, int], width: int) -> None:
        super().__init__()
        token, layer, neuron = most
        self.token, self.layer, self.neuron = (nn.Embedding(count, width // 2) for count in (token, layer, neuron))

    def forward(self, positions: Tensor) -> Tensor:
        """int64 (B, W, 3) -> (B, W, width)."""
        token, layer, neuron = positions.unbind(-1)
        return torch.cat([self.token(token) + self.layer(layer), self.neuron(neuron)], -1)


class Autoencoder(nn.Module):
    """Tokens to codes and back, and vectors to standardised tokens and back."""

    mean: Tensor
    deviation: Tensor
    positions: Tensor
    mask: Tensor

    def __init__(self, layers: Layers, model: Model) -> None:
        super().__init__()
        self.model, self.chunks = model, Chunks(layers, model.token_size)
        width = model.width

        def transformer() -> Transformer:
            return Transformer(model.layers, width, model.heads, 4 * width, "gelu", bias=False)

        self.embed, self.unembed = nn.Linear(model.token_size, width), nn.Linear(width, model.token_size)
        self.down, self.up = nn.Linear(width, model.latent), nn.Linear(model.latent, width)
        self.encoder_places, self.decoder_places = (Positions(self.chunks.most, width) for _ in range(2))
        self.encoder, self.decoder = transformer(), transformer()
        self.head = nn.Sequential(
            *(nn.Linear(self.seen * model.latent, PROJECTION), nn.LayerNorm(PROJECTION), nn.ReLU()),
            *(nn.Linear(PROJECTION, PROJECTION), nn.LayerNorm(PROJECTION), nn.ReLU()),
        )
        self.register_buffer("mean", torch.zeros(len(layers.layers)))  # of each layer's values, biases and all
        self.register_buffer("deviation", torch.ones(len(layers.layers)))
        self.register_buffer("positions", self.chunks.positions(), persistent=False)
        self.register_buffer("mask", self.chunks.mask(), persistent=False)

    @property
    def seen(self) -> int:
        """W: how many tokens training sees at once."""
        return min(self.model.window, self.chunks.count)

    def tokens(self, vectors: Tensor) -> Tensor:
        """(B, D or more) -> (B, T, S), each layer standardised, zero in the padding."""
        layers = self.chunks.layers
        values = vectors[:, : layers.values]
        return self.chunks.split((values - layers.spread(self.mean)) / layers.spread(self.deviation))

    def vectors(self, tokens: Tensor) -> Tensor:
        """The inverse: (B, T, S) -> (B, D)."""
        layers = self.chunks.layers
        return self.chunks.join(tokens) * layers.spread(self.deviation) + layers.spread(self.mean)

    def encode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """A window (B, W, S) at its positions (B, W, 3) -> codes (B, W, Z)."""
        return self.down(self.encoder(self.embed(tokens) + self.encoder_places(positions)))

    def decode(self, codes: Tensor, positions: Tensor) -> Tensor:
        """Codes (B, W, Z) -> tokens (B, W, S)."""
        return self.unembed(self.decoder(self.up(codes) + self.decoder_places(positions)))

    def codes_of(self, vectors: Tensor) -> Tensor:
        """The codes of whole networks, window by window: (B, D or more) -> (B, T, Z)."""
        return self.through_windows(self.encode, self.tokens(vectors))

    def vectors_of(self, codes: Tensor) -> Tensor:
        """The inverse, as far as it was learnt: (B, T, Z) -> (B, D)."""
        return self.vectors(self.through_windows(self.decode, codes))

    def through_windows(self, function: Callable[[Tensor, Tensor], Tensor], given: Tensor) -> Tensor:
        """What a function of a window and its positions gives for all tokens (B, T, ...)."""
        parts = []
        for seen, own in windows(self.chunks.count, self.model.window, self.model.halo):
            positions = self.positions[seen].expand(len(given), -1, -1)
            parts.append(function(given[:, seen], positions)[:, own])
        return torch.cat(parts, 1)

    def error(self, found: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """The mean squared error of a window's tokens (B, W, S), where padding counts as found: a scalar."""
        return ((found - tokens) * self.mask[positions[..., 0]]).square().mean()
