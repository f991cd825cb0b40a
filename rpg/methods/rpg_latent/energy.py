"""How far a batch of networks is from another one in distribution, as a loss.

Legend: n and m networks, D values of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_distance(found: Tensor, given: Tensor, p: float = 2.0) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of networks X (..., n, D) and Y (..., m, D), two of each at least, over
    E|Y - Y'|, each a mean over the leading dimensions: a scalar. Estimated without bias
    (evaluators.two_sample.energy_distance): it is zero on average where both have one distribution, and near
    sqrt(2) - 1 where X is nothing but the mean of Y, with many values.

    Distances are Euclidean, or with p = 1 sums over values: then it is zero where each value by itself is distributed
    alike, whatever the values have to do with one another (Szekely and Rizzo 2013, of one dimension each).
    """
    within, between = _pairs(given, p).detach(), _distances(found, given, p).mean()
    return (2 * between - _pairs(found, p) - within) / within.clamp_min(torch.finfo(within.dtype).tiny)


def spread_distance(found: Tensor, given: Tensor) -> Tensor:
    """The mean of both energy distances of networks X (n, D) and Y (m, D), a scalar. In many dimensions the Euclidean
    one hardly knows which values the spread is in, the other one nothing but that.
    """
    return (energy_distance(found, given) + energy_distance(found, given, p=1.0)) / 2


def _pairs(networks: Tensor, p: float) -> Tensor:
    """The mean distance of two different ones."""
    count = networks.shape[-2]
    return _distances(networks, networks, p).sum((-2, -1)).mean() / (count * (count - 1))


def _distances(first: Tensor, second: Tensor, p: float) -> Tensor:
    # Products of matrices would cancel for near networks, whose distance then has a gradient that is nothing but noise.
    return torch.cdist(first, second, p=p, compute_mode="donot_use_mm_for_euclid_dist")
