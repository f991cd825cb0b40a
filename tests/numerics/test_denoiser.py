"""The denoiser against a re-computation, stage by stage, from its state dict."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.rpg.models.denoiser import Denoiser
from zoo.seeds import global_seed

CHANNELS = (1, 3, 4, 6, 4, 3, 1)


def make_denoiser(token_size: int, channels: tuple[int, ...] = CHANNELS) -> Denoiser:
    """A denoiser in evaluation mode whose BatchNorms are not the identity."""
    with global_seed(0):
        denoiser = Denoiser(token_size, channels, 7)
        for name, tensor in denoiser.state_dict().items():
            if "running" in name or name.endswith(".1.weight"):
                tensor.uniform_(0.5, 1.5)
    return denoiser.eval()


def inputs(count: int, token_size: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    noisy, prototypes = torch.randn(2, count, token_size, generator=rng)
    return noisy, torch.randint(1000, (count,), generator=rng), prototypes


def time_embedding(weights: dict[str, Tensor], timesteps: Tensor) -> Tensor:
    rows = []
    for t in timesteps.tolist():
        angles = [t * 10_000 ** (-k / 128) for k in range(128)]
        rows.append([math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles])
    hidden = F.silu(torch.tensor(rows) @ weights["mlp.0.weight"].T + weights["mlp.0.bias"])
    return hidden @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cross-correlation with zeros beyond both ends of the token, tap by tap."""
    reach = weight.shape[-1] // 2
    padded = F.pad(x, (reach, reach))
    taps = [
        torch.einsum("oi,kid->kod", weight[..., tap], padded[..., tap : tap + x.shape[-1]])
        for tap in range(weight.shape[-1])
    ]
    return sum(taps) + bias[:, None]


def stage(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    x = convolve(x, weights["0.weight"], weights["0.bias"])
    if "1.weight" not in weights:
        return x
    centred = (x - weights["1.running_mean"][:, None]) / (weights["1.running_var"][:, None] + 1e-5).sqrt()
    return F.elu(centred * weights["1.weight"][:, None] + weights["1.bias"][:, None])


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize("token_size", [5, 16])  # 5: shorter than the kernel
def test_every_stage_is_conditioned_and_the_skips_join_equal_widths(token_size: int) -> None:
    denoiser = make_denoiser(token_size)
    noisy, timesteps, prototypes = inputs(4, token_size)
    weights = denoiser.state_dict()
    time = time_embedding(below(weights, "time_embedding."), timesteps)[:, None]
    condition = prototypes[:, None]
    a, b, c, d, e, f = (below(weights, f"stages.{index}.") for index in range(6))
    wide_3 = stage(a, (noisy[:, None] + condition) * time)
    wide_4 = stage(b, (wide_3 + condition) * time)
    middle = stage(c, (wide_4 + condition) * time)
    back_4 = stage(d, (middle + condition) * time)
    back_3 = stage(e, (back_4 + wide_4 + condition) * time)
    expected = stage(f, (back_3 + wide_3 + condition) * time)[:, 0]
    torch.testing.assert_close(denoiser(noisy, timesteps, prototypes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [(1, 4, 1), (1, 4, 6, 4, 1), (1, 4, 4, 1), (1, 3, 4, 4, 3, 1)])
def test_every_palindrome_of_channels_keeps_the_shape_and_reaches_every_parameter(channels: tuple[int, ...]) -> None:
    denoiser = make_denoiser(12, channels).train()
    estimate = denoiser(*inputs(5, 12))
    assert estimate.shape == (5, 12)
    estimate.square().sum().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())


def test_the_convolutions_have_the_published_size() -> None:
    stages = Denoiser(64, (1, 32, 64, 128, 64, 32, 1), 7).stages
    assert sum(p.numel() for name, p in stages.named_parameters() if name.split(".")[1] == "0") == 144_129


def test_one_time_embedding_serves_all_tokens() -> None:
    denoiser = make_denoiser(16)
    noisy, _, prototypes = inputs(4, 16)
    once = denoiser.denoise(noisy, denoiser.time_embedding(torch.tensor([321])), prototypes)
    torch.testing.assert_close(once, denoiser(noisy, torch.full((4,), 321), prototypes))


def test_tokens_do_not_see_each_other() -> None:
    denoiser = make_denoiser(16)
    noisy, timesteps, prototypes = inputs(4, 16)
    alone = denoiser(noisy[2:3], timesteps[2:3], prototypes[2:3])
    torch.testing.assert_close(alone, denoiser(noisy, timesteps, prototypes)[2:3])


def test_the_estimate_is_float32_under_autocast() -> None:
    denoiser = make_denoiser(16)
    exact = denoiser(*inputs(4, 16))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = denoiser(*inputs(4, 16))
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("channels", [CHANNELS, (1, 4, 1), (1, 4, 4, 1)])
def test_folded_norms_change_nothing(channels: tuple[int, ...]) -> None:
    denoiser, folded = make_denoiser(16, channels), make_denoiser(16, channels)
    folded.fuse_conv_bn()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(*inputs(4, 16)), denoiser(*inputs(4, 16)), rtol=1e-4, atol=1e-5)
    assert list(folded.stages.children())[-1][0].weight.equal(list(denoiser.stages.children())[-1][0].weight)
