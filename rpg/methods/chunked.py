"""Transformers whose tokens are pieces of a network's tensors (G.pt, Tina): their settings, and the maps into them and
out of them.

Legend: N networks, D values of a padded vector, P pieces, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rpg.config import DiffusionConfig, check_steps
from rpg.methods.attention import check_heads
from rpg.methods.base import DrawConfig, MethodConfig, TrainingSet
from rpg.methods.latents import DiffusionDraw, DiffusionMethod
from rpg.methods.training import Optimisation
from rpg.methods.vectors import Statistics
from rpg.tokens.layout import generated
from rpg.tokens.permutations import Permutations, permutations_of
from rpg.tokens.tokenisation import Rule, place
from zoo.structure import Structure

Width: TypeAlias = Annotated[int, Field(gt=0, le=2**16)]


class TransformerConfig(Optimisation):
    """The transformer and how it is trained. A token is at most `chunk` values of one tensor; metrics and levels of
    noise are told by so many `frequencies` over so many `octaves` (rpg.conditions.scalars).
    """

    chunk: Width = 576
    width: Width = 2048
    layers: Annotated[int, Field(gt=0, le=256)] = 12
    heads: PositiveInt = 16
    frequencies: Annotated[int, Field(gt=0, le=2**12)] = 128
    octaves: Annotated[int, Field(ge=0, le=32)] = 14

    @model_validator(mode="after")
    def _heads(self) -> Self:
        check_heads(self.width, self.heads)
        return self


class ChunkedConfig(MethodConfig):
    """With `permutations` the hidden units of networks stand in a new order in each step."""

    permutations: bool = True
    transformer: TransformerConfig
    diffusion: DiffusionConfig = DiffusionConfig()

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        assert isinstance(request, DiffusionDraw)
        check_steps(self.diffusion, request.steps)


class ChunkedMethod(DiffusionMethod):
    """A DiffusionMethod of whole networks, whose tokens these pieces are."""

    about_memory: ClassVar[str] = "set a smaller method.transformer.width, layers or batch_size"
    statistics: Statistics = "none"
    tokenisation: Rule = "layer"

    def __init__(self, config: ChunkedConfig) -> None:
        super().__init__()
        self.diffusion, self.token_size = config.diffusion, config.transformer.chunk
        self._permuted = config.permutations

    def permutations(self, data: TrainingSet) -> Permutations | None:
        """The orders that the zoo's units may stand in, where they are to. Raises ValueError where nobody knows any."""
        if not self._permuted:
            return None
        return permutations_of(data.zoo.manifest.origin, data.zoo.structure, "use --set method.permutations=false")


def token_sizes(structure: Structure, chunk: int) -> list[int]:
    """How many values each token has: every tensor is cut into pieces of `chunk`, of which the last may have fewer."""
    places = place([spec.shape for spec in generated(structure)], "layer", chunk)
    return [min(chunk, where.numel - k * chunk) for where in places for k in range(where.num_tokens)]


def maps_in(sizes: Sequence[int], width: int) -> nn.ModuleList:
    """A linear map without bias from each of these sizes to the width."""
    return nn.ModuleList(nn.Linear(size, width, bias=False) for size in sizes)


def maps_out(sizes: Sequence[int], width: int) -> nn.ModuleList:
    """The other way round."""
    return nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)


def begin(model: nn.Module, out: nn.ModuleList) -> None:
    """The weights that training begins with: small random ones, in `out` zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for linear in out:
        nn.init.zeros_(linear.weight)  # type: ignore[arg-type]


def read(vectors: Tensor, maps: nn.ModuleList, chunk: int) -> list[Tensor]:
    """The tokens (N, C) of vectors (N, D), piece by piece."""
    return [
        linear(vectors[:, k * chunk : k * chunk + linear.in_features])  # type: ignore[operator]
        for k, linear in enumerate(maps)
    ]


def write(tokens: Tensor, maps: nn.ModuleList, chunk: int) -> Tensor:
    """The vectors (N, D) of tokens (N, P, C), zero in padding."""
    parts = [linear(tokens[:, k]) for k, linear in enumerate(maps)]
    return torch.cat([F.pad(part, (0, chunk - part.shape[1])) for part in parts], 1)
