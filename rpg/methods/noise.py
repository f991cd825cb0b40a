"""Noised copies: what novelty costs when it is bought with noise alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from rpg.methods.base import About, DrawConfig, MethodConfig
from rpg.methods.closed_form import ClosedForm
from zoo.derive.mixtures import Drafts
from zoo.derive.perturb import noised
from zoo.manifest import Entry
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run


class Config(MethodConfig):
    """`sigma` is the noise in standard deviations of each tensor."""

    name: Literal["noise"]
    sigma: Annotated[float, Field(ge=0)] = 0.05

    def build(self) -> Noise:
        return Noise(self)


class Noise(ClosedForm):
    """A training network, drawn at random, plus Gaussian noise; on running variances it acts in log space."""

    about: ClassVar[About] = About(
        what="a training network plus Gaussian noise",
        source="the baseline of Zeng et al. 2025, https://arxiv.org/abs/2506.07998, with p-diff's relative scale",
        suits="any task and architecture",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        """There is nothing to refuse: one network is enough."""

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        return noised(zoo, entries, request.seed, self.config.sigma)
