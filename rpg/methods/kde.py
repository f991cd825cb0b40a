"""A kernel density over whole networks, or over their principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from rpg.methods.base import About, DrawConfig, MethodConfig
from rpg.methods.closed_form import ClosedForm, check_rank, load_gram
from zoo.derive.mixtures import Draft, Drafts, Piece, Principal, dimensions
from zoo.derive.perturb import check_several
from zoo.manifest import Entry
from zoo.seeds import generator
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run


class Config(MethodConfig):
    """`codes` are what has a density: the values of `networks`, or their coordinates along the first `rank` principal
    components (None: all). `bandwidth` is the kernel's deviation, in deviations of each code, or a rule for it
    (`bandwidth_of`).
    """

    name: Literal["kde"]
    codes: Literal["networks", "pca"] = "pca"
    rank: PositiveInt | None = None
    bandwidth: Annotated[float, Field(ge=0)] | Literal["scott", "silverman"] = "scott"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rank is not None and self.codes == "networks":
            raise ValueError("rank belongs to codes: pca; whole networks have none")
        return self

    def build(self) -> KDE:
        return KDE(self)


class KDE(ClosedForm):
    """A training network's code, drawn at random, plus Gaussian noise that is independent for every code (Parzen 1962):
    as hyper-representations sample their latent codes, here with PCA as the code. A network's parent is the one whose
    code it started from. With bandwidth 0 these are the training networks, or their projections.
    """

    about: ClassVar[About] = About(
        what="a training network's principal components, or all its values, plus noise of a kernel's width",
        source="kernel density estimates, Silverman 1986; over weights: Schürholt et al. 2022, "
        "https://arxiv.org/abs/2209.14733",
        suits="any task and architecture; networks that are aligned, or of one run",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def uses_gram(self) -> bool:
        return self.config.codes == "pca"

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        if self.config.codes == "pca":
            check_rank(self.config.rank, zoo, len(entries))
        else:
            check_several(zoo, entries)

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        if self.config.codes == "pca":
            return self._of_components(zoo, entries, run, request)
        return self._of_values(zoo, entries, request)

    def _of_values(self, zoo: Zoo, entries: Sequence[Entry], request: DrawConfig) -> Drafts:
        width = bandwidth_of(self.config.bandwidth, len(entries), dimensions(zoo.structure))
        everything = tuple(range(len(entries)))

        def deviation(piece: Piece) -> Tensor:
            return width * piece.deviation

        def draft(k: int) -> Draft:
            centre = _centre(request.seed, k, len(entries))
            coefficients = torch.zeros(len(entries), dtype=torch.float64)
            coefficients[centre] = 1
            return Draft(everything, coefficients, (centre,), deviation, (request.seed, "kde", k))

        return draft

    def _of_components(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        rank, everything = check_rank(self.config.rank, zoo, len(entries)), tuple(range(len(entries)))
        found = Principal.of(load_gram(run, len(entries)), rank, dimensions(zoo.structure))
        width = bandwidth_of(self.config.bandwidth, len(entries), rank)

        def draft(k: int) -> Draft:
            centre = _centre(request.seed, k, len(entries))
            rng = generator(request.seed, "kde", "code", k)
            code = found.codes[centre] + width * torch.randn(rank, generator=rng, dtype=torch.float64)
            return Draft(everything, found.coefficients(code), (centre,))

        return draft


def bandwidth_of(rule: float | str, networks: int, codes: int) -> float:
    """The kernel's width, in deviations of the codes: as given, N^(-1 / (d + 4)) by Scott (1992), or
    (N (d + 2) / 4)^(-1 / (d + 4)) by Silverman (1986), for N networks and d codes: the rules of scipy's gaussian_kde.
    They are made for few codes. For as many as networks, let alone values, they are about 1: set a number there.
    """
    if rule == "scott":
        return networks ** (-1 / (codes + 4))
    if rule == "silverman":
        return (networks * (codes + 2) / 4) ** (-1 / (codes + 4))
    return float(rule)


def _centre(seed: int, k: int, networks: int) -> int:
    return int(torch.randint(networks, (), generator=generator(seed, "kde", "centre", k)))
