"""What methods share that learn a code from two views of each network: their codes should be alike, and unlike those of
other networks (NT-Xent).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, field_validator
from torch import Tensor, nn

from rpg.methods.base import MethodConfig, TrainingSet
from rpg.methods.batches import check_several
from rpg.methods.density import Share, best
from rpg.methods.training import Optimisation
from rpg.methods.vectors import Codec, Statistics, VectorMethod
from rpg.tokens.permutations import Permutations, permutations_of
from zoo.structure import Structure


class ContrastiveConfig(MethodConfig):
    """What sections `method:` share. `autoencoder` says how it is trained.

    - `best`: the share of the training networks, by validation score, whose codes are sampled around (1: all).
    - `permutations`: views of a network have their hidden units in other orders.
    - `contrast`: the share of the contrastive loss in the loss, `temperature` its temperature.
    """

    by_neuron: ClassVar[bool] = True

    autoencoder: Optimisation
    best: Share = 0.3
    permutations: bool = True
    contrast: Annotated[float, Field(ge=0, le=1)]
    temperature: PositiveFloat = 0.1

    @field_validator("autoencoder")
    @classmethod
    def _several(cls, settings: Optimisation) -> Optimisation:
        if settings.batch_size < 2:
            raise ValueError("batch_size = 1 leaves no other network to contrast with; expected 2 or more")
        return settings


class ContrastiveMethod(VectorMethod, Codec):
    """A VectorMethod that trains one autoencoder on networks as they are."""

    statistics: Statistics = "none"
    config: ContrastiveConfig

    @abstractmethod
    def autoencoder(self, structure: Structure) -> nn.Module:
        """One for networks of this structure, not yet trained."""

    def refuse(self, data: TrainingSet) -> None:
        check_several(data)
        best(data.entries, self.config.best)
        self.permutations(data)

    def permutations(self, data: TrainingSet) -> Permutations | None:
        """What views are made with, if they are to be permuted."""
        if not self.config.permutations:
            return None
        return permutations_of(data.zoo.manifest.origin, data.zoo.structure, "use --set method.permutations=false")


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy of Chen et al. 2020 (https://arxiv.org/abs/2002.05709, equation
    1), a scalar, of the projections (B, d) of two views of the same networks: each view has to find its other one among
    the 2B - 1 others, by cosine similarity over `temperature`.
    """
    views = F.normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.T / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    others = similarity.masked_fill(itself, -torch.inf)
    return F.cross_entropy(others, torch.arange(len(views), device=views.device).roll(len(first)))
