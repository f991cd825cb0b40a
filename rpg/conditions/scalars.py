"""Numbers that generators are told: a metric now, one that is wanted, a level of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(values: Tensor, frequencies: int, octaves: int) -> Tensor:
    """Sines and cosines of numbers (...) at so many frequencies, evenly from 1 to 2**octaves in logarithm, and the
    numbers themselves: float32 (..., 2 * frequencies + 1).

    Numbers in the unit interval that differ by less than 2**-octaves look alike.
    """
    exponent = torch.linspace(0, octaves, frequencies, dtype=torch.float64, device=values.device)
    angle = values.double()[..., None] * torch.exp(exponent * math.log(2))
    return torch.cat([angle.sin(), angle.cos(), values.double()[..., None]], -1).float()
