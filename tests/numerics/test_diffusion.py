"""Loss and samplers against closed forms: on Gaussian data the noise predictor is known, sampler steps are affine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from rpg.config import DiffusionConfig, Prediction, Sampler
from rpg.diffusion import DDIM_ETA, Objective, draw_noise, make_scheduler, sample, squared_error
from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.models.denoiser import Denoiser
from rpg.methods.rpg.models.generator import Generator
from zoo.seeds import generator, global_seed

CONFIG = DiffusionConfig()
SIGNAL = (1 - torch.linspace(CONFIG.beta_start, CONFIG.beta_end, CONFIG.num_steps, dtype=torch.float64)).cumprod(0)
SAMPLERS: tuple[Sampler, ...] = ("ddpm", "ddim", "dpm++")
EVEN = SAMPLERS[:2]  # those that go down evenly in time


class Predictor(nn.Module):
    """A denoiser given by a function of (noisy (K, D), share of signal (K, 1) in float32, prototypes (K, D))."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.visited: list[Tensor] = []
        self.eval()

    def time_embedding(self, timesteps: Tensor) -> Tensor:
        self.visited.append(timesteps)
        return SIGNAL[timesteps].float()[:, None]

    def denoise(self, noisy: Tensor, time: Tensor, prototypes: Tensor) -> Tensor:
        return self.function(noisy, time, prototypes)

    def forward(self, noisy: Tensor, timesteps: Tensor, prototypes: Tensor) -> Tensor:
        return self.denoise(noisy, self.time_embedding(timesteps), prototypes)


def gaussian(std: float) -> Predictor:
    """The exact noise predictor for data that are N(prototype, std² I)."""

    def noise(noisy: Tensor, signal: Tensor, mean: Tensor) -> Tensor:
        return (1 - signal).sqrt() * (noisy - signal.sqrt() * mean) / (signal * std**2 + 1 - signal)

    return Predictor(noise)


def whole(*shape: int) -> Tensor:
    """A mask without padding."""
    return torch.ones(shape, dtype=torch.bool)


def streams(count: int) -> list[torch.Generator]:
    return [generator(0, token) for token in range(count)]


def small_denoiser() -> Denoiser:
    with global_seed(0):
        return Denoiser(16, (1, 4, 8, 4, 1), 7).eval()


def small_generator() -> Generator:
    """With norms that are not the identity."""
    config = GeneratorConfig(token_size=16, d_model=16, d_state=4, head_dim=8, channels=(1, 4, 8, 4, 1))
    with global_seed(0):
        model = Generator(config, torch.arange(10).view(5, 2), 3)
        for name, tensor in model.denoiser.state_dict().items():
            if "running" in name or name.endswith(".1.weight"):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


# Loss


def test_loss_is_the_squared_error_over_unpadded_values() -> None:
    rng = generator(1)
    tokens, prototypes = torch.randn(2, 6, 40, generator=rng)
    mask = torch.arange(40) < torch.tensor([40, 40, 13, 1, 27, 40])[:, None]
    offset = torch.tensor([0.0, 0.5, 1.0, 3.0, -2.0, 0.1])[:, None]

    def wrong_by_offset(noisy: Tensor, signal: Tensor, _: Tensor) -> Tensor:
        exact = (noisy - signal.sqrt() * tokens) / (1 - signal).sqrt()
        return torch.where(mask, exact + offset, 1e6)

    schedule = make_scheduler(CONFIG, "ddpm", 1000)
    noise = draw_noise(schedule, *tokens.shape, rng)
    loss = squared_error(Predictor(wrong_by_offset), schedule, tokens, mask, *noise, prototypes)
    expected = (offset.square() * mask).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    means = squared_error(
        Predictor(wrong_by_offset), schedule, tokens, mask, *noise, prototypes, weight=1 / mask.sum(1)
    )
    assert means.item() == pytest.approx(offset.square().sum().item(), rel=1e-3)


def test_padding_is_zero_before_noise_and_levels_are_uniform_and_per_token() -> None:
    count = 20_000
    seen: list[Tensor] = []

    def remember(noisy: Tensor, signal: Tensor, prototypes: Tensor) -> Tensor:
        seen.extend([noisy / (1 - signal).sqrt(), prototypes])
        return torch.zeros_like(noisy)

    predictor = Predictor(remember)
    mask = torch.tensor([True, False]).expand(count, 2)
    tokens = torch.tensor([0.0, torch.nan]).expand(count, 2)
    prototypes = torch.randn(count, 2, generator=generator(3))
    schedule = make_scheduler(CONFIG, "ddpm", 1000)
    loss = squared_error(predictor, schedule, tokens, mask, *draw_noise(schedule, count, 2, generator(2)), prototypes)
    noise, conditions = seen
    assert loss.item() == pytest.approx(noise[:, 0].square().sum().item(), rel=1e-4)
    torch.testing.assert_close(noise.var(0), torch.ones(2), rtol=0.05, atol=0)
    torch.testing.assert_close(conditions, prototypes)
    (levels,) = predictor.visited
    counts = torch.bincount(levels, minlength=1000)
    assert len(counts) == 1000
    # chi-square with 999 degrees of freedom: 1200 is 4.5 standard deviations up
    assert ((counts - count / 1000).square() / (count / 1000)).sum() < 1200


def test_loss_is_a_function_of_its_generator() -> None:
    tokens, prototypes = torch.randn(2, 5, 16, generator=generator(1))
    schedule, mask = make_scheduler(CONFIG, "ddpm", 1000), torch.ones(5, 16, dtype=torch.bool)
    before = torch.random.get_rng_state()
    draws = [draw_noise(schedule, 5, 16, generator(seed)) for seed in (7, 7, 8)]
    losses = [squared_error(small_denoiser(), schedule, tokens, mask, *draw, prototypes) for draw in draws]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(before, torch.random.get_rng_state())


# Schedule


@pytest.mark.parametrize("sampler", EVEN)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 60, 61, 103, 300, 600, 999, 1000])
def test_samplers_start_at_the_noisiest_level_and_descend_evenly(sampler: Sampler, steps: int) -> None:
    predictor = gaussian(1.0)
    sample(predictor, make_scheduler(CONFIG, sampler, steps), torch.zeros(2, 3), whole(2, 3), streams(2), 2)
    visited = torch.cat(predictor.visited)
    assert len(visited) == steps
    assert visited[0] == 999
    gaps = visited - torch.cat([visited[1:], torch.tensor([-1])])
    assert set(gaps.tolist()) <= {1000 // steps, -(-1000 // steps)}


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 60, 300, 999, 1000])
def test_dpm_solver_visits_different_levels_from_the_noisiest_to_the_first(steps: int) -> None:
    predictor = gaussian(1.0)
    sample(predictor, make_scheduler(CONFIG, "dpm++", steps), torch.zeros(2, 3), whole(2, 3), streams(2), 2)
    visited = torch.cat(predictor.visited)
    assert len(visited) == steps
    assert visited[0] == 999
    assert visited[-1] == (0 if steps > 1 else 999)
    assert bool((visited.diff() < 0).all())
    if steps in (5, 20):  # further on, neighbouring levels are farther apart than the wanted spacing
        log_snr = (SIGNAL / (1 - SIGNAL)).log()[visited]
        wanted = torch.linspace(log_snr[0], log_snr[-1], steps, dtype=torch.float64)
        assert (log_snr - wanted).abs().max() < 0.25


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 7, 20, 1000])
def test_diffusers_works_with_the_noise_levels_of_the_training_schedule(sampler: Sampler, steps: int) -> None:
    scheduler = make_scheduler(CONFIG, sampler, steps)
    signal = SIGNAL[scheduler.timesteps]
    torch.testing.assert_close(scheduler.steps.alphas_cumprod.double(), signal, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(1 - scheduler.steps.alphas_cumprod.double(), 1 - signal, rtol=1e-3, atol=0)
    if sampler == "dpm++":  # from the noisiest level on, then noise-free
        sigmas = torch.cat([((1 - signal) / signal).sqrt().flip(0), torch.zeros(1)])
        torch.testing.assert_close(scheduler.steps.sigmas.double(), sigmas, rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} sampling steps, but the schedule has 1000"):
        make_scheduler(CONFIG, "ddim", steps)


# Samplers


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 7, 60, 61, 300, 1000])
def test_a_single_point_is_sampled_exactly(sampler: Sampler, steps: int) -> None:
    points = 3 * torch.randn(4, 50, generator=generator(5))
    found = sample(gaussian(0.0), make_scheduler(CONFIG, sampler, steps), points, whole(*points.shape), streams(4), 4)
    torch.testing.assert_close(found, points, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 1000), ("ddim", 1000), ("dpm++", 40)])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_guided_gaussian_is_its_density_times_a_likelihood(
    sampler: Sampler, steps: int, prediction: Prediction
) -> None:
    """N(m, 1) times exp(-g x) is N(m - g, 1). Padding stays zero, and every level is guided at what is estimated."""
    noise = gaussian(1.0).function

    def clean_of(noisy: Tensor, signal: Tensor, mean: Tensor) -> Tensor:
        return (noisy - (1 - signal).sqrt() * noise(noisy, signal, mean)) / signal.sqrt()

    shape, mean, gradient = (50, 1000), 1.5, 0.8
    seen: list[float] = []

    def guide(clean: Tensor, level: int) -> Tensor:
        seen.append(clean[:, :900].mean().item())
        return torch.full(shape, gradient)

    mask = whole(*shape)
    mask[:, 900:] = False
    found = sample(
        Predictor(noise if prediction == "epsilon" else clean_of),
        make_scheduler(CONFIG, sampler, steps),
        torch.full(shape, mean),
        mask,
        streams(50),
        50,
        objective=Objective(prediction),
        guide=guide,
    )
    assert len(seen) == steps
    assert seen[0] == pytest.approx(mean, abs=0.05)  # where nothing is known the estimate is the mean
    assert found[:, :900].mean().item() == pytest.approx(mean - gradient, abs=5 / 45_000**0.5 + 0.01)
    assert found[:, :900].std().item() == pytest.approx(1.0, rel=0.03)
    torch.testing.assert_close(found[:, 900:], torch.zeros(50, 100), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 1000), ("ddim", 1000), ("ddim", 100), ("dpm++", 40)])
def test_a_gaussian_is_sampled_with_its_mean_and_variance(sampler: Sampler, steps: int) -> None:
    mean, std, shape = 1.5, 0.7, (50, 2000)
    found = sample(
        gaussian(std), make_scheduler(CONFIG, sampler, steps), torch.full(shape, mean), whole(*shape), streams(50), 50
    )
    assert found.mean().item() == pytest.approx(mean, abs=5 * std / 50_000**0.5)
    assert found.std().item() == pytest.approx(std, rel=0.03)  # discretisation; the closed form below has none


@pytest.mark.parametrize("sampler", EVEN)
@pytest.mark.parametrize("steps", [3, 60, 61, 300])
def test_moments_follow_the_affine_recursion_of_the_sampler(sampler: Sampler, steps: int) -> None:
    """Each step is x -> k x + c + sigma z for a Gaussian, so mean and variance after all steps are known exactly."""
    mean, std = 1.5, 0.3
    expected_mean, expected_variance = 0.0, 1.0
    levels = [999 - index * 1000 // steps for index in range(steps)]
    signals = [SIGNAL[level].item() for level in levels]
    for now, after in itertools.pairwise([*signals, 1.0]):
        posterior = (1 - after) / (1 - now) * (1 - now / after)
        sigma = {"ddpm": 1.0, "ddim": DDIM_ETA}[sampler] * posterior**0.5
        slope = (1 - now) ** 0.5 / (now * std**2 + 1 - now)  # noise = slope * (x - sqrt(now) * mean)
        direction = max(1 - after - sigma**2, 0.0) ** 0.5 - (after * (1 - now) / now) ** 0.5
        factor = (after / now) ** 0.5 + direction * slope
        expected_mean = factor * expected_mean - direction * slope * now**0.5 * mean
        expected_variance = factor**2 * expected_variance + sigma**2
    scheduler = make_scheduler(CONFIG, sampler, steps)
    found = sample(gaussian(std), scheduler, torch.full((50, 2000), mean), whole(50, 2000), streams(50), 50)
    spread = expected_variance**0.5
    assert found.mean().item() == pytest.approx(expected_mean, abs=5 * spread / 100_000**0.5 + 1e-4)
    assert found.var().item() == pytest.approx(expected_variance, rel=0.025)


@pytest.mark.parametrize("sampler", EVEN)
def test_equals_plain_diffusers_where_the_steps_divide_the_schedule(sampler: Sampler) -> None:
    from diffusers import DDIMScheduler, DDPMScheduler

    kind = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[sampler]
    plain = kind(1000, 1e-4, 0.02, "linear", clip_sample=False, timestep_spacing="trailing")
    plain.set_timesteps(50)
    predictor, means, noise = gaussian(0.5), torch.randn(3, 40, generator=generator(4)), streams(3)
    tokens = torch.stack([torch.randn(40, generator=stream) for stream in noise])
    eta = {"eta": DDIM_ETA} if sampler == "ddim" else {}
    for timestep in plain.timesteps:
        tokens = plain.step(predictor(tokens, timestep[None], means), timestep, tokens, generator=noise, **eta)[0]
    found = sample(predictor, make_scheduler(CONFIG, sampler, 50), means, whole(*means.shape), streams(3), 3)
    torch.testing.assert_close(found, tokens, rtol=1e-4, atol=1e-4)


def solver_moments(mean: float, std: float, levels: Sequence[int]) -> tuple[float, float]:
    """Mean and variance that SDE-DPM-Solver++(2M) gives (Lu et al. 2022) on data N(mean, std²), where it is
    affine in the sample and the last estimate of the data, so that their joint moments are known exactly.
    """
    signals = [SIGNAL[level].item() for level in levels]
    half_log_snr = [math.log(signal / (1 - signal)) / 2 for signal in signals]
    found, covariance = torch.zeros(2, dtype=torch.float64), torch.diag(torch.tensor([1.0, 0.0])).double()
    for step, signal in enumerate(signals):
        slope = signal**0.5 * std**2 / (signal * std**2 + 1 - signal)
        estimate, offset = torch.tensor([slope, 0.0]).double(), mean * (1 - slope * signal**0.5)  # of the data, E[x0|x]
        ratio = 0.0  # of this step to the one before, in log SNR; the first and the last step are of first order
        if step < len(signals) - 1:
            after, gap = signals[step + 1] ** 0.5, half_log_snr[step + 1] - half_log_snr[step]
            kept, gone = ((1 - signals[step + 1]) / (1 - signal)) ** 0.5 * math.exp(-gap), 1 - math.exp(-2 * gap)
            spread = ((1 - signals[step + 1]) * gone) ** 0.5
            if step > 0:
                ratio = gap / (half_log_snr[step] - half_log_snr[step - 1])
        else:
            after, kept, gone, spread = 1.0, 0.0, 1.0, 0.0
        extrapolated = (1 + ratio / 2) * estimate - torch.tensor([0.0, ratio / 2])
        move = torch.stack([torch.tensor([kept, 0.0]) + after * gone * extrapolated, estimate])
        found = move @ found + torch.tensor([after * gone * (1 + ratio / 2) * offset, offset])
        covariance = move @ covariance @ move.T
        covariance[0, 0] += spread**2
    return found[0].item(), covariance[0, 0].item()


@pytest.mark.parametrize("std", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("steps", [2, 5, 20, 60])
def test_moments_follow_the_recursion_of_the_solver(steps: int, std: float) -> None:
    scheduler = make_scheduler(CONFIG, "dpm++", steps)
    mean, variance = solver_moments(1.5, std, scheduler.timesteps.flip(0).tolist())
    found = sample(gaussian(std), scheduler, torch.full((50, 2000), 1.5), whole(50, 2000), streams(50), 50)
    assert found.mean().item() == pytest.approx(mean, abs=5 * variance**0.5 / 100_000**0.5 + 5e-4)
    assert found.var().item() == pytest.approx(variance, rel=0.025)


def distance(std: float, steps: int, levels_of: Sampler) -> float:
    """Of what the solver makes of data N(1.5, std²), on the levels of a sampler, relative to their width
    (2-Wasserstein, of Gaussians).
    """
    mean, variance = solver_moments(1.5, std, make_scheduler(CONFIG, levels_of, steps).timesteps.flip(0).tolist())
    return math.hypot(mean - 1.5, variance**0.5 - std) / std


def test_the_solver_converges_with_second_order_on_its_own_levels() -> None:
    """Wide data only: the jump from the first level to none, whatever the steps, is off by its SNR over the width²."""
    for std in (1.0, 0.3):
        for coarse, fine in itertools.pairwise(distance(std, steps, "dpm++") for steps in (20, 40, 80)):
            assert 3.2 < coarse / fine < 5.5
    assert all(distance(std, 20, "dpm++") < 0.04 for std in (1.0, 0.3, 0.1))
    assert distance(0.1, 20, "ddim") > 0.5


def test_a_solver_forgets_between_calls() -> None:
    scheduler = make_scheduler(CONFIG, "dpm++", 10)
    means = torch.randn(3, 40, generator=generator(4))
    first, second = (sample(gaussian(0.5), scheduler, means, whole(3, 40), streams(3), 3) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_computed_once_equals_the_published_loop(sampler: Sampler) -> None:
    """There, every step embeds the time of every token and makes the prototypes anew; norms are not folded."""
    model = small_generator()
    plain = small_generator()
    calls: list[Tensor] = []
    plain.denoiser.time_embedding.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0]))
    denoise = plain.denoiser.denoise

    def published(noisy: Tensor, _: Tensor, prototypes: Tensor) -> Tensor:
        times = plain.denoiser.time_embedding(calls[-1].expand(len(noisy)))
        return denoise(noisy, times, plain.prototypes(torch.tensor([2]))[0])

    plain.denoiser.denoise = published  # type: ignore[method-assign]
    model.denoiser.fuse_conv_bn()
    prototypes = model.prototypes(torch.tensor([2]))[0]
    scheduler = make_scheduler(CONFIG, sampler, 25)
    mine, theirs = (
        sample(denoiser, scheduler, given, whole(5, 16), streams(5), 5)
        for denoiser, given in ((model.denoiser, prototypes), (plain.denoiser, torch.full_like(prototypes, torch.nan)))
    )
    assert [len(times) for times in calls] == [1, 5] * 25
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chunks_and_company_do_not_change_a_token(sampler: Sampler) -> None:
    prototypes = torch.randn(20, 16, generator=generator(6))
    scheduler = make_scheduler(CONFIG, sampler, 25)

    def tokens(chosen: list[int], chunk_size: int) -> Tensor:
        noise = [generator(0, token) for token in chosen]
        return sample(
            small_denoiser(), scheduler, prototypes[chosen], whole(*prototypes[chosen].shape), noise, chunk_size
        )

    together = tokens(list(range(20)), 20)
    for chunk_size in (1, 7, 1000):
        torch.testing.assert_close(tokens(list(range(20)), chunk_size), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens([13, 4], 2), together[[13, 4]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_padding_ends_at_zero_and_on_the_way_looks_as_in_training(sampler: Sampler) -> None:
    """Whatever the denoiser says about padding, its noise level is that of noised zeros at every step."""
    mask = torch.arange(400) < 100
    seen: list[Tensor] = []

    def wild(noisy: Tensor, signal: Tensor, mean: Tensor) -> Tensor:
        seen.append(noisy[:, ~mask].std() / (1 - signal).sqrt())
        return torch.where(mask, noisy, 5.0)

    found = sample(
        Predictor(wild), make_scheduler(CONFIG, sampler, 50), torch.zeros(20, 400), mask.expand(20, -1), streams(20), 7
    )
    assert found[:, ~mask].abs().max() < 1e-5
    assert torch.stack(seen).sub(1).abs().max() < 0.1
