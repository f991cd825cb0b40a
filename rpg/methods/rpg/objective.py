"""What RPG's settings mean to the diffusion: what the denoiser is trained for, and at which levels it samples."""

from __future__ import annotations

from rpg.config import check_steps
from rpg.diffusion import Objective, Scheduler, make_scheduler
from rpg.methods.rpg.config import GenerateConfig, RPGConfig


def objective(config: RPGConfig) -> Objective:
    """What the denoiser of these settings is trained for."""
    return Objective(config.prediction, config.min_snr, config.prototype_loss)


def sampling_schedule(config: RPGConfig, request: GenerateConfig) -> Scheduler | None:
    """The levels to denoise at; none for the read-out alone. Raises what `check_sampling` does."""
    check_sampling(config, request)
    if request.sampler == "readout":
        return None
    return make_scheduler(config.diffusion, request.sampler, request.steps)


def check_sampling(config: RPGConfig, request: GenerateConfig) -> None:
    """Raise ValueError for more steps than the schedule has, or a read-out of a generator without one."""
    if request.sampler != "readout":
        check_steps(config.diffusion, request.steps)
    elif not config.has_readout:
        raise ValueError(
            "generate.sampler = readout needs supervised prototypes, but this generator has method.prototype_loss = 0; "
            "use ddpm, ddim or dpm++, or train one with --set method.prototype_loss=1"
        )
