"""Mamba-2 in plain PyTorch (Dao & Gu 2024): the state space dual scan in chunks, and the block around it.

Parameters have the names, shapes and initialisation of mamba_ssm.modules.mamba2.Mamba2, so weights move between both.
Legend: B batch, L length, H heads, P head dimension, N state dimension, C chunks, Q chunk length, K
picked tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpg.methods.rpg.models.kernels import Scan, fast_scan
from rpg.methods.rpg.models.recompute import Picked, Recomputing, again

CHUNK_SIZE = 64  # about sqrt(P N): the chunks' Q x Q masks then take no more memory than the states between them
MAX_TURNS = 16  # more turns than that, and the interpreter takes longer than the cache saves


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, recompute: bool = False
) -> Tensor:
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, computed in chunks by matrix products.

    x (B, L, H, P), dt (B, L, H) positive, A (H,) negative, B and C (B, L, N) shared by all heads -> y (B, L, H, P).
    Any L; a chunk costs Q² + Q N per head and value. One chunk after the other, or some at once in long sequences: what
    a chunk makes stays in the processor's cache, what all make together does not. With `recompute` the backward pass
    makes it again. Source: "Transformers are SSMs", section 6.
    """
    sizes = turns(x.shape[1], chunk_size)
    state_BHPN, y = None, []
    for pieces in zip(*(tensor.split(sizes, dim=1) for tensor in (x, dt, B, C)), strict=True):
        x_BCQHP, dt_BCQH, B_BCQN, C_BCQN = (
            piece.unflatten(1, (-1, min(chunk_size, piece.shape[1]))) for piece in pieces
        )
        turn = (x_BCQHP, dt_BCQH, A, B_BCQN, C_BCQN, state_BHPN)
        y_BCQHP, state_BHPN = again(_scan_chunks, *turn) if recompute else _scan_chunks(*turn)
        y.append(y_BCQHP.flatten(1, 2))
    return torch.cat(y, dim=1)


def turns(length: int, chunk_size: int) -> list[int]:
    """The tokens of each turn: one whole chunk, or some in a long sequence, and last what is left."""
    chunks, rest = divmod(length, chunk_size)
    together = max(1, math.ceil(chunks / MAX_TURNS))
    return [min(together, chunks - done) * chunk_size for done in range(0, chunks, together)] + [rest] * (rest > 0)


def _scan_chunks(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Some chunks, a second axis C: y (B, C, Q, H, P), and the state (B, H, P, N) after them from that before them
    (None: zero).
    """
    chunks, length = x.shape[1:3]
    decay_BCHQ = (dt * A).transpose(2, 3).cumsum(-1)
    x_BCHQP = (x * dt[..., None]).transpose(2, 3)

    # Within a chunk: a masked attention of C to B.
    gap_BCHQQ = decay_BCHQ[..., :, None] - decay_BCHQ[..., None, :]
    causal_QQ = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    mask_BCHQQ = gap_BCHQQ.masked_fill(~causal_QQ, -torch.inf).exp()
    score_BCQQ = C @ B.transpose(2, 3)
    y_BCHQP = (score_BCQQ[:, :, None] * mask_BCHQQ) @ x_BCHQP

    # Across chunks: what each leaves behind, carried on through the following ones, and what arrives from the past.
    to_end_BCHQ1 = (decay_BCHQ[..., -1:] - decay_BCHQ).exp()[..., None]
    left_BCHPN = (x_BCHQP * to_end_BCHQ1).transpose(3, 4) @ B[:, :, None]
    first = state is None
    state_BHPN = torch.zeros_like(left_BCHPN[:, 0]) if state is None else state
    total_BCH11 = decay_BCHQ[..., -1, None, None].exp()
    before = []
    for chunk in range(chunks):
        before.append(state_BHPN)
        state_BHPN = left_BCHPN[:, chunk] + state_BHPN * total_BCH11[:, chunk]
    if chunks > 1 or not first:
        arriving_BCHQP = C[:, :, None] @ torch.stack(before, dim=1).transpose(3, 4)
        y_BCHQP = y_BCHQP + arriving_BCHQP * decay_BCHQ.exp()[..., None]
    return y_BCHQP.transpose(2, 3), state_BHPN


class GatedRMSNorm(nn.Module):
    """RMS normalisation of x * silu(z), over the last axis."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = x * F.silu(z)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Mamba2(Recomputing, nn.Module):
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
        self.conv1d = nn.Conv1d(d_mixed, d_mixed, d_conv, groups=d_mixed)
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = GatedRMSNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, inputs: Tensor, offsets: Tensor | None = None, picked: Picked | None = None) -> Tensor:
        """With `offsets` (B, width_in), the inputs (L, width_in) are common to all sequences and sequence b is
        `inputs + offsets[b]`. The projection and the convolution are linear, so the common part goes through them once.

        With `picked`, only these tokens' outputs (K, d_model) are computed: the gate, the norm and the output
        projection see nothing else. Recomputing, some sequences at a time pass what follows the common part.
        """
        if offsets is None:
            return self.by_sequence(self._block, [inputs], inputs.shape[1] * self.d_inner, picked)
        gate_weight, weight = self._input_weights()
        mixed, dt = self._mix(inputs, weight, self.conv1d.bias)
        z = F.linear(inputs, gate_weight)
        # A constant sequence is constant behind a causal convolution too, from its d_conv-th token on.
        steady = min(len(inputs), self.d_conv) - 1
        mixed_of_offsets, dt_of_offsets = self._mix(offsets[:, None].expand(-1, steady + 1, -1), weight, None)
        z_of_offsets = F.linear(offsets, gate_weight)

        def shifted(mixed_offset: Tensor, dt_offset: Tensor, z_offset: Tensor, picked: Picked | None = None) -> Tensor:
            early = mixed[:steady] + mixed_offset[:, :steady]
            late = mixed[steady:] + mixed_offset[:, steady:]
            gate = z + z_offset[:, None] if picked is None else z[picked[1]] + z_offset[picked[0]]
            return self._mixed(torch.cat([early, late], dim=1), dt + dt_offset[:, :1], gate, picked)

        each = [mixed_of_offsets, dt_of_offsets, z_of_offsets]
        return self.by_sequence(shifted, each, len(inputs) * self.d_inner, picked)

    def _block(self, inputs: Tensor, picked: Picked | None = None) -> Tensor:
        """The whole of it, for sequences (B, L, width_in)."""
        gate_weight, weight = self._input_weights()
        mixed, dt = self._mix(inputs, weight, self.conv1d.bias)
        z = F.linear(inputs if picked is None else inputs[picked], gate_weight)
        return self._mixed(mixed, dt, z, picked)

    def _input_weights(self) -> tuple[Tensor, ...]:
        """Those for the gate z, and those for x, B, C and dt."""
        return self.in_proj.weight.split([self.d_inner, self.conv1d.in_channels + self.num_heads])

    def _mixed(self, mixed: Tensor, dt: Tensor, z: Tensor, picked: Picked | None) -> Tensor:
        """What follows the convolution. Where kernels keep little of the scan, the gated norm would keep most of a
        block: there it keeps its inputs alone.
        """
        fast = self._kernel(mixed)
        y = self._scan(F.silu(mixed), F.softplus(dt + self.dt_bias), picked, fast)
        lean = fast is not None and not self.recompute
        return self.out_proj(again(self._gated, y, z) if lean else self._gated(y, z))

    def _gated(self, y: Tensor, z: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return self.norm(y, z.to(y.dtype))

    def _kernel(self, mixed: Tensor) -> Scan | None:
        """What scans in PyTorch's place, where it can."""
        return fast_scan() if mixed.is_cuda else None

    def _mix(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, B and C behind the convolution (..., L, d_mixed), and dt (..., L, H); float32 at least, since the scan
        multiplies many decays, whatever autocast says.
        """
        projected = F.linear(inputs, weight)
        with torch.autocast(inputs.device.type, enabled=False):
            projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
            mixed, dt = projected.split([self.conv1d.in_channels, self.num_heads], dim=-1)
            # As an image one pixel high with channels last, the convolution needs no transposed copies.
            image = F.pad(mixed, (0, 0, self.d_conv - 1, 0)).unflatten(-2, (1, -1)).movedim(-1, -3)
            image = F.conv2d(image, self.conv1d.weight[:, :, None], bias, groups=self.conv1d.groups)
            return image.squeeze(-2).transpose(-1, -2), dt

    def _scan(self, mixed: Tensor, dt: Tensor, picked: Picked | None, fast: Scan | None) -> Tensor:
        """y with the skip D x, (B, L, d_inner), or (K, d_inner) when tokens are picked."""
        with torch.autocast(mixed.device.type, enabled=False):
            x, B, C = mixed.split([self.d_inner, self.d_state, self.d_state], dim=-1)
            x = x.unflatten(-1, (self.num_heads, self.head_dim))
            sequence = (x, dt, -self.A_log.exp(), B, C)
            y = fast(*sequence) if fast else ssd_scan(*sequence, self.chunk_size, self.recompute)
            if picked is not None:
                x, y = x[picked], y[picked]
            return (y + x * self.D[:, None]).flatten(-2)


def _initial_dt_bias(heads: int, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> Tensor:
    """The inverse softplus of time steps drawn log-uniformly from [low, high]."""
    dt = torch.exp(torch.rand(heads) * (math.log(high) - math.log(low)) + math.log(low)).clamp_min(floor)
    return dt + torch.log(-torch.expm1(-dt))
