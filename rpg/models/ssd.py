"""Mamba-2 in plain PyTorch (Dao & Gu 2024): the state space dual scan in chunks, and the block around it.

Parameters have the names, shapes and initialisation of mamba_ssm.modules.mamba2.Mamba2, so weights move between both.
Legend: B batch, L length, H heads, P head dimension, N state dimension, C chunks, Q chunk length.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.models.kernels import fast_scan

CHUNK_SIZE = 64  # about sqrt(P N): the chunks' Q x Q masks then take no more memory than the states between them


def ssd_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int) -> Tensor:
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, computed in chunks by matrix products.

    x (B, L, H, P), dt (B, L, H) positive, A (H,) negative, B and C (B, L, N) shared by all heads -> y (B, L, H, P).
    Any L; a chunk costs Q² + Q N per head and value, so short sequences use chunks of their own length.
    Source: "Transformers are SSMs", section 6.
    """
    batch, length, heads, dim = x.shape
    chunk = min(chunk_size, length)
    pad = -length % chunk
    if pad:  # dt = 0 neither decays nor feeds the state
        x, dt = F.pad(x, (0, 0, 0, 0, 0, pad)), F.pad(dt, (0, 0, 0, pad))
        B, C = F.pad(B, (0, 0, 0, pad)), F.pad(C, (0, 0, 0, pad))
    chunks = (length + pad) // chunk
    x_BCQHP = (x * dt[..., None]).view(batch, chunks, chunk, heads, dim)
    B_BCQN, C_BCQN = (tensor.view(batch, chunks, chunk, -1) for tensor in (B, C))
    decay_BHCQ = (dt * A).view(batch, chunks, chunk, heads).permute(0, 3, 1, 2).cumsum(-1)

    # Within a chunk: a masked attention of C to B.
    gap_BHCQQ = decay_BHCQ[..., :, None] - decay_BHCQ[..., None, :]
    causal_QQ = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    mask_BHCQQ = gap_BHCQQ.masked_fill(~causal_QQ, -torch.inf).exp()
    score_BCQQ = torch.einsum("bcqn,bckn->bcqk", C_BCQN, B_BCQN)
    # Two operands at a time: einsum may contract three in an order that makes a tensor (B, H, C, Q, Q, P).
    attention_BHCQQ = score_BCQQ[:, None] * mask_BHCQQ
    y_BCQHP = torch.einsum("bhcqk,bckhp->bcqhp", attention_BHCQQ, x_BCQHP)

    # Across chunks: what a chunk leaves behind, carried on through the following ones.
    if chunks > 1:
        to_end_BHCQ = (decay_BHCQ[..., -1:] - decay_BHCQ).exp()
        leaving_BCQHP = x_BCQHP * to_end_BHCQ.permute(0, 2, 3, 1)[..., None]
        left_BCHPN = torch.einsum("bcqn,bcqhp->bchpn", B_BCQN, leaving_BCQHP)
        total_BHC = decay_BHCQ[..., -1].exp()
        state_BHPN = torch.zeros_like(left_BCHPN[:, 0])
        states = []
        for c in range(chunks):
            states.append(state_BHPN)
            state_BHPN = state_BHPN * total_BHC[:, :, c, None, None] + left_BCHPN[:, c]
        state_BCHPN = torch.stack(states, dim=1)
        arriving_BCQHP = torch.einsum("bcqn,bchpn->bcqhp", C_BCQN, state_BCHPN)
        y_BCQHP = y_BCQHP + arriving_BCQHP * decay_BHCQ.exp().permute(0, 2, 3, 1)[..., None]
    return y_BCQHP.reshape(batch, length + pad, heads, dim)[:, :length]


class GatedRMSNorm(nn.Module):
    """RMS normalisation of x * silu(z), over the last axis."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = x * F.silu(z)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Mamba2(nn.Module):
    """One Mamba-2 block without residual: (B, L, width_in) -> (B, L, d_model), causal. `width_in` is d_model by
    default; RPG-Large's second block is wider than its input (Table 12).

    On CUDA the scan runs through mamba-ssm's kernels when they are installed; weights and results are the same.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        chunk_size: int = CHUNK_SIZE,
        width_in: int | None = None,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.head_dim, self.num_heads, self.chunk_size = head_dim, expand * d_model // head_dim, chunk_size
        d_mixed = self.d_inner + 2 * d_state  # x, B and C go through the convolution together
        self.in_proj = nn.Linear(width_in or d_model, self.d_inner + d_mixed + self.num_heads, bias=False)
        self.conv1d = nn.Conv1d(d_mixed, d_mixed, d_conv, groups=d_mixed, padding=d_conv - 1)
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = GatedRMSNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        batch, length, _ = inputs.shape
        mixed_width = self.d_inner + 2 * self.d_state
        z, mixed, dt = self.in_proj(inputs).split([self.d_inner, mixed_width, self.num_heads], dim=-1)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2))[..., :length].transpose(1, 2))
        x, B, C = mixed.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.reshape(batch, length, self.num_heads, self.head_dim)
        # The scan multiplies many decays: float32 at least, whatever autocast says.
        with torch.autocast(inputs.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            dt = F.softplus(dt.to(wide) + self.dt_bias)
            fast = fast_scan() if x.is_cuda else None
            sequence = (x.to(wide), dt, -self.A_log.exp(), B.to(wide), C.to(wide))
            y = fast(*sequence) if fast else ssd_scan(*sequence, self.chunk_size)
            y = y + x.to(wide) * self.D[:, None]
            y = self.norm(y.reshape(batch, length, self.d_inner), z.to(wide))
        return self.out_proj(y)


def _initial_dt_bias(heads: int, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> Tensor:
    """The inverse softplus of time steps drawn log-uniformly from [low, high]."""
    dt = torch.exp(torch.rand(heads) * (math.log(high) - math.log(low)) + math.log(low)).clamp_min(floor)
    return dt + torch.log(-torch.expm1(-dt))
