"""The first step of every cell, a zoo that a recipe collects; and what all steps share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rpg.devices import Device
from zoo import api
from zoo.recipe import Recipe, load_recipe
from zoo.training.collect import jobs
from zoo.writer import refuse_another

if TYPE_CHECKING:
    from rpg.reproduce.steps import Step

FLOAT_BYTES = 4
COMMAND = ("rpg", "reproduce")


@dataclass(frozen=True)
class Machine:
    """Where steps compute and where data are; `workers` of an engine at a time, without a number one here, and as many
    as a Ray cluster has room for.
    """

    device: str = "auto"
    data_root: Path | None = None
    engine: str = "local"
    workers: int | None = None


@dataclass(frozen=True)
class Cost:
    """The least hours, None where nobody knows, and bytes on disk."""

    hours: float | None = None
    bytes: int = 0


@cache
def recipe_of(name: str, overrides: tuple[str, ...], method: str | None = None) -> Recipe:
    """A recipe, read once."""
    return load_recipe(name, overrides, method)


@cache
def values_of(name: str, overrides: tuple[str, ...]) -> int:
    """Values of one of its networks. Raises MissingExtra where their library is missing."""
    return recipe_of(name, overrides).task.structure().numel


def tag(settings: Any) -> str:
    """What tells places of different settings apart; nothing for none."""
    return f"-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}" if settings else ""


def sets(overrides: Sequence[str]) -> list[str]:
    """Overrides as options of a command."""
    return [word for pair in overrides for word in ("--set", pair)]


class InZoos:
    """A step that makes a zoo, in its usual place."""

    name: str

    @property
    def place(self) -> Path:
        return Path("zoos") / self.name

    @property
    def done(self) -> bool:
        return (self.place / "manifest.json").is_file()

    def refuse_another(self, machine: Machine) -> None:
        """Raise ValueError where what is there was made otherwise, as far as anyone knows."""


@dataclass(frozen=True)
class Collected(InZoos):
    """A zoo that a recipe collects; `overrides` are of its sections task: and zoo:."""

    stage: ClassVar[str] = "collect"
    recipe: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:  # type: ignore[override]
        return Path(self.recipe).stem + tag(self.overrides)

    def needs(self) -> list[Step]:
        return []

    def command(self) -> list[str]:
        return ["rpg-zoo", "collect", self.recipe, *sets(self.overrides), "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        api.collect(
            self.recipe,
            out=self.place,
            overrides=self.overrides,
            data_root=machine.data_root,
            device=machine.device,
        )

    def refuse_another(self, machine: Machine) -> None:
        refuse_another(self.place, recipe_of(self.recipe, self.overrides).collected(COMMAND))

    @property
    def what(self) -> str:
        """What the recipe says of itself, and whose its hours are, in a line; nothing where it is silent."""
        about = recipe_of(self.recipe, self.overrides).about
        changed = f" ({', '.join(self.overrides)})" if self.overrides else ""
        return f"{about.what}{changed} On {about.hardware}; hours: {about.hours.source}." if about else ""

    @property
    def trainings(self) -> int:
        recipe = recipe_of(self.recipe, self.overrides)
        return len(jobs(recipe.zoo, recipe.task.conditions()))

    @property
    def bytes(self) -> int:
        count = self.trainings * recipe_of(self.recipe, self.overrides).zoo.saved
        return FLOAT_BYTES * count * values_of(self.recipe, self.overrides)

    def cost(self, device: Device) -> Cost:
        """Hours are what the recipe says of itself, for as many trainings as there are here."""
        about = recipe_of(self.recipe, self.overrides).about
        hours = about.hours.collect if about else None
        if hours is not None and self.overrides:
            hours *= self.trainings / Collected(self.recipe).trainings
        return Cost(hours, self.bytes)
