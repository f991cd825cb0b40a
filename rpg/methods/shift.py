"""One learned shift plus noise: what a generator does at least that is told what networks are for, and no more.

Files in the run, beside those of every method on vectors (rpg.methods.vectors):

    values.safetensors      mean and deviation of every value over the training networks
    shift.safetensors       what is added to the mean

Legend: N networks, D values of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, JsonValue, PositiveInt
from torch import Tensor, nn

from rpg.devices import Device
from rpg.methods.base import About, DrawConfig, Estimate, Machine, MethodConfig, TrainingSet
from rpg.methods.measured import StageCost, draw_cost, estimated, stage_cost
from rpg.methods.task_data import Behaviour, task_with_data
from rpg.methods.training import Optimisation, Trainer
from rpg.methods.vectors import Drawn, VectorMethod, Vectors
from rpg.tokens.values import ValueStatistics
from zoo.checkpoint import load_tensors, save_tensors
from zoo.derive.mixtures import dimensions
from zoo.derive.perturb import check_several
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.tasks.classification import ClassificationTask

if TYPE_CHECKING:
    from rpg.run import Run


class ShiftConfig(Optimisation):
    """How the shift is learnt: in each step from `batch_size` networks on `images` training images."""

    images: PositiveInt = 128


class Config(MethodConfig):
    """`width` is that of the noise: s in mean + shift + s * deviation * noise, value by value."""

    name: Literal["shift"]
    width: Annotated[float, Field(ge=0)] = 1.0
    shift: ShiftConfig

    def build(self) -> Shift:
        return Shift(self)


class Common(nn.Module):
    """The shift (D,), in deviations of each value."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size))


class Shift(VectorMethod):
    """A Gaussian for every value with one vector added to all networks, which lowers their cross-entropy on training
    images. A control: such networks are good and far from all others, and all in one place (docs/new-and-good.md).
    Otherwise than those of `gaussian`, deviations have divisor N, and running variances are taken as logarithms.
    """

    about: ClassVar[About] = About(
        what="a Gaussian for every value plus one learned shift: the control of generators that learn behaviour",
        source="this project",
        suits="classifiers of images of 1,000 to 100,000 values, aligned, from several seeds",
        trained=True,
    )
    about_memory = "set a smaller method.shift.batch_size"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def refuse(self, data: TrainingSet) -> None:
        check_several(data.zoo, data.entries)

    def check(self, data: TrainingSet, machine: Machine) -> None:
        super().check(data, machine)
        self._task(data, machine)

    def _task(self, data: TrainingSet, machine: Machine) -> ClassificationTask:
        remedy = "use --method gaussian, which learns no shift"
        return task_with_data(data.zoo.manifest.origin, machine.device, remedy, machine.data_root)

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        settings, path = self.config.shift, _values(vectors.run)
        if not path.is_file():
            found = ValueStatistics.fit(vectors.layout, data.zoo.checkpoints(data.entries))
            save_tensors(path, found.tensors())
        trainer.keep(path)
        values = self._statistics(vectors, trainer.device)
        task = self._task(data, Machine(trainer.device, data_root=trainer.data_root))
        behaviour = Behaviour(task, vectors.layout, data.zoo.frozen())

        def loss(model: nn.Module, step: int) -> Tensor:
            assert isinstance(model, Common)
            noise = torch.randn(
                settings.batch_size, vectors.size, generator=generator(settings.seed, "shift", step)
            ).to(trainer.device)
            batch = behaviour.batch(settings.seed, step, settings.images)
            return behaviour.cross_entropy(self._networks(values, model.shift, noise), batch)

        trained = trainer.train("shift", Common(vectors.size), settings, loss)
        assert isinstance(trained, Common)
        return {"shift_in_deviations": trained.shift.detach().square().mean().sqrt().item()}

    def _statistics(self, vectors: Vectors, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation (D,) of every value."""
        found = ValueStatistics.from_tensors(load_tensors(_values(vectors.run)), vectors.layout)
        return found.mean.flatten().to(device), found.std.flatten().to(device)

    def _networks(self, values: tuple[Tensor, Tensor], shift: Tensor, noise: Tensor) -> Tensor:
        mean, deviation = values
        return mean + deviation * (shift + self.config.width * noise)

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        model = self.trained(vectors, "shift", lambda: Common(vectors.size), device)
        noise = [torch.randn(vectors.size, generator=generator(request.seed, "shift", "draw", k)) for k in numbers]
        with torch.no_grad():
            found = self._networks(self._statistics(vectors, device), model.shift, torch.stack(noise).to(device))
        return Drawn(found, [()] * len(numbers))

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        """Without the networks that classify images, of which a structure does not say what they compute."""
        size = dimensions(structure)
        draw = draw_cost(lambda: Common(size), lambda model: model.shift + torch.zeros(1, size), 1)
        return estimated(self.stages(structure, checkpoints), draw, device, size)

    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        settings, size = self.config.shift, dimensions(structure)

        def loss(model: Common) -> Tensor:
            return self._networks((torch.zeros(size),) * 2, model.shift, torch.zeros(settings.batch_size, size)).sum()

        return [stage_cost("shift", lambda: Common(size), loss, settings)]


def _values(run: Run) -> Path:
    return run.path / "values.safetensors"
