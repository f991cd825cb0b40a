"""Two views of a network should have codes that are alike, and unlike those of other networks: NT-Xent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy of Chen et al. 2020 (https://arxiv.org/abs/2002.05709, equation
    1), a scalar, of the projections (B, d) of two views of the same networks: each view has to find its other one among
    the 2B - 1 others, by cosine similarity over `temperature`.
    """
    views = F.normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.T / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    others = similarity.masked_fill(itself, -torch.inf)
    return F.cross_entropy(others, torch.arange(len(views), device=views.device).roll(len(first)))
