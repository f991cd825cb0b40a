"""Sinusoidal position embeddings of tokens (paper, sections 2.3 and 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_PERIOD = 10_000.0


def sinusoid(index: Tensor, dim: int) -> Tensor:
    """Sinusoidal encoding of integers (...) as float32 (..., dim): sines at even, cosines at odd channels."""
    if dim % 2:
        raise ValueError(f"a sinusoidal encoding has pairs of channels; dim = {dim} must be even")
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(MAX_PERIOD) / dim))
    angle = index.double()[..., None] * frequency.to(index.device)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).float()


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
