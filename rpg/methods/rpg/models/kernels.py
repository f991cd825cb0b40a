"""Wraps the Triton kernels of mamba-ssm (https://github.com/state-spaces/mamba): the only module that imports it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

Scan: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
CHUNK_SIZE = 256  # mamba-ssm's default


@cache
def fast_scan() -> Scan | None:
    """`ssd_scan` (same tensors, same result) as Triton kernels for CUDA tensors, differentiable; None
    where mamba-ssm, Triton or einops is not installed. The kernels multiply in TF32, so they agree to about 1e-3.
    """
    try:
        kernel = _load_kernel()
    except ImportError:
        return None

    def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return kernel(x, dt, A, B[:, :, None], C[:, :, None], CHUNK_SIZE)  # one group of heads shares B and C

    return scan


def has_fast_scan() -> bool:
    """Whether `fast_scan` has what it needs, found without importing it."""
    return all(importlib.util.find_spec(name) for name in ("mamba_ssm", "triton", "einops"))


def attention_kernel(device: torch.device, dtype: torch.dtype, shape: Sequence[int]) -> str:
    """Which of torch's kernels computes causal attention on queries of this shape (B, heads, L, size):
    `flash_attention`, `efficient_attention`, `cudnn_attention` or `math`.
    """
    from torch.nn.attention import SDPBackend

    query = torch.empty(tuple(shape), device=device, dtype=dtype)
    return SDPBackend(torch._fused_sdp_choice(query, query, query, is_causal=True)).name.lower()


def _load_kernel() -> Callable[..., Any]:
    """mamba_chunk_scan_combined, imported without running mamba_ssm/__init__.py: that imports the extension of Mamba-1,
    `selective_scan_cuda`, which Mamba-2 does not need and which is often not built.
    """
    if "mamba_ssm" not in sys.modules:
        spec = importlib.util.find_spec("mamba_ssm")
        if spec is None:
            raise ModuleNotFoundError("mamba_ssm is not installed")
        package = ModuleType("mamba_ssm")
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["mamba_ssm"] = package
        try:
            return _load_kernel()
        finally:
            del sys.modules["mamba_ssm"]  # whoever imports it later gets the whole package
    return importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
