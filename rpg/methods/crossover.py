"""Networks of the units of several training networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from rpg.methods.base import About, DrawConfig, MethodConfig
from rpg.methods.closed_form import ClosedForm
from zoo.derive.crossover import crossovers
from zoo.derive.mixtures import Drafts
from zoo.manifest import Entry
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run


class Config(MethodConfig):
    """Each network takes its units from `of` others."""

    name: Literal["crossover"]
    of: Annotated[int, Field(ge=2)] = 2

    def build(self) -> Crossover:
        return Crossover(self)


class Crossover(ClosedForm):
    """The right units with the wrong partners: what a generator that knows units, and not what they are for, can do."""

    about: ClassVar[About] = About(
        what="each unit (a row of a layer, with its bias) from one of a few training networks",
        source="alignment before crossover: Uriot and Izzo 2020, https://arxiv.org/abs/2003.10306",
        suits="any task and architecture; networks that are aligned",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        if self.config.of > len(entries):
            raise ValueError(
                f"method.of = {self.config.of}, but {zoo.path} has {len(entries)} networks to learn from; "
                f"use --set method.of={len(entries)} or fewer"
            )

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        return crossovers(entries, request.seed, self.config.of)
