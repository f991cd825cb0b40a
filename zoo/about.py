"""Section `about:` of a recipe: what it is for people, and what to expect of it. No part of any identity."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from zoo.structure import Frozen

Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\n]*$")]


class Hours(Frozen):
    """Hours of each stage on the recipe's hardware; `source` says where they come from."""

    collect: PositiveFloat | None = None
    train: PositiveFloat | None = None
    generate: PositiveFloat | None = None
    source: Line


class Estimated(Frozen):
    """What `rpg estimate --device h100` says of training, with the scan in PyTorch: the least hours, and GB of the
    GPU's memory. A test holds them against it; `make headers` renews them.
    """

    hours: PositiveFloat
    memory_gb: PositiveFloat


class Expected(Frozen):
    """The mean score of originals and of generated networks in percent, as far as anyone knows it, and whose number it
    is.
    """

    metric: Line = "top-1"
    originals: NonNegativeFloat | None = None
    generated: NonNegativeFloat | None = None
    source: Line


class About(Frozen):
    """What a recipe makes, in a line; the commands that make it; on which hardware, in how many hours; `parameters` of
    a network (buffers are not counted); GB of disk for the zoo, and as much for its tokens while training; scores; the
    row of the paper, or that it has none.
    """

    what: Line
    command: Line
    parameters: PositiveInt
    hardware: Line
    hours: Hours
    estimate: Estimated | None = None
    disk_gb: PositiveFloat | None = None
    expected: Expected
    paper: Line

    @property
    def train_hours(self) -> float | None:
        """Of training: the estimate's where there is one."""
        return self.estimate.hours if self.estimate else self.hours.train

    @property
    def total_hours(self) -> float | None:
        """Of all stages of which they are known; nothing where none is."""
        known = [h for h in (self.hours.collect, self.train_hours, self.hours.generate) if h is not None]
        return sum(known) if known else None
