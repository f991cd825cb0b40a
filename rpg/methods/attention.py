"""Transformer blocks of methods whose tokens are parts of networks: normalised first, every token sees every other.

Legend: B networks, T tokens, C width, H heads.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot-product attention of H heads, without a mask (Vaswani et al. 2017): (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, heads: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)): torch's TransformerEncoderLayer with `norm_first`."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Literal["relu", "gelu"], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, bias, dropout)
        self.rise, self.fall = nn.Linear(width, hidden, bias=bias), nn.Linear(hidden, width, bias=bias)
        self.activation = F.relu if activation == "relu" else F.gelu
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        return tokens + self.dropout(self.fall(self.dropout(self.activation(self.rise(self.norm2(tokens))))))


class Transformer(nn.Sequential):
    """`layers` blocks and a last norm."""

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        activation: Literal["relu", "gelu"],
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        blocks = [Block(width, heads, hidden, activation, bias, dropout) for _ in range(layers)]
        super().__init__(*blocks, nn.LayerNorm(width, bias=bias))


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless heads share the width evenly."""
    if width % heads:
        raise ValueError(f"width = {width} is no multiple of heads = {heads}; expected one, as in {heads * 32}")
