"""The autoencoder of hyper-representations: a token for every neuron, one code for a network.

Legend: B networks, D values of a vector, N neurons, C width, Z values of a code.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rpg.methods.attention import Transformer, check_heads
from rpg.tokens.layers import Layers
from zoo.structure import Frozen

HEAD_WIDTH, HEAD_LAYERS, PROJECTION = 400, 4, 50


class Model(Frozen):
    """`layers` blocks each in encoder and decoder, of this `width`, `heads` and `hidden` width of the perceptrons.
    `latent` values are a network's code, read from a token of its own (`token`) or from all (`flatten`), and with
    `bounded` they lie between -1 and 1, so that a bandwidth means something.
    """

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    hidden: PositiveInt
    latent: PositiveInt
    compression: Literal["token", "flatten"] = "token"
    bounded: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_heads(self.width, self.heads)
        return self


class Autoencoder(nn.Module):
    """Vectors to codes and back. Every layer has linear maps of its own from its neurons' values to tokens and back;
    these see values in deviations of their layer, or small layers would hardly be heard.
    """

    deviations: Tensor

    def __init__(self, layers: Layers, model: Model) -> None:
        super().__init__()
        self.layers, self.model = layers, model
        count, width = layers.rows, model.width

        def transformer() -> Transformer:
            return Transformer(model.layers, width, model.heads, model.hidden, "relu", dropout=model.dropout)

        self.embed = nn.ModuleList(nn.Linear(layer.columns, width) for layer in layers.layers)
        self.positions = nn.Parameter(0.02 * torch.randn(2, count, width))  # the encoder's, the decoder's
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        self.encoder, self.decoder = transformer(), transformer()
        self.down = nn.Linear(width * (count if model.compression == "flatten" else 1), model.latent)
        self.up = nn.Linear(model.latent, count * width)
        self.unembed = nn.ModuleList(nn.Linear(width, layer.columns) for layer in layers.layers)
        self.head = projection(model.latent)
        self.register_buffer("deviations", torch.ones(len(layers.layers)))  # of each layer's values

    def encode(self, vectors: Tensor) -> Tensor:
        """(B, D or more) -> (B, Z)."""
        scaled = vectors[:, : self.layers.values] / self.layers.spread(self.deviations)
        parts = zip(self.layers.matrices(scaled), self.embed, strict=True)
        tokens = torch.cat([embed(matrix) for matrix, embed in parts], 1) + self.positions[0]
        if self.model.compression == "token":
            tokens = torch.cat([self.summary.expand(len(tokens), 1, -1), tokens], 1)
            code = self.down(self.encoder(tokens)[:, 0])
        else:
            code = self.down(self.encoder(tokens).flatten(1))
        return code.tanh() if self.model.bounded else code

    def decode(self, codes: Tensor) -> Tensor:
        """(B, Z) -> (B, D)."""
        tokens = self.decoder(self.up(codes).unflatten(1, (-1, self.model.width)) + self.positions[1])
        parts = tokens.split([layer.rows for layer in self.layers.layers], 1)
        scaled = self.layers.vectors(unembed(part) for part, unembed in zip(parts, self.unembed, strict=True))
        return scaled * self.layers.spread(self.deviations)

    def error(self, found: Tensor, vectors: Tensor) -> Tensor:
        """The mean squared difference of vectors (B, D), each layer's in its own deviations: a scalar."""
        return ((found - vectors) / self.layers.spread(self.deviations)).square().mean()


def projection(size: int) -> nn.Sequential:
    """What codes pass on their way to the contrastive loss, in training alone."""
    steps: list[nn.Module] = []
    for _ in range(HEAD_LAYERS - 1):
        steps += [nn.Linear(size, HEAD_WIDTH), nn.BatchNorm1d(HEAD_WIDTH), nn.ReLU()]
        size = HEAD_WIDTH
    return nn.Sequential(*steps, nn.Linear(size, PROJECTION))
