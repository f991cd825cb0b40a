"""The door for methods: what learns from the networks of a zoo and draws new ones.

A method is named by `method.name` of a recipe (rpg.methods.METHODS) and known to everything else by what is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field
from typing_extensions import Self

from zoo.conditions import ConditionType
from zoo.manifest import EARLY, Entry
from zoo.seeds import Seed
from zoo.store import Zoo
from zoo.structure import Frozen, Structure
from zoo.writer import ZooWriter

if TYPE_CHECKING:
    from rpg.devices import Device
    from rpg.run import Run


class DrawConfig(Frozen):
    """Section `generate:`. Methods extend it by what they can be asked for. `n` networks; network k is a function of
    (seed, k).
    """

    n: Annotated[int, Field(gt=0, le=10**6)] = 10
    seed: Seed = 0

    def asked(self) -> Sequence[Asked]:
        """The networks, `n` at a time: for each condition, where they are drawn for some."""
        return (Asked(self),)

    def sources(self) -> tuple[str, ...]:
        """The zoos, by place, whose networks these are made from, beside those of the run."""
        return ()


@dataclass(frozen=True)
class Asked:
    """`n` networks that are asked for alike: how, how their ids begin, and the binary task they are for, if there is
    one.
    """

    request: DrawConfig
    id: str = "generated"
    condition: str | None = None


class MethodConfig(Frozen):
    """Section `method:`. `name` is that of the method; each has its own fields beside it. `draw_config` is the schema
    of the section `generate:` that goes with it; `along` says whether the method learns early checkpoints, too;
    `by_neuron` whether its tokens are neurons, so that the number of a network's values does not say what it costs.
    """

    draw_config: ClassVar[type[DrawConfig]] = DrawConfig
    along: ClassVar[bool] = False
    by_neuron: ClassVar[bool] = False

    name: str

    def build(self) -> Method:
        """The method with these settings."""
        raise TypeError(f"{type(self).__name__} does not say what it builds")

    def check_draw(self, request: DrawConfig, data: TrainingSet | None = None) -> None:
        """Raise ValueError for a request that what is learnt with these settings cannot serve: from anything, or from
        these data.
        """

    def condition_type(self, run: Run) -> ConditionType | None:
        """What networks of a trained run can be asked for; None where that is the tasks of its zoo, if it has some."""
        return None


@dataclass(frozen=True)
class TrainingSet:
    """The networks to learn from: the entries of one split of a zoo, at least one."""

    zoo: Zoo
    split: str
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, zoo: Zoo, split: str, along: bool = False) -> Self:
        """Those of a split; with `along` also the early ones of the same trainings. Raises ValueError for a split that
        the zoo does not have.
        """
        chosen = zoo.select(split)
        if along:
            trainings = {(entry.seed, entry.condition) for entry in chosen}
            early = [e for e in zoo.entries if e.split == EARLY != split and (e.seed, e.condition) in trainings]
            chosen = [*early, *chosen]
        return cls(zoo, split, tuple(chosen))

    def __post_init__(self) -> None:
        if not any(spec.numel for spec in self.zoo.structure if spec.kind != "constant"):
            raise ValueError(
                f"there is nothing to learn from {self.zoo.path}: its networks hold no values, or integers alone; "
                "expected a zoo of networks with weights"
            )

    def require_finite(self) -> None:
        """Raise ValueError, naming tensor and network, where values are not finite. Reads everything once."""
        for column in self.zoo.columns(self.entries):
            for entry, finite in zip(self.entries, column.block.isfinite().all(1).tolist(), strict=True):
                if not finite:
                    raise ValueError(
                        f"{column.spec.name} of {entry.id} of {self.zoo.path} holds values that are NaN or infinite; "
                        "expected a zoo without such networks"
                    )


@dataclass(frozen=True)
class Machine:
    """Where a method computes, which trackers its training reports to and, for methods that look at the task's data,
    where data sets are (None: on the Hub). Nothing here changes what is learnt.
    """

    device: torch.device
    trackers: tuple[str, ...] = ()
    data_root: Path | None = None


@dataclass(frozen=True)
class About:
    """A method in a few words: what it is, its source, which tasks and sizes of networks it suits, and whether there is
    something to train (or else a closed form).
    """

    what: str
    source: str
    suits: str
    trained: bool


@dataclass(frozen=True)
class Estimate:
    """What learning and drawing cost. `parameters` are learnt; memory in bytes; `fit_flops` are those of the whole fit,
    `draw_flops` those of one network, `fit_hours` the least that the fit takes on the device. `figures` is everything
    that is known, JSON-ready, `text` the same for people.
    """

    parameters: int
    fit_bytes: int
    fit_flops: int
    draw_bytes: int
    draw_flops: int
    fit_hours: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    text: str = ""


class Method(Protocol):
    """One way to learn networks. Its files in the run's directory are its own affair, but for their names."""

    about: ClassVar[About]

    def check(self, data: TrainingSet, machine: Machine) -> None:
        """Refuse what cannot work, before any work: ValueError with the remedy, MissingExtra for a library."""
        ...

    def fit(self, data: TrainingSet, run: Run, machine: Machine) -> None:
        """Learn the networks and seal the run (`Run.seal`). An interrupted call is continued by the same call, to the
        same bytes on the same hardware. Under a launcher all processes call it, and the first writes.

        Raises Failed when learning diverges, memory does not suffice or the disk is full.
        """
        ...

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        """How many networks are asked for. Raises ValueError for a request that the run cannot serve."""
        ...

    def draw(self, run: Run, request: DrawConfig, writer: ZooWriter, machine: Machine) -> None:
        """Add the requested networks to the zoo, but for those that are there. Memory does not grow with `n`.

        Raises Failed when a network is not finite.
        """
        ...

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        """What this costs for so many training checkpoints of this structure, without data. Raises ValueError for
        settings that do not fit together.
        """
        ...
