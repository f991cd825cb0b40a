"""The diffusion process on tokens: noise schedule, masked loss (Eq. 5) and sampling; the steps are diffusers'.

Legend: K tokens, D token size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rpg.config import DiffusionConfig, Prediction, Sampler, check_steps

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

DDIM_ETA = 0.05  # stochasticity of the published DDIM sampler


class Denoiser(Protocol):
    """What is sampled with. A sampler embeds the time, int64 (1,), once a step for all tokens."""

    training: bool

    @property
    def time_embedding(self) -> Callable[[Tensor], Tensor]: ...

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        """Noisy tokens (K, D), an embedded time, what each token is told (K, D) -> the estimate (K, D)."""
        ...


@dataclass(frozen=True)
class Scheduler:
    """The noise levels that a sampler visits: `steps` goes from one to the next, `timesteps` int64 (levels,) names them
    in the training schedule, ascending.
    """

    steps: DDPMScheduler | DDIMScheduler | DPMSolverMultistepScheduler
    timesteps: Tensor


def make_scheduler(config: DiffusionConfig, sampler: Sampler, steps: int) -> Scheduler:
    """A sampler with `steps` denoising steps from the noisiest level of the training schedule down to none: of DDPM
    and DDIM spread evenly over the levels, of DPM-Solver++ (second order, multistep, with noise) evenly over their log
    SNR. The solver without noise follows the probability-flow ODE, and keeps the errors that the denoiser makes early;
    noise forgets them (docs/log.md).

    diffusers gets a schedule of exactly the visited levels. Left to skip levels itself, its DDIM always goes down by
    num_steps // steps, which misses the next level unless `steps` divides the schedule (and 60 steps end short of
    noise-free), and its "trailing" grid has one level too many for some counts. DPM-Solver++ would interpolate between
    levels that no denoiser was trained on. Values are never clipped: standardised weights have long tails. Raises
    ValueError when `steps` exceeds the schedule.
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler  # which takes seconds

    check_steps(config, steps)
    betas = config.betas()
    signal = (1 - betas).cumprod(0)
    even = config.num_steps - 1 - torch.arange(steps).flip(0) * config.num_steps // steps
    timesteps = _even_in_log_snr(signal, steps) if sampler == "dpm++" else even
    visited = signal[timesteps]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), visited[:-1]])
    schedule: dict[str, Any] = {"num_train_timesteps": steps, "trained_betas": (1 - visited / previous).tolist()}
    if sampler == "dpm++":
        solver = DPMSolverMultistepScheduler(**schedule, algorithm_type="sde-dpmsolver++")
        solver.set_timesteps(timesteps=list(reversed(range(steps))))  # left to choose, it would skip levels
        return Scheduler(solver, timesteps)
    kind = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[sampler]
    scheduler = kind(**schedule, clip_sample=False)
    scheduler.set_timesteps(steps)
    return Scheduler(scheduler, timesteps)


def _even_in_log_snr(signal: Tensor, steps: int) -> Tensor:
    """Different levels, ascending, the noisiest among them, as evenly spaced in log SNR as integers allow (Lu et al.
    2022). For Gaussian data what a sampler makes is known: over widths from 0.01 to 1, the worst error of 20 steps in
    mean and width, relative to the width, is the least of the usual spacings (even in time, with or without the first
    level; in its square root; Karras). Even in time, widths below 0.1 lose more than half.
    """
    log_snr = (signal / (1 - signal)).log().numpy()
    wanted = np.linspace(log_snr[0], log_snr[-1], steps) if steps > 1 else log_snr[-1:]
    nearest = torch.from_numpy(np.interp(-wanted, -log_snr, np.arange(len(log_snr)))).round().long()
    order = torch.arange(steps)
    different = (nearest - order).cummax(0).values + order
    return torch.minimum(different, len(log_snr) - steps + order)


@dataclass(frozen=True)
class Objective:
    """What a denoiser estimates of a noisy token sqrt(a) x + sqrt(1 - a) noise, where a is the share of signal of its
    level and a / (1 - a) its SNR: the noise (`epsilon`, Eq. 5), the clean token x (`sample`), or
    v = sqrt(a) noise - sqrt(1 - a) x (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512).

    `min_snr` weighs the error of every level so that the implied error of the clean token counts min(SNR, min_snr)
    times (Hang et al. 2023, https://arxiv.org/abs/2303.09556); without it, errors of the estimate count alike.

    `readout` is the weight of the error of an estimate of the clean token that knows no noisy token, where a generator
    makes one beside the denoiser's; the denoiser then estimates what is left of its target.
    """

    prediction: Prediction = "epsilon"
    min_snr: float | None = None
    readout: float = 0.0

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
        """What is to be estimated, of shape (K, D); `signal` is a, (K, 1), here and below."""
        if self.prediction == "epsilon":
            return noise
        return clean if self.prediction == "sample" else signal.sqrt() * noise - (1 - signal).sqrt() * clean

    def of_clean(self, signal: Tensor) -> Tensor:
        """The share (K, 1) of a read-out clean token in the estimate: what the target holds of the clean token, but
        for `epsilon`, which holds none.
        """
        if self.prediction == "epsilon":
            return torch.zeros_like(signal)
        return torch.ones_like(signal) if self.prediction == "sample" else -(1 - signal).sqrt()

    def noise(self, estimate: Tensor, noisy: Tensor, signal: Tensor) -> Tensor:
        """The noise (K, D) that an estimate means."""
        if self.prediction == "epsilon":
            return estimate
        if self.prediction == "v":
            return signal.sqrt() * estimate + (1 - signal).sqrt() * noisy
        return (noisy - signal.sqrt() * estimate) / (1 - signal).sqrt()

    def weight(self, signal: Tensor) -> Tensor:
        """How much the squared error of an estimate counts, (K, 1)."""
        if self.min_snr is None:
            return torch.ones_like(signal)
        snr = signal / (1 - signal)
        of_clean = {"epsilon": snr, "sample": torch.ones_like(snr), "v": snr + 1}[self.prediction]
        return snr.clamp(max=self.min_snr) / of_clean


PUBLISHED = Objective()


def draw_noise(schedule: Scheduler, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A level int64 (K,) and noise (K, D) of its own for each of K = `count` tokens of D = `size` values, drawn where
    `generator` is: on the CPU they do not depend on the device. `schedule` has all levels.
    """
    levels = torch.randint(len(schedule.timesteps), (count,), generator=generator)
    return levels, torch.randn(count, size, generator=generator)


def squared_error(
    predict: Callable[..., Tensor | tuple[Tensor, Tensor]],
    schedule: Scheduler,
    tokens: Tensor,
    mask: Tensor,
    levels: Tensor,
    noise: Tensor,
    *condition: Tensor,
    weight: Tensor | None = None,
    objective: Objective = PUBLISHED,
) -> Tensor:
    """Weighted squared error of the estimate, summed over unpadded values, a scalar; of the noise and over their
    number: the loss (Eq. 5). `weight` float32 (K,) is that of each token, 1 by default.

    tokens and noise (K, D), mask bool (K, D), levels int64 (K,). `predict(noisy, timesteps, *condition)` estimates the
    objective's target: a denoiser with the tokens' prototypes, or a whole generator. Where the objective has a read-out
    it gives a pair: what the read-out leaves of the target, and the clean tokens read out, whose error is added; there
    may be more of these than noisy ones, which come first. What padding holds is ignored.
    """
    tokens, count = tokens.masked_fill(~mask, 0), len(noise)
    clean, each = tokens[:count], mask if weight is None else mask * weight[:, None]
    noisy = schedule.steps.add_noise(clean, noise, levels)
    signal = schedule.steps.alphas_cumprod.to(tokens.device)[levels, None]
    found = predict(noisy, schedule.timesteps.to(tokens.device)[levels], *condition)
    estimate, readout = found if isinstance(found, tuple) else (found, None)
    if readout is not None:
        own = readout[:count].detach()  # it learns from its own error alone
        estimate = estimate + objective.of_clean(signal) * own
    error = (estimate - objective.target(clean, noise, signal)).square()
    if objective.min_snr is not None:
        error = error * objective.weight(signal)
    total = (error * each[:count]).sum()
    return total if readout is None else total + objective.readout * ((readout - tokens).square() * each).sum()


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Scheduler,
    prototypes: Tensor,
    mask: Tensor,
    generators: Sequence[torch.Generator],
    chunk_size: int,
    on_step: Callable[[], object] | None = None,
    objective: Objective = PUBLISHED,
    readouts: Tensor | None = None,
    guide: Callable[[Tensor, int], Tensor] | None = None,
) -> Tensor:
    """Denoise K tokens from pure noise under their prototypes (K, D) -> tokens (K, D), float32. `objective` is what the
    denoiser was trained for, `readouts` (K, D) the clean tokens read out of the prototypes, where it has these.

    `guide(clean, level)` is the gradient (K, D), at the clean tokens (K, D) that are estimated, of a loss that what is
    drawn should have less of; level 0 is the last. Of minus the log of a likelihood, tokens are drawn from their
    density times that: exactly where the density is a Gaussian of deviation 1 and the gradient constant, else nearly,
    as by a classifier (Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233): of what is known of a clean token
    at a level the variance is 1 - a, and its mean moves by so many gradients.

    Padding (mask bool (K, D) False) is known to be zero, so there the noise is what is left of it: padding stays as it
    was in training. The loss never saw the estimate there; following it, as the published code does, lets padding
    drift and spoil its neighbours through the convolutions.

    `chunk_size` tokens pass through the denoiser together (paper, section B.3: 1 is sequential, K fully parallel). Each
    token draws all its noise from its own generator and the denoiser is in evaluation mode, so chunks change time and
    memory, not the result (beyond float rounding). Generators on the CPU give the same noise on every device;
    generators on the prototypes' device spare a copy, and so a wait for the device, per step. `on_step` is called after
    each step, for progress.
    """
    from diffusers import DDIMScheduler

    assert not denoiser.training, "batch statistics would mix the tokens of a chunk"
    streams, device = list(generators), prototypes.device
    steps = copy.deepcopy(scheduler.steps)  # a multistep solver remembers its last steps
    chunks = [slice(start, start + chunk_size) for start in range(0, len(prototypes), chunk_size)]
    eta = {"eta": DDIM_ETA} if isinstance(steps, DDIMScheduler) else {}
    tokens = torch.stack([torch.randn(prototypes.shape[1], generator=g, device=g.device) for g in streams]).to(device)
    timesteps, mask = scheduler.timesteps.to(device), mask.to(device)
    signals = steps.alphas_cumprod.to(device)
    for level in reversed(range(len(timesteps))):
        time = denoiser.time_embedding(timesteps[level : level + 1])
        estimate = torch.cat([denoiser.denoise(tokens[chunk], time, prototypes[chunk]) for chunk in chunks])
        if readouts is not None:
            estimate = estimate + objective.of_clean(signals[level]) * readouts
        kept, left = signals[level].sqrt(), (1 - signals[level]).sqrt()
        noise = objective.noise(estimate, tokens, signals[level])
        if guide is not None:
            noise = noise + kept * left * guide((tokens - left * noise) / kept, level)
        noise = torch.where(mask, noise, tokens / left)
        tokens = steps.step(noise, level, tokens, generator=streams, **eta).prev_sample
        if on_step is not None:
            on_step()
    return tokens
