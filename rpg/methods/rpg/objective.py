"""What RPG's settings mean to the diffusion: what the denoiser is trained for, and at which levels it samples."""

from __future__ import annotations

from rpg.diffusion import Objective, Scheduler, make_scheduler
from rpg.methods.rpg.config import GenerateConfig, RPGConfig


def objective(config: RPGConfig) -> Objective:
    """What the denoiser of these settings is trained for."""
    return Objective(config.prediction, config.min_snr, config.prototype_loss)


def sampling_schedule(config: RPGConfig, request: GenerateConfig) -> Scheduler | None:
    """The levels to denoise at; none for the read-out alone. Raises what `RPGConfig.check_draw` does."""
    config.check_draw(request)
    if request.sampler == "readout":
        return None
    return make_scheduler(config.diffusion, request.sampler, request.steps)
