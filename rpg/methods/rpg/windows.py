"""How many tokens are denoised together: passes over a network, chunks of a pass (paper, section B.3)."""

from __future__ import annotations

import torch

CHUNK = {"sequential": 1, "partial": 256}  # tokens denoised together (section B.3); `full` takes a pass's
GROUP_VALUES = 2**24  # values in one pass: those of many small networks, or of a window of a large one
CPU_CHUNK_VALUES = 2**12  # per thread; more at once do not fit its cache: 256 tokens of 256 then take 1.3 times as long


def windows(num_tokens: int, token_size: int, chunk: int) -> list[range]:
    """The tokens of one network, cut into passes of whole chunks and GROUP_VALUES values at most (but one chunk)."""
    tokens = max(GROUP_VALUES // token_size // chunk, 1) * chunk
    return [range(start, min(start + tokens, num_tokens)) for start in range(0, max(num_tokens, 1), tokens)]


def chunk_size(mode: str, token_size: int, device: torch.device) -> int:
    """How many tokens pass through the denoiser together."""
    chunk = CHUNK.get(mode, max(1, GROUP_VALUES // token_size))
    if device.type == "cpu":
        chunk = min(chunk, max(1, CPU_CHUNK_VALUES * torch.get_num_threads() // token_size))
    return chunk
