"""FLOPs and bytes of tensors without memory against closed forms, and against the same computation on real tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rpg.meter import Cost, cost_of, without_memory
from rpg.methods.rpg.models.blocks import LSTM, GatedMLP, TransformerBlock
from rpg.methods.rpg.models.denoiser import Denoiser
from rpg.methods.rpg.models.ssd import Mamba2

B, L, D = 3, 80, 32


def test_bytes_and_flops_of_a_chain_by_hand() -> None:
    a, b = torch.ones(100, 200), torch.ones(200, 50)

    def chain() -> Tensor:
        product = a @ b  # 100 x 50, float32
        doubled = product * 2  # two of them alive
        del product
        halves = (doubled * 3).half()  # at most two and a half
        return halves[:10].view(-1)  # a view costs nothing

    assert cost_of(chain) == Cost(2 * 100 * 200 * 50, round(2.5 * 100 * 50 * 4), 4)


def test_what_was_there_before_is_not_counted() -> None:
    old = torch.ones(1000)
    assert cost_of(lambda: (old.view(10, 100), old.add_(1))) == Cost(0, 0, 1)


def mamba_flops(batch: int, tokens: int) -> int:
    """Forward: projections, depthwise convolution, and the scan in chunks of 64 and of the rest."""
    d_inner, state, heads = 64, 8, 4
    mixed = d_inner + 2 * state
    projections = 2 * tokens * (D * (d_inner + mixed + heads) + d_inner * D)
    convolution = 2 * tokens * mixed * 4
    inside = sum(2 * chunk * chunk * (state + d_inner) for chunk in (64, tokens - 64))
    arriving, left = 2 * (tokens - 64) * state * d_inner, 2 * tokens * state * d_inner
    return batch * (projections + convolution + inside + arriving + left)


@pytest.mark.parametrize(
    ("make", "forward"),
    [
        (lambda: Mamba2(D, 8, head_dim=16), mamba_flops(B, L)),
        (lambda: LSTM(D), 2 * B * L * 8 * D * D),
        (lambda: GatedMLP(D), 2 * B * L * 6 * D * D),
        (lambda: TransformerBlock(D, 4), 2 * B * L * (3 + 4) * D * D + 2 * 2 * B * L * L * D),
    ],
    ids=["mamba", "lstm", "none", "transformer"],
)
def test_flops_of_blocks_are_their_closed_forms(make: Callable[[], torch.nn.Module], forward: int) -> None:
    with without_memory():
        block, inputs = make(), torch.zeros(B, L, D, requires_grad=True)
        assert cost_of(lambda: block(inputs)).flops == forward
        # The backward pass has two products for each one: for the input and for the weight.
        assert cost_of(lambda: block(inputs).sum().backward()).flops == pytest.approx(3 * forward, rel=0.15)


def test_flops_of_the_denoiser_are_its_closed_form() -> None:
    channels, kernel, tokens, size = (1, 8, 16, 8, 1), 5, 6, 32
    with without_memory():
        denoiser = Denoiser(size, channels, kernel)
        noisy, time = torch.zeros(tokens, size), torch.zeros(1, size)
        found = cost_of(lambda: denoiser.denoise(noisy, time, noisy)).flops
    assert found == sum(2 * tokens * size * kernel * a * b for a, b in itertools.pairwise(channels))


@pytest.mark.parametrize(
    "make", [lambda: Mamba2(D, 8, head_dim=16), lambda: GatedMLP(D), lambda: Denoiser(D, (1, 4, 1), 3)]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tensors_without_memory_cost_what_real_ones_do(make: Callable[[], torch.nn.Module], precision: str) -> None:
    def step() -> None:
        module = make()
        inputs = torch.zeros(5, D) if isinstance(module, Denoiser) else torch.zeros(B, L, D)
        arguments = (inputs, torch.zeros(5, dtype=torch.int64), inputs) if isinstance(module, Denoiser) else (inputs,)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = module(*arguments).float().square().sum()
        loss.backward()

    real = cost_of(step)
    with without_memory():
        found = cost_of(step)
    assert found.flops == real.flops
    assert found.peak == pytest.approx(real.peak, rel=0.02)


@pytest.mark.gpu
def test_peak_is_what_cuda_allocates() -> None:
    def step(device: str) -> None:
        block = Mamba2(512, 32).to(device)
        block(torch.zeros(8, 256, 512, device=device)).square().sum().backward()

    with without_memory():
        found = cost_of(lambda: step("cpu"))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step("cuda")
    assert torch.cuda.max_memory_allocated() == pytest.approx(found.peak, rel=0.25)
