"""G.pt's sections `method:` and `generate:`. Defaults of the model are the published ones for CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator
from typing_extensions import Self

from rpg.methods.base import Asked, DrawConfig
from rpg.methods.chunked import ChunkedConfig
from rpg.methods.latents import DiffusionDraw
from zoo.conditions import MetricTarget

if TYPE_CHECKING:
    from rpg.methods.g_pt.method import GPT
    from rpg.run import Run

RANDOM = "random"


class GPTDraw(DiffusionDraw):
    """Section `generate:`: `n` networks for each of `conditions`, such as `loss=0.1`.

    `start` says which networks they are made from: `random`, new ones as training begins with; or a zoo by its place,
    whose checkpoint k network k is made from, counted round, where `chosen` is a split or an id, of those alone. What
    is made is a start again until there were so many `rounds`. What its metric is, and that of a checkpoint without a
    record of it, is measured on validation data.
    """

    conditions: tuple[str, ...] = ()
    start: str = Field(default=RANDOM, exclude=True)  # the zoo's hash is a parent, wherever it lies
    chosen: str | None = None
    rounds: Annotated[int, Field(gt=0, le=1000)] = 1

    @model_validator(mode="after")
    def _of_a_zoo(self) -> Self:
        if self.chosen is not None and self.start == RANDOM:
            raise ValueError(
                f"chosen = {self.chosen} is a split or an id of a zoo to start from; set start to its place"
            )
        return self

    def asked(self) -> Sequence[Asked]:
        return [
            Asked(self.model_copy(update={"conditions": (condition,)}), f"generated-{named(condition)}")
            for condition in dict.fromkeys(self.conditions)
        ]

    def sources(self) -> tuple[str, ...]:
        return () if self.start == RANDOM else (self.start,)


def named(condition: str) -> str:
    """A condition as a part of an id: `loss=0.1` as `loss-0.1`."""
    return condition.replace("=", "-").replace("+", "")


class Config(ChunkedConfig):
    """What is told is a `metric` that the zoo recorded on validation data. Values are multiplied by one number, so that
    their deviation is `deviation`. With `permutations` the hidden units of both networks of a pair stand in the same
    new order in each step.
    """

    draw_config: ClassVar[type[DrawConfig]] = GPTDraw
    along: ClassVar[bool] = True

    name: Literal["g.pt"]
    metric: str = "loss"
    deviation: PositiveFloat = 0.538

    def build(self) -> GPT:
        from rpg.methods.g_pt.method import GPT

        return GPT(self)

    def condition_type(self, run: Run) -> MetricTarget:
        from rpg.methods.g_pt.prompts import Prompts

        return Prompts.of(run).target
