"""Diffusion of codes: their scale, the loss, and that a Gaussian comes out where its exact denoiser is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler
from rpg.methods.latents import DiffusionDraw, Scale, code_facts, noise_error, sample_latents
from zoo.errors import Corrupt
from zoo.seeds import generator

ROOT_LINEAR = DiffusionConfig(num_steps=1024, beta_start=0.0015, beta_end=0.0155, schedule="root-linear")
MEAN, FACTOR = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.5, 0.3], [-0.2, 0.8]])


def test_codes_are_scaled_by_the_mean_of_each_value_and_one_deviation(tmp_path) -> None:
    codes = np.random.default_rng(0).normal(5, [[1, 2, 0.01]], (40, 3)).astype(np.float32)
    scale = Scale.of(torch.from_numpy(row) for row in codes)
    centred = codes - codes.mean(0, dtype=np.float64)
    np.testing.assert_allclose(scale.mean, codes.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale.deviation, np.sqrt((centred**2).mean()), rtol=1e-6)
    latents = scale.standardise(torch.from_numpy(codes))
    assert latents.square().mean().item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(scale.restore(latents), torch.from_numpy(codes))
    scale.save(tmp_path / "scale.safetensors")
    assert torch.equal(Scale.load(tmp_path / "scale.safetensors", 3).mean, scale.mean)
    with pytest.raises(Corrupt, match="not the scale of codes of 4 values"):
        Scale.load(tmp_path / "scale.safetensors", 4)
    facts = code_facts(codes, True)
    assert facts["latent_deviation"] == pytest.approx(scale.deviation.item())
    assert facts["largest_latent"] == pytest.approx(np.abs(codes).max())


def test_codes_that_are_all_equal_keep_their_size() -> None:
    scale = Scale.of(torch.full((5, 2), 3.0))
    assert scale.deviation == 1
    assert torch.equal(scale.standardise(torch.full((1, 2), 3.0)), torch.zeros(1, 2))


def test_the_loss_of_an_estimate_of_zero_is_the_square_of_the_noise() -> None:
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    latents, mask = torch.randn(4, 6), torch.tensor([True, True, True, False, True, False])
    rng = generator(3, "loss")
    torch.randint(1000, (4,), generator=rng)
    noise = torch.randn(4, 6, generator=rng)

    def nothing(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(noisy)

    whole = noise_error(nothing, schedule, latents, generator(3, "loss"))
    kept = noise_error(nothing, schedule, latents, generator(3, "loss"), mask=mask)
    assert whole.item() == pytest.approx(noise.square().mean().item(), rel=1e-6)
    assert kept.item() == pytest.approx(noise[:, mask].square().mean().item(), rel=1e-6)


def test_roots_of_betas_on_a_line_are_those_of_latent_diffusion() -> None:
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(1024, 0.0015, 0.0155, "scaled_linear").betas
    np.testing.assert_allclose(ROOT_LINEAR.betas(), reference, rtol=1e-5)


class Exact(torch.nn.Module):
    """The best estimate of the noise in noised draws of N(MEAN, FACTOR FACTOR^T): a linear map."""

    def __init__(self, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.signal = (1 - diffusion.betas()).cumprod(0)
        self.eval()

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        return self.signal[timesteps]

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        signal = time.item()
        covariance = signal * FACTOR @ FACTOR.T + (1 - signal) * torch.eye(3)
        return (1 - signal) ** 0.5 * (noisy - signal**0.5 * MEAN) @ torch.linalg.inv(covariance)


@pytest.mark.parametrize(("diffusion", "steps"), [(DiffusionConfig(), 128), (ROOT_LINEAR, 128)])
def test_a_gaussian_comes_out_of_its_exact_denoiser(diffusion, steps) -> None:
    """Of rank 2 in 3 values, so one direction has no width. Means and covariances of 600 draws err by 3 / sqrt(600)
    of a width at most, beside what the steps are too few for.
    """
    streams = [generator(0, "exact", k) for k in range(600)]
    untold = torch.zeros(600, 3)
    request = DiffusionDraw(sampler="ddpm", steps=steps)
    found = sample_latents(Exact(diffusion), diffusion, request, untold, streams)
    covariance = FACTOR @ FACTOR.T
    width = covariance.diagonal().sqrt()
    assert ((found.mean(0) - MEAN).abs() / width).max() < 0.13
    assert ((found.T.cov() - covariance).abs() / torch.outer(width, width)).max() < 0.2


def test_the_noise_that_an_encoder_adds_counts_to_the_deviation() -> None:
    """Networks that hardly differ have codes that hardly do, and a VAE's noise is all that its denoiser sees."""
    rng = torch.Generator().manual_seed(0)
    codes = [1e-6 * torch.randn(20, generator=rng) + 3 for _ in range(50)]
    scale = Scale.of(codes, noise=0.25)
    drawn = torch.stack(codes) + 0.5 * torch.randn(50, 20, generator=rng)
    assert scale.deviation.item() == pytest.approx(0.5)
    assert scale.standardise(drawn).std().item() == pytest.approx(1, rel=0.05)
    assert Scale.of(codes).deviation.item() < 1e-5
