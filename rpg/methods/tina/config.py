"""Tina's sections `method:` and `generate:`. Defaults of the model are the published ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, PositiveFloat, model_validator
from typing_extensions import Self

from rpg.methods.base import Asked, DrawConfig
from rpg.methods.chunked import ChunkedConfig
from rpg.methods.latents import DiffusionDraw
from zoo.conditions import ClassBits, ClassTexts, check_condition, is_text

if TYPE_CHECKING:
    from rpg.methods.tina.method import Tina
    from rpg.run import Run


MOST_LETTERS = 60  # of a condition in an id


def _in_letters(condition: str) -> str:
    """The condition as a part of an id: words as they are, and a hash where that loses anything."""
    letters = re.sub(r"[^A-Za-z0-9]+", "-", condition)[:MOST_LETTERS].strip("-")
    if letters.replace("-", " ") == condition:
        return letters
    return f"{letters}-{hashlib.sha256(condition.encode()).hexdigest()[:8]}".lstrip("-")


def _bits_or_text(condition: str) -> str:
    return condition if is_text(condition) else check_condition(condition)


class TinaDraw(DiffusionDraw):
    """Section `generate:`: `n` networks for each of `conditions`, the bits of a binary task or, of a run that was told
    classes by their names, two texts: `animals against vehicles`.
    """

    conditions: tuple[Annotated[str, AfterValidator(_bits_or_text)], ...] = ()

    def asked(self) -> Sequence[Asked]:
        return [
            Asked(
                self.model_copy(update={"conditions": (condition,)}),
                f"generated-{_in_letters(condition)}",
                None if is_text(condition) else condition,
            )
            for condition in dict.fromkeys(self.conditions)
        ]


class Config(ChunkedConfig):
    """A class is told by a vector that is `learned`, or by the `text` of its name, as the frozen `encoder` (CLIP: a
    directory, or a repository on the Hub) reads it; then other words can be asked for, too.

    Networks are `scaled` by one number, so that their deviation is `deviation`, or value by value, each to mean 0 and
    deviation 1, as suits networks of one start. With `permutations` their hidden units stand in a new order in each
    step.
    """

    draw_config: ClassVar[type[DrawConfig]] = TinaDraw

    name: Literal["tina"]
    classes: Literal["learned", "text"] = "text"
    encoder: str | None = "openai/clip-vit-base-patch32"
    scaled: Literal["network", "value"] = "network"
    deviation: PositiveFloat | None = 1.646

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.classes == "text") is (self.encoder is None):
            raise ValueError("encoder goes with classes: text, which reads their names; set both, or encoder to null")
        if (self.scaled == "network") is (self.deviation is None):
            raise ValueError("deviation goes with scaled: network; set both, or deviation to null")
        if self.scaled == "value" and self.permutations:
            raise ValueError("scaled: value knows each value by its place, and permutations move them; set one of them")
        return self

    def build(self) -> Tina:
        from rpg.methods.tina.method import Tina

        return Tina(self)

    def condition_type(self, run: Run) -> ClassBits | ClassTexts | None:
        from rpg.run import class_bits

        return ClassTexts(classes=class_bits(run)) if self.classes == "text" else None
