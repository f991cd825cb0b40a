"""COND P-DIFF: p-diff whose denoiser is told a binary task (Jin et al. 2024).

Files in the run are those of p-diff (rpg.methods.p_diff.method).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from rpg.conditions.bits import classes_of, conditions_of, require_conditions, stacked
from rpg.methods.base import About, DrawConfig, Machine, TrainingSet
from rpg.methods.latents import DiffusionDraw, TaskDraw
from rpg.methods.p_diff.method import PDiff, PDiffConfig
from rpg.methods.p_diff.modules import Denoiser
from rpg.methods.vectors import Vectors
from rpg.run import Run
from zoo.conditions import BITS
from zoo.seeds import global_seed

OTHERWISE = "take p-diff, which is told nothing"


class Config(PDiffConfig):
    """Section `method:`, which is that of p-diff."""

    draw_config: ClassVar[type[DrawConfig]] = TaskDraw

    name: Literal["cond-p-diff"]

    def build(self) -> CondPDiff:
        return CondPDiff(self)


class TaskDenoiser(Denoiser):
    """p-diff's denoiser, told the bits of a task: by one linear map they become as many values as a code has, which
    every convolution sees (adds) as it sees the time.
    """

    def __init__(self, code: int, channels: Sequence[int], kernel_size: int, classes: int) -> None:
        super().__init__(code, channels, kernel_size)
        self.condition = nn.Linear(classes, code)

    def forward(self, noisy: Tensor, timesteps: Tensor, bits: Tensor) -> Tensor:  # type: ignore[override]  # it is told
        """noisy (N, L), timesteps int64 (N,), bits (N, classes) -> estimate of the noise (N, L)."""
        return self.denoise(noisy, self.time_embedding(timesteps), self.condition(bits))

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """`prototypes` (N, L) are what the bits became."""
        return super().denoise(noisy, time + prototypes, prototypes)


class CondPDiff(PDiff):
    """Networks of binary tasks are encoded without a word of their tasks, and the denoiser of the codes is told them,
    so that it can be asked for one that it never saw. Published is a vector for each class that was seen.
    """

    about: ClassVar[About] = About(
        what="p-diff told a binary task: its bits through a linear map, added wherever the time is",
        source="Conditional LoRA Parameter Generation (COND P-DIFF), Jin et al. 2024, https://arxiv.org/abs/2408.01415",
        suits="zoos of binary tasks, networks up to some 100,000 values; tasks never seen",
        trained=True,
    )
    typical: ClassVar[int] = BITS

    def refuse(self, data: TrainingSet) -> None:
        super().refuse(data)
        self._conditions(data)

    def _conditions(self, data: TrainingSet) -> tuple[str, ...]:
        return conditions_of(data.zoo, data.entries, "cond-p-diff", OTHERWISE)

    def told(self, data: TrainingSet) -> Tensor:
        return stacked(self._conditions(data))

    def denoiser(self, code: int, told: int) -> TaskDenoiser:
        settings = self.config.denoiser
        with global_seed(settings.seed, "denoiser"):
            return TaskDenoiser(code, settings.channels, settings.kernel_size, told)

    def stream(self, request: DiffusionDraw) -> tuple[str, ...]:
        assert isinstance(request, TaskDraw)
        return ("cond-p-diff", *request.conditions)

    def drawing(
        self, vectors: Vectors, request: DiffusionDraw, code: int, device: torch.device
    ) -> tuple[Denoiser, Tensor]:
        assert isinstance(request, TaskDraw)
        bits = stacked(request.conditions)
        denoiser = self.trained(vectors, "denoiser", lambda: self.denoiser(code, bits.shape[1]), device)
        with torch.no_grad():
            return denoiser, denoiser.condition(bits.to(device))

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        assert isinstance(request, TaskDraw)
        record = run.record()
        require_conditions(record.origin.name, request.conditions, classes_of(record))
        return super().requested(run, request, machine)
