"""RPG behind the door for methods: recurrent diffusion on the tokens of whole networks."""

from __future__ import annotations

from typing import ClassVar

from rpg.devices import Device
from rpg.methods.base import About, DrawConfig, Estimate, Machine, TrainingSet
from rpg.methods.rpg.behaviour import behaviour_task
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.estimate import describe, estimate
from rpg.methods.rpg.generate import draw, requested
from rpg.methods.rpg.learnt import Learnt
from rpg.methods.rpg.train import check, conditions_of, fit
from rpg.run import Run
from rpg.tokens.layout import generated
from zoo.structure import Structure
from zoo.writer import ZooWriter


class RPG:
    """The Method protocol (rpg.methods.base)."""

    about: ClassVar[About] = About(
        what="recurrent diffusion: a recurrent model makes prototypes of tokens, a denoiser tokens of these",
        source="Recurrent Diffusion for Large-Scale Parameter Generation, https://arxiv.org/abs/2501.11587",
        suits="any task and architecture, 1,000 to 200 million values; binary tasks never seen, with conditions",
        trained=True,
    )

    def __init__(self, config: RPGConfig) -> None:
        self.config = config

    def check(self, data: TrainingSet, machine: Machine) -> None:
        check(self.config, machine.device, machine.trackers)
        conditions_of(self.config.generator, data.zoo, data.entries)  # refuses a zoo without them
        behaviour_task(self.config, data, machine)  # refuses what has none, and images that are not there

    def fit(self, data: TrainingSet, run: Run, machine: Machine) -> None:
        fit(self.config, data, run, machine)

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, GenerateConfig)
        return len(requested(Learnt(run), request))

    def draw(self, run: Run, request: DrawConfig, writer: ZooWriter, machine: Machine) -> None:
        assert isinstance(request, GenerateConfig)
        draw(run, request, writer, machine.device)

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        assert isinstance(request, GenerateConfig)
        shapes = [spec.shape for spec in generated(structure)]
        found = estimate(self.config, request, shapes, checkpoints, device)
        training, sampling = found["training"], found["sampling"]
        return Estimate(
            parameters=found["generator"]["parameters"],
            fit_bytes=training["bytes"],
            fit_flops=training["flops_per_step"] * training["steps"],
            draw_bytes=sampling["bytes"],
            draw_flops=sampling["flops_per_network"],
            fit_hours=training["hours"],
            figures=found,
            text=describe(found),
        )
