"""Tests measure a processor on small matrices: each training begins with that, for a second or two."""

from __future__ import annotations

import torch

import rpg.devices

SECONDS, SIZE = 0.01, 64


def measure_little() -> None:
    """From now on in this process; for all devices but GPUs, which are fast."""
    real = rpg.devices._matrix_rate

    def rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
        return real(device, dtype, size if device.type == "cuda" else SIZE)

    rpg.devices.MEASURE_SECONDS, rpg.devices._matrix_rate = SECONDS, rate
