"""The published algorithm, written plainly: what the benchmarks are measured against.

As RPG's code does it (facts in its paper and repository), with this project's parameters, so that both sides can be
checked to compute the same: whole checkpoints are read and normalised from their file for every sample; positions are
repeated for the batch; the full batch goes through both blocks, the scan in chunks of 256 over the whole sequence at
once; every convolution is a Conv1d; sampling embeds the time and projects the condition for every row in every step,
chunk after chunk, and looks for NaN after each.

Legend: B batch, L tokens, D token size, H heads, P head dimension, N state dimension, C chunks, Q chunk length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.rpg.models.denoiser import ConvStage, Denoiser
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.models.ssd import Mamba2
from rpg.tokens.layout import Layout

CHUNK_SIZE = 256  # mamba-ssm's default


def read_tokens(files: Sequence[Path], layout: Layout) -> Tensor:
    """The checkpoints in these .pth files as tokens (B, L, D): each read whole, normalised and cut anew."""
    return torch.stack([layout.encode(torch.load(file, weights_only=True)) for file in files])


def prototypes(model: Generator, states: Tensor) -> Tensor:
    """Prototypes (B, L, D), the last layer of the projection (the denoiser's `condition`) left to `denoise`."""
    positions, states = model.positions.repeat(len(states), 1, 1), states.to(model.positions.device)
    hidden = positions + F.one_hot(states, positions.shape[-1])[:, None].to(positions.dtype)
    for layer in model.recurrent.layers:
        assert isinstance(layer, Mamba2)
        hidden = mamba2(layer, hidden)
    linear, silu, _ = model.recurrent.projection
    return silu(linear(hidden))


def mamba2(block: Mamba2, inputs: Tensor) -> Tensor:
    """The whole block on the whole batch, (B, L, width) -> (B, L, width)."""
    length = inputs.shape[1]
    mixed_width = block.d_inner + 2 * block.d_state
    z, mixed, dt = block.in_proj(inputs).split([block.d_inner, mixed_width, block.num_heads], dim=-1)
    conv = block.conv1d
    mixed = F.conv1d(mixed.transpose(1, 2), conv.weight, conv.bias, padding=block.d_conv - 1, groups=conv.groups)
    mixed = F.silu(mixed[..., :length].transpose(1, 2))
    with torch.autocast(inputs.device.type, enabled=False):
        mixed, z = mixed.float(), z.float()
        x, B, C = mixed.split([block.d_inner, block.d_state, block.d_state], dim=-1)
        x = x.unflatten(-1, (block.num_heads, block.head_dim))
        dt = F.softplus(dt.float() + block.dt_bias)
        y = scan(x * dt[..., None], dt * -block.A_log.exp(), B, C) + x * block.D[:, None]
        y = y.flatten(-2) * F.silu(z)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + block.norm.eps) * block.norm.weight
    return block.out_proj(y)


def scan(x: Tensor, decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The minimal scan of "Transformers are SSMs" (listing 1): all chunks at once. x (B, L, H, P) times dt, decay
    (B, L, H) = dt A, B and C (B, L, N).
    """
    batch, length, heads, _ = x.shape
    chunk = min(CHUNK_SIZE, length)
    pad = -length % chunk
    x, decay = F.pad(x, (0, 0, 0, 0, 0, pad)), F.pad(decay, (0, 0, 0, pad))
    B, C = F.pad(B, (0, 0, 0, pad)), F.pad(C, (0, 0, 0, pad))
    x_BCQHP, B_BCQN, C_BCQN = (tensor.unflatten(1, (-1, chunk)) for tensor in (x, B, C))
    decay_BHCQ = decay.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2)
    total_BHCQ = decay_BHCQ.cumsum(-1)

    inside_BHCQQ = segment_sums(decay_BHCQ).exp()
    y_BCQHP = torch.einsum("bcqn,bckn,bhcqk,bckhp->bcqhp", C_BCQN, B_BCQN, inside_BHCQQ, x_BCQHP)
    to_end_BHCQ = (total_BHCQ[..., -1:] - total_BHCQ).exp()
    left_BCHPN = torch.einsum("bcqn,bhcq,bcqhp->bchpn", B_BCQN, to_end_BHCQ, x_BCQHP)
    left_BCHPN = torch.cat([torch.zeros_like(left_BCHPN[:, :1]), left_BCHPN], dim=1)
    between_BHCC = segment_sums(F.pad(total_BHCQ[..., -1], (1, 0))).exp()
    state_BCHPN = torch.einsum("bhzc,bchpn->bzhpn", between_BHCC, left_BCHPN)[:, :-1]
    y_BCQHP = y_BCQHP + torch.einsum("bcqn,bchpn,bhcq->bcqhp", C_BCQN, state_BCHPN, total_BHCQ.exp())
    return y_BCQHP.reshape(batch, length + pad, heads, -1)[:, :length]


def segment_sums(decay: Tensor) -> Tensor:
    """(..., Q) -> (..., Q, Q): the sum over (s, t] at [t, s], minus infinity where s > t."""
    total = decay.cumsum(-1)
    gap = total[..., :, None] - total[..., None, :]
    causal = torch.ones(gap.shape[-2:], dtype=torch.bool, device=gap.device).tril()
    return gap.masked_fill(~causal, -torch.inf)


def denoise(model: Generator, noisy: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
    """Noise (K, D) in noisy tokens (K, D) at timesteps (K,), from `prototypes`' rows (K, D): time and condition are
    computed for every row.
    """
    denoiser: Denoiser = model.denoiser
    time, condition = denoiser.time_embedding(timesteps)[:, None], model.recurrent.projection[-1](hidden)[:, None]
    features, middle = noisy[:, None], len(denoiser.stages) // 2
    skips: list[Tensor] = []
    for index, stage in enumerate(denoiser.stages):
        if index > middle:
            features = features + skips.pop()
        assert isinstance(stage, ConvStage)
        conv, *norm_and_elu = stage
        assert isinstance(conv, nn.Conv1d)
        features = conv((features + condition) * time)
        if norm_and_elu:
            features = F.elu(norm_and_elu[0](features))
        if index < len(denoiser.stages) - 1 - middle:
            skips.append(features)
    return features[:, 0].float()


@torch.no_grad()
def sample(
    model: Generator, hidden: Tensor, signal: Tensor, chunk_size: int, noise: Callable[[slice, int], Tensor]
) -> Tensor:
    """DDPM over all levels of `signal` (the cumulative products of 1 - beta, float64) -> tokens (K, D): the whole chain
    for one chunk of tokens, then for the next. `noise(chunk, level)` are the draws of a step; those at
    `level = len(signal)` begin.
    """
    previous = torch.cat([signal.new_ones(1), signal[:-1]])
    betas = 1 - signal / previous
    done = []
    for start in range(0, len(hidden), chunk_size):
        chunk = slice(start, start + chunk_size)
        tokens = noise(chunk, len(signal))
        for level in reversed(range(len(signal))):
            timesteps = torch.full((len(tokens),), level, device=tokens.device)
            estimate = denoise(model, tokens, timesteps, hidden[chunk])
            beta, now, before = betas[level], signal[level], previous[level]
            mean = (tokens - (beta / (1 - now).sqrt()) * estimate) / (1 - beta).sqrt()
            spread = (beta * (1 - before) / (1 - now)).sqrt()
            tokens = (mean + spread * noise(chunk, level)).float() if level else mean.float()
            if torch.isnan(tokens).any():
                raise ValueError("NaN")
        done.append(tokens)
    return torch.cat(done)
