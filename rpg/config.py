"""Section `eval:` of a recipe, and settings that methods share."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from zoo.seeds import Seed
from zoo.structure import Frozen

Sampler: TypeAlias = Literal["ddpm", "ddim", "dpm++"]
SamplerOrReadout: TypeAlias = Literal[Sampler, "readout"]  # of supervised prototypes: no diffusion at all
Prediction: TypeAlias = Literal["epsilon", "sample", "v"]


class DiffusionConfig(Frozen):
    """The forward process (paper, Table 12): `num_steps` noise levels, betas linear from `beta_start` to `beta_end`, or
    their square roots (`root-linear`, of latent diffusion, Rombach et al. 2022).
    """

    num_steps: Annotated[int, Field(gt=0, le=2**20)] = 1000
    beta_start: PositiveFloat = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    schedule: Literal["linear", "root-linear"] = "linear"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start = {self.beta_start} must not exceed beta_end = {self.beta_end}")
        return self

    @model_validator(mode="after")
    def _in_float32(self) -> Self:
        """Samplers compute in it, with what is left of the signal and of the noise at both ends."""
        with torch.device("cpu"):  # whatever else is made on
            betas = self.betas()
        if float((1 - betas).log().sum().exp()) < torch.finfo(torch.float32).tiny:
            raise ValueError(
                f"after num_steps = {self.num_steps} with betas up to {self.beta_end} nothing is left of the signal, "
                "which samplers cannot take; lower num_steps or beta_end"
            )
        if float((1 - betas[0]).float()) == 1:
            raise ValueError(f"beta_start = {self.beta_start} is no noise in float32; expected 1e-7 or more")
        return self

    def betas(self) -> Tensor:
        """float64 (num_steps,), ascending."""
        power = 1.0 if self.schedule == "linear" else 0.5
        ends = self.beta_start**power, self.beta_end**power
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64) ** (1 / power)


def check_steps(config: DiffusionConfig, steps: int) -> None:
    """Raise ValueError when a sampler's steps are none, or more than the schedule has levels."""
    if not 1 <= steps <= config.num_steps:
        raise ValueError(
            f"{steps} sampling steps, but the schedule has {config.num_steps}; "
            f"use --set generate.steps={config.num_steps}, or fewer"
        )


class EvalConfig(Frozen):
    """Section `eval:` — the groups that a report sets beside the generated networks (CONTRIBUTING, Honesty). With
    `recalibrate`, every network of every group is scored with BatchNorm's statistics of the same training images
    (zoo.tasks.recalibrated).
    """

    noise: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.01, 0.05, 0.1)
    average_of: PositiveInt = 16
    n: PositiveInt = 10
    seed: Seed = 0
    recalibrate: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({f"{sigma:g}" for sigma in self.noise}) < len(self.noise):
            raise ValueError(f"noise = {list(self.noise)} must hold different levels")
        return self
