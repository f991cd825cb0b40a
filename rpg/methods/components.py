"""Principal components of a run's vectors, without their basis: from the Gram matrix, all of PCA that has to see every
value (Turk and Pentland 1991).

A code's vector is a combination of the training vectors, which stay in the run. Both directions read them a piece at a
time, so memory does not grow with the networks, and there are no k x D numbers to keep beside the N x D that are there.

Legend: N training networks, D values of a vector, k components, n vectors given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.checkpoint import load_tensors, save_tensors
from zoo.columns import COLUMN_VALUES
from zoo.derive.mixtures import Principal
from zoo.errors import Corrupt

NOTHING = 1e-12  # of the first component's variance: a component with less is rounding, and codes have zero there


class Components:
    """The first k principal components of `training`, vectors float32 (N, D)."""

    def __init__(self, training: np.ndarray, principal: Principal) -> None:
        self.training, self.principal = training, principal

    @classmethod
    def fit(cls, training: np.ndarray, rank: int) -> Components:
        """0 < `rank` < N."""
        gram = torch.zeros(len(training), len(training), dtype=torch.float64)
        for piece in _pieces(training):
            centred = piece - piece.mean(0)
            gram.addmm_(centred, centred.T)
        return cls(training, Principal.of(gram, rank, training.shape[1]))

    def save(self, path: Path) -> None:
        """Keep all but the training vectors."""
        save_tensors(path, {"variances": self.principal.variances, "codes": self.principal.codes.contiguous()})

    @classmethod
    def load(cls, training: np.ndarray, path: Path) -> Components:
        """What `save` kept. Raises Corrupt when these are no components of so many vectors."""
        found = load_tensors(path)
        variances, codes = found.get("variances"), found.get("codes")
        if (
            variances is None
            or codes is None
            or codes.shape != (len(training), *variances.shape)
            or any(tensor.dtype != torch.float64 or not tensor.isfinite().all() for tensor in (variances, codes))
        ):
            raise Corrupt(f"{path} has no components of {len(training)} networks; remove {path.parent} and train again")
        return cls(training, Principal(variances, codes, 0.0))

    @property
    def codes(self) -> Tensor:
        """Of the training vectors, float64 (N, k), in the vectors' own unit: their variances are the components'."""
        return self.principal.codes * self.principal.variances.sqrt()

    @property
    def units(self) -> Tensor:
        """The same over their deviations, so that each has variance 1, or 0 along a component that is nothing."""
        return self.principal.codes * self.alive

    @property
    def alive(self) -> Tensor:
        """Which components are something, bool (k,)."""
        return self._inverse_deviations > 0

    def encode_units(self, given: Tensor) -> Tensor:
        """Those of any vectors (n, D), float64 (n, k)."""
        return self.encode(given) * self._inverse_deviations

    @property
    def _inverse_deviations(self) -> Tensor:
        """Of each component, float64 (k,); 0 for one that is nothing."""
        variances = self.principal.variances
        return torch.where(variances > NOTHING * variances[0], variances, torch.inf).rsqrt()

    def encode(self, given: Tensor) -> Tensor:
        """Coordinates of any vectors (n, D) along the components, float64 (n, k)."""
        inner = torch.zeros(len(given), len(self.training), dtype=torch.float64)
        start = 0
        for piece in _pieces(self.training):
            mean = piece.mean(0)
            inner.addmm_(given[:, start : start + piece.shape[1]].double() - mean, (piece - mean).T)
            start += piece.shape[1]
        return inner @ self.principal.codes * self._inverse_deviations / (len(self.training) - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors of these coordinates (n, k), float32 (n, D)."""
        units = codes.double() * self._inverse_deviations
        coefficients = torch.stack([self.principal.coefficients(unit) for unit in units])
        found, start = torch.empty(len(codes), self.training.shape[1]), 0
        for piece in _pieces(self.training):
            found[:, start : start + piece.shape[1]] = coefficients @ piece
            start += piece.shape[1]
        return found


def piece_bytes() -> int:
    """What a pass over the training vectors takes at most: a piece in float32, in float64, and centred."""
    return 20 * COLUMN_VALUES


def _pieces(training: np.ndarray) -> Iterator[Tensor]:
    """The same columns of all vectors at a time, float64 (N, columns)."""
    width = max(1, COLUMN_VALUES // len(training))
    for start in range(0, training.shape[1], width):
        yield torch.from_numpy(np.array(training[:, start : start + width])).double()
