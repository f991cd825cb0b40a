"""The exact steps of matching: given the inner products of units with a reference's, the best element of one group.

All other groups held, what a group contributes to the inner product of a network with a reference is linear in the
group's element, so the best one is found at once: an order by the linear assignment problem, signs with it, rotations
by a singular value decomposition (Procrustes), and for heads both together: an order of heads by what the best element
within each pair of heads would give. N networks, n units, H units of the outer group; inner products are indexed
[reference's unit, network's unit].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zoo.symmetry.action import Element
from zoo.symmetry.specification import MATRICES, Specification


@dataclass
class Products:
    """Inner products of the units of one outermost group: `plain` (N, n, n), those that turn with a sign (N, n, n) by
    the sign's name, and for groups within it (N, n, n, m, m): of the m units of each by each.
    """

    plain: Tensor | None = None
    signed: dict[str, Tensor] = field(default_factory=dict)
    inner: dict[str, Tensor] = field(default_factory=dict)

    def add(self, products: Tensor, sign: str | None = None, inner: str | None = None) -> None:
        if inner is not None:
            self.inner[inner] = self.inner[inner] + products if inner in self.inner else products
        elif sign is not None:
            self.signed[sign] = self.signed[sign] + products if sign in self.signed else products
        else:
            self.plain = products if self.plain is None else self.plain + products

    @property
    def empty(self) -> bool:
        return self.plain is None and not self.signed and not self.inner


def best(specification: Specification, group: str, products: Products) -> tuple[Element, Tensor]:
    """The element of this group, the signs on it and the groups within it that gains most, and how much it gains over
    the identity (N,).
    """
    if specification.groups[group].kind in MATRICES:
        assert products.plain is not None
        rotation, value = procrustes(products.plain)
        return {group: rotation}, value - _trace(products.plain)
    total = torch.zeros(()) if products.plain is None else products.plain
    now = torch.zeros(()) if products.plain is None else _trace(products.plain)
    for matrix in products.signed.values():
        total, now = total + matrix.abs(), now + _trace(matrix)
    for name, blocks in products.inner.items():
        total = total + _values(specification, name, blocks)
        now = now + blocks.diagonal(dim1=1, dim2=2).diagonal(dim1=1, dim2=2).sum((1, 2))
    order = assign(total)
    gained = total.gather(2, order[..., None])[..., 0].sum(1) - now
    element = {group: order}
    for name, matrix in products.signed.items():
        chosen = matrix.gather(2, order[..., None])[..., 0]
        element[name] = torch.where(chosen < 0, -1.0, 1.0).double()
    for name, blocks in products.inner.items():
        n, h = order.shape
        pairs = blocks[torch.arange(n)[:, None], torch.arange(h), order]  # (N, H, m, m)
        if specification.groups[name].kind in MATRICES:
            element[name] = procrustes(pairs)[0]
        else:
            element[name] = assign(pairs.flatten(0, 1)).view(n, h, -1)
    return element, gained


def _values(specification: Specification, name: str, blocks: Tensor) -> Tensor:
    """What the best element within every pair of units gives: (N, H, H, m, m) -> (N, H, H)."""
    if specification.groups[name].kind in MATRICES:
        return torch.linalg.svdvals(blocks).sum(-1)
    flat = blocks.flatten(0, 2)
    return flat.gather(2, assign(flat)[..., None]).sum((1, 2)).view(blocks.shape[:3])


def assign(products: Tensor) -> Tensor:
    """The order (N, n) that maximises sum_i products[i, order[i]] of (N, n, n)."""
    from scipy.optimize import linear_sum_assignment

    matrices = products.double().numpy()
    orders = np.empty(matrices.shape[:2], dtype=np.int64)
    for row, matrix in enumerate(matrices):
        orders[row] = linear_sum_assignment(matrix, maximize=True)[1]
    return torch.from_numpy(orders)


def procrustes(products: Tensor) -> tuple[Tensor, Tensor]:
    """The orthogonal matrix R that maximises sum_ij R_ij products_ij (..., m, m), in float64, and that sum (...)."""
    u, s, v = torch.linalg.svd(products.double())
    return u @ v, s.sum(-1)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
