"""A Gaussian for every value by itself: the null hypothesis that a generator has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from rpg.methods.base import About, DrawConfig, MethodConfig
from rpg.methods.closed_form import ClosedForm
from zoo.derive.mixtures import Drafts
from zoo.derive.perturb import check_several, gaussians
from zoo.manifest import Entry
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run


class Config(MethodConfig):
    """`width` is s in mean + s * deviation * noise: 1 fits the training networks, less is nearer to their mean."""

    name: Literal["gaussian"]
    width: Annotated[float, Field(ge=0)] = 1.0

    def build(self) -> Gaussian:
        return Gaussian(self)


class Gaussian(ClosedForm):
    """Values are independent, each with its mean and `width` times its deviation (ddof 1) over the training networks.
    Running variances that would be negative are zero. Several widths make the null curve of accuracy over distance.
    """

    about: ClassVar[About] = About(
        what="every value from its own Gaussian over the training networks",
        source="the baseline of Zeng et al. 2025, https://arxiv.org/abs/2506.07998",
        suits="any task and architecture; networks that are aligned, or of one run",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        check_several(zoo, entries)

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        return gaussians(zoo, entries, request.seed, self.config.width)
