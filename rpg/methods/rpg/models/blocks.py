"""What can stand in the place of a Mamba-2 block: LSTM, causal transformer (Table 5), gated MLP (Table 4a).

Every block maps (B, L, d_model) to (B, L, d_model). Legend: B batch, L length, H heads, P head dimension.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.rpg.models.recompute import Recomputing


class LSTM(Recomputing, nn.LSTM):
    """One layer of torch's LSTM; several of these in sequence are an LSTM of several layers."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, d_model, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]  # the states stay inside
        return self.by_sequence(self._block, [inputs], 4 * inputs[0].numel())

    def _block(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[0]


class TransformerBlock(Recomputing, nn.Module):
    """Pre-LN attention over the past and present, then a feed-forward network of twice the width, both residual.

    Without biases in the attention and without an output projection, as published. (The published mask adds 1e-8
    instead of minus infinity, so it is not causal, and its scores are not scaled: here both are right.)
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, d_model))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.by_sequence(self._block, [inputs], 3 * inputs[0].numel())

    def _block(self, inputs: Tensor) -> Tensor:
        qkv_BL3HP = self.qkv(self.attention_norm(inputs)).unflatten(-1, (3, self.num_heads, -1))
        q_BHLP, k_BHLP, v_BHLP = qkv_BL3HP.permute(2, 0, 3, 1, 4).unbind()
        attended_BHLP = F.scaled_dot_product_attention(q_BHLP, k_BHLP, v_BHLP, is_causal=True)
        inputs = inputs + attended_BHLP.transpose(1, 2).flatten(2)
        return inputs + self.mlp(self.mlp_norm(inputs))


class GatedMLP(Recomputing, nn.Module):
    """No state transition: each token by itself, Linear(Linear(x) * sigmoid(Linear(x))) and LayerNorm, not residual."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.gate = nn.Linear(d_model, 2 * d_model, bias=False)
        self.output = nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.by_sequence(self._block, [inputs], 2 * inputs[0].numel())

    def _block(self, inputs: Tensor) -> Tensor:
        return self.norm(self.output(self.value(inputs) * self.gate(inputs).sigmoid()))
