"""A Gaussian over whole networks along the principal components of a zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt

from rpg.methods.base import About, DrawConfig, MethodConfig
from rpg.methods.closed_form import ClosedForm, check_rank, load_gram
from zoo.derive.mixtures import Draft, Drafts, Principal, dimensions
from zoo.manifest import Entry
from zoo.seeds import generator
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run


class Config(MethodConfig):
    """`rank` components are kept (None: all N - 1 of N networks). With `residual` the variance left out is added as
    isotropic noise. `width` multiplies every deviation from the mean.
    """

    name: Literal["pca-gaussian"]
    rank: PositiveInt | None = None
    residual: bool = False
    width: Annotated[float, Field(ge=0)] = 1.0

    def build(self) -> PCAGaussian:
        return PCAGaussian(self)


class PCAGaussian(ClosedForm):
    """With all components, a draw has the mean and sample covariance (ddof 1) of the training networks, so it is a
    random combination of them. With fewer and `residual`, this is probabilistic PCA: mean + V (L - r)^(1/2) z + r^(1/2)
    e, with the first variances L along V and r the mean of those left out (Tipping and Bishop 1999, equations 7 and 8).
    """

    about: ClassVar[About] = About(
        what="a Gaussian with the zoo's mean and covariance, of full rank or along its first principal components",
        source="probabilistic PCA, Tipping and Bishop 1999, https://doi.org/10.1111/1467-9868.00196",
        suits="any task and architecture; networks that are aligned, or of one run",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def uses_gram(self) -> bool:
        return True

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        check_rank(self.config.rank, zoo, len(entries))

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        rank, everything = check_rank(self.config.rank, zoo, len(entries)), tuple(range(len(entries)))
        found = Principal.of(load_gram(run, len(entries)), rank, dimensions(zoo.structure))
        rest = found.rest if self.config.residual else 0.0
        kept = (1 - rest / found.variances).clamp_min(0).sqrt() if rest else torch.ones(rank, dtype=torch.float64)
        noise = self.config.width * rest**0.5

        def draft(k: int) -> Draft:
            rng = generator(request.seed, "pca-gaussian", "code", k)
            code = torch.randn(rank, generator=rng, dtype=torch.float64)
            coefficients = found.coefficients(self.config.width * kept * code)
            stream = (request.seed, "pca-gaussian", k)
            return Draft(everything, coefficients, everything, (lambda piece: noise) if noise else None, stream)

        return draft
