"""Sinusoidal position embeddings of tokens (paper, sections 2.3 and 3.3), and such codes of states."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.seeds import generator

MAX_PERIOD = 10_000.0


def sinusoid(index: Tensor, dim: int) -> Tensor:
    """Sinusoidal encoding of integers (...) as float32 (..., dim): sines at even, cosines at odd channels."""
    if dim % 2:
        raise ValueError(f"a sinusoidal encoding has pairs of channels; dim = {dim} must be even")
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(MAX_PERIOD) / dim))
    angle = index.double()[..., None] * frequency.to(index.device)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()


def by_number(states: Tensor, dim: int) -> Tensor:
    """Codes of permutation states, int64 (...) -> float32 (..., dim), as many as there are: cosines and sines of a
    state's number times dim / 2 frequencies, drawn once and for all from the whole circle, so that the codes of any two
    are nearly orthogonal. (Those of `sinusoid` are alike for neighbours, which then are hard to tell apart.) Their
    values have a mean square of 1, so they are as strong as positions, where one-hot states have 1 / dim (docs/log.md).
    """
    drawn = torch.rand(dim // 2, generator=generator(0, "states"), dtype=torch.float64, device="cpu")
    angle = states.double()[..., None] * (2 * math.pi * drawn).to(states.device)
    return math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def by_bits(bits: Tensor, dim: int) -> Tensor:
    """Codes of conditions, float32 (B, bits) of zeros and ones -> (B, dim): the sum of a direction for each bit, forth
    where it is set and back where it is not. Directions are drawn once and for all from a Gaussian such that codes have
    a mean square of a half, as positions have.
    """
    count = bits.shape[1]
    drawn = torch.randn(count, dim, generator=generator(0, "bits"), device="cpu") / math.sqrt(2 * count)
    return (2 * bits - 1) @ drawn.to(bits.device)


def by_layer(positions: Tensor, d_model: int) -> Tensor:
    """Two-dimensional encoding, int64 (L, 2) -> float32 (L, d_model): the first half of the channels encodes the layer,
    the second half the token's place inside it. (The published code has the halves the other way round.)
    """
    return torch.cat([sinusoid(positions[:, 0], d_model // 2), sinusoid(positions[:, 1], d_model // 2)], dim=-1)


def by_index(positions: Tensor, d_model: int) -> Tensor:
    """One-dimensional encoding of a token's place in the whole sequence, (L, 2) -> float32 (L, d_model): what layer it
    belongs to is not told (Table 4b, "encode by index").
    """
    return sinusoid(torch.arange(len(positions), device=positions.device), d_model)
