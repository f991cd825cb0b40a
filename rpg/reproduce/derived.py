"""Steps from zoo to zoo: noised, aligned, with exchanged parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rpg.devices import Device
from rpg.reproduce.collected import COMMAND, FLOAT_BYTES, Collected, Cost, InZoos, Machine, recipe_of, values_of
from zoo import api
from zoo.derive.perturb import PerturbConfig, perturb
from zoo.derive.swap import SwapConfig, swap
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.reproduce.steps import Step


@dataclass(frozen=True)
class Noised(InZoos):
    """Networks of a zoo with noise of `sigma` deviations of each tensor."""

    stage: ClassVar[str] = "perturb"
    zoo: Collected
    sigma: float
    n: int = 10

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.zoo.name}-noise-{self.sigma:g}"

    def needs(self) -> list[Step]:
        return [self.zoo]

    def command(self) -> list[str]:
        kind = ["--kind", "noise", "--sigma", f"{self.sigma:g}", "-n", str(self.n)]
        return ["rpg-zoo", "perturb", str(self.zoo.place), *kind, "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        zoo = Zoo.open(self.zoo.place)
        origin = zoo.manifest.origin.model_copy(update={"command": COMMAND})
        perturb(PerturbConfig(kind="noise", n=self.n, sigma=self.sigma), zoo, zoo.select("train"), origin, self.place)

    def cost(self, device: Device) -> Cost:
        return Cost(0.0, FLOAT_BYTES * self.n * values_of(self.zoo.recipe, self.zoo.overrides))


@dataclass(frozen=True)
class Aligned(InZoos):
    """A zoo whose networks are aligned to one another."""

    stage: ClassVar[str] = "align"
    zoo: Collected

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.zoo.name}-aligned"

    def needs(self) -> list[Step]:
        return [self.zoo]

    def command(self) -> list[str]:
        return ["rpg-zoo", "align", str(self.zoo.place), "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        api.align(self.zoo.place, out=self.place, data_root=machine.data_root, device=machine.device, command=COMMAND)

    def cost(self, device: Device) -> Cost:
        return Cost(None, self.zoo.bytes)


@dataclass(frozen=True)
class Swapped(InZoos):
    """A network with a share of another's parts: of two checkpoints of one training, or of the first two seeds."""

    stage: ClassVar[str] = "swap"
    zoo: Collected | Aligned
    share: float
    parts: str
    of_one_run: bool
    n: int = 10

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.zoo.name}-swap-{'run' if self.of_one_run else 'seeds'}-{self.parts}-{self.share:g}"

    def needs(self) -> list[Step]:
        return [self.zoo]

    @property
    def ids(self) -> tuple[str, str]:
        """The two checkpoints: the last of the first seed, and its first or the last of the second seed."""
        collected = self.zoo.zoo if isinstance(self.zoo, Aligned) else self.zoo
        config = recipe_of(collected.recipe, collected.overrides).zoo
        first, last = f"seed{config.seed:05d}", config.checkpoints - 1
        other = f"{first}-0000" if self.of_one_run else f"seed{config.seed + 1:05d}-{last:04d}"
        return f"{first}-{last:04d}", other

    def command(self) -> list[str]:
        options = ["--parts", self.parts, "--share", f"{self.share:g}", "-n", str(self.n)]
        return ["rpg-zoo", "swap", str(self.zoo.place), *self.ids, *options, "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        zoo = Zoo.open(self.zoo.place)
        config = SwapConfig(parts=self.parts, shares=(self.share,), n=self.n)  # type: ignore[arg-type]  # as in Spec
        origin = zoo.manifest.origin.model_copy(update={"command": COMMAND})
        first, other = map(zoo.entry, self.ids)
        swap(config, zoo, first, other, origin, self.place)

    def cost(self, device: Device) -> Cost:
        collected = self.zoo.zoo if isinstance(self.zoo, Aligned) else self.zoo
        return Cost(0.0, FLOAT_BYTES * self.n * values_of(collected.recipe, collected.overrides))
