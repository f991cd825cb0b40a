"""What a denoiser can be trained for, against closed forms: of Gaussian tokens the best estimates are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rpg.config import DiffusionConfig, Prediction, Sampler
from rpg.diffusion import PUBLISHED, Objective, draw_noise, make_scheduler, sample, squared_error
from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.models.generator import Generator
from zoo.seeds import generator, global_seed

CONFIG = DiffusionConfig()
SCHEDULE = make_scheduler(CONFIG, "ddpm", CONFIG.num_steps)
SIGNAL = SCHEDULE.steps.alphas_cumprod[:, None]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "sample", "v")
OBJECTIVES = [Objective(p, min_snr, readout) for p in PREDICTIONS for min_snr in (None, 5.0) for readout in (0.0, 0.5)]


def best_clean(noisy: Tensor, signal: Tensor, mean: Tensor, std: float) -> Tensor:
    """E[x | noisy] for tokens x ~ N(mean, std² I)."""
    gain = signal.sqrt() * std**2 / (signal * std**2 + 1 - signal)
    return mean + gain * (noisy - signal.sqrt() * mean)


def best_estimate(objective: Objective, noisy: Tensor, signal: Tensor, mean: Tensor, std: float) -> Tensor:
    """The best estimate of the target, but for what the read-out gives of it."""
    clean = best_clean(noisy, signal, mean, std)
    noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
    target = objective.target(clean, noise, signal)  # linear in both
    return target - objective.of_clean(signal) * mean if objective.readout else target


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_best_denoiser_has_the_loss_that_is_known(objective: Objective) -> None:
    """Var[x | noisy] = std² (1 - a) / (a std² + 1 - a); of the noise it is a / (1 - a) times, of v 1 / (1 - a) times
    that. The read-out of the mean errs by std².
    """
    std, count, size = 0.5, 4000, 16
    rng = generator(1)
    mean = 2 * torch.randn(count, size, generator=rng)
    tokens, mask = mean + std * torch.randn(count, size, generator=rng), torch.ones(count, size, dtype=torch.bool)

    def predict(noisy: Tensor, timesteps: Tensor, means: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        estimate = best_estimate(objective, noisy, SIGNAL[timesteps], means, std)
        return (estimate, means) if objective.readout else estimate

    levels, noise = draw_noise(SCHEDULE, count, size, rng)
    found = squared_error(predict, SCHEDULE, tokens, mask, levels, noise, mean, objective=objective) / mask.sum()
    a = SIGNAL[levels].double()
    variance = std**2 * (1 - a) / (a * std**2 + 1 - a)
    scale = {"epsilon": a / (1 - a), "sample": 1, "v": 1 / (1 - a)}[objective.prediction]
    counts = 1 if objective.min_snr is None else (a / (1 - a)).clamp(max=objective.min_snr) / scale
    expected = (counts * scale * variance).mean() + objective.readout * std**2
    assert found.item() == pytest.approx(expected.item(), rel=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_wrong_estimate_costs_its_squared_error(objective: Objective) -> None:
    """One token, known exactly: estimate and read-out are off by a constant each. Padding counts nothing."""
    off, off_readout = 0.3, 0.7
    mask = torch.arange(10)[None] < 6
    token = torch.randn(1, 10, generator=generator(2)) * mask
    noise, level = torch.randn(1, 10, generator=generator(3)), torch.tensor([400])
    a = SIGNAL[400].item()

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        exact = objective.target(token, noise, SIGNAL[timesteps])
        if not objective.readout:
            return torch.where(mask, exact + off, 1e6)
        readout = torch.where(mask, token + off_readout, 1e6)
        left = exact + off - objective.of_clean(SIGNAL[timesteps]) * readout
        return torch.where(mask, left, 1e6), readout

    padded = torch.where(mask, token, torch.nan)
    found = squared_error(predict, SCHEDULE, padded, mask, level, noise, objective=objective)
    snr = a / (1 - a)
    of_clean = {"epsilon": snr, "sample": 1.0, "v": snr + 1}[objective.prediction]
    weight = 1.0 if objective.min_snr is None else min(snr, objective.min_snr) / of_clean
    expected = 6 * (weight * off**2 + objective.readout * off_readout**2)
    assert found.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_are_those_of_diffusers(prediction: Prediction) -> None:
    from diffusers.training_utils import compute_snr

    levels = torch.arange(0, 1000, 37)
    snr = compute_snr(SCHEDULE.steps, levels)
    capped = snr.clamp(max=5.0)
    expected = {"epsilon": capped / snr, "sample": capped, "v": capped / (snr + 1)}[prediction]
    found = Objective(prediction, min_snr=5.0).weight(SIGNAL[levels])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_targets_are_those_of_diffusers_and_mean_the_noise(prediction: Prediction) -> None:
    clean, noise = torch.randn(2, 7, 12, generator=generator(4)).unbind()
    levels = torch.tensor([0, 1, 50, 300, 700, 998, 999])
    objective, signal = Objective(prediction), SIGNAL[levels]
    target = objective.target(clean, noise, signal)
    if prediction == "v":
        torch.testing.assert_close(target, SCHEDULE.steps.get_velocity(clean, noise, levels))
    noisy = SCHEDULE.steps.add_noise(clean, noise, levels)
    torch.testing.assert_close(objective.noise(target, noisy, signal), noise, rtol=1e-3, atol=2e-3)


class Best(torch.nn.Module):
    """The best denoiser of tokens N(prototype, std² I) for an objective; its time embedding is the share of signal."""

    def __init__(self, objective: Objective, std: float) -> None:
        super().__init__()
        self.objective, self.std = objective, std
        self.eval()

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        return SIGNAL[timesteps]

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        return best_estimate(self.objective, noisy, time, prototypes, self.std)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o.min_snr is None], ids=str)
def test_samplers_make_the_same_of_every_estimate(sampler: Sampler, objective: Objective) -> None:
    """The best denoisers know the same, so the samples differ by rounding alone; padding stays zero."""
    means, mask = torch.randn(3, 40, generator=generator(5)), torch.arange(40) < torch.tensor([[40], [1], [25]])
    scheduler = make_scheduler(CONFIG, sampler, 20)

    def sampled(kind: Objective) -> Tensor:
        streams = [generator(0, token) for token in range(3)]
        readouts = means if kind.readout else None
        return sample(Best(kind, 0.4), scheduler, means, mask, streams, 2, None, kind, readouts)  # type: ignore[arg-type]

    torch.testing.assert_close(sampled(objective), sampled(PUBLISHED), rtol=1e-3, atol=2e-3)


def test_a_read_out_changes_no_other_initial_weight_and_is_given_with_the_estimate() -> None:
    config = GeneratorConfig(token_size=16, d_model=32, d_state=8, head_dim=32, channels=(1, 4, 1))
    models = []
    for readout in (False, True):
        with global_seed(0):
            models.append(Generator(config, torch.zeros(7, 2, dtype=torch.int64), 5, readout))
    plain, supervised = (model.state_dict() for model in models)
    assert set(supervised) - set(plain) == {"readout.weight", "readout.bias"}
    assert all(torch.equal(plain[name], supervised[name]) for name in plain)
    noisy = torch.randn(4, 16, generator=generator(6))
    index = (torch.tensor([1, 3]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 6, 2, 6]))
    levels = torch.tensor([0, 5, 9, 999])
    estimate, readout = models[1](noisy, levels, *index)
    torch.testing.assert_close(estimate, models[0](noisy, levels, *index))
    readout.sum().backward(retain_graph=True)
    by_readout = {name for name, p in models[1].named_parameters() if p.grad is not None}
    models[1].zero_grad(set_to_none=True)
    estimate.sum().backward()
    by_denoiser = {name for name, p in models[1].named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in by_readout} == {"recurrent", "readout"}
    assert {name.split(".")[0] for name in by_denoiser} == {"denoiser"}
    prototypes = models[0].prototypes(*index)
    torch.testing.assert_close(readout, torch.nn.functional.linear(prototypes, *models[1].readout.parameters()))
