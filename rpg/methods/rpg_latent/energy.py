"""How far a batch of networks is from another one in distribution, as a loss.

Legend: n and m networks, D values of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_distance(found: Tensor, given: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of networks X (n, D) and Y (m, D), two of each at least, over E|Y - Y'|: a
    scalar. Estimated without bias (evaluators.two_sample.energy_distance): it is zero on average where both have one
    distribution, and near sqrt(2) - 1 where X is nothing but the mean of Y, with many values.
    """
    within, between = _pairs(given).detach(), _distances(found, given).mean()
    return (2 * between - _pairs(found) - within) / within.clamp_min(torch.finfo(within.dtype).tiny)


def _pairs(networks: Tensor) -> Tensor:
    """The mean distance of two different ones."""
    return _distances(networks, networks).sum() / (len(networks) * (len(networks) - 1))


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Products of matrices would cancel for near networks, whose distance then has a gradient that is nothing but noise.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
