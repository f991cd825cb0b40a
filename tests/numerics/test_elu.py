"""The CPU's ELU against torch's: values, derivatives, and what is not a number between the two."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rpg.methods.rpg.models.elu import ELU

EDGES = (-math.inf, -1e30, -100.0, -1.0, -1e-3, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1e30, math.inf, math.nan)


def values(dtype: torch.dtype) -> Tensor:
    """(3, 4, 5), transposed in memory."""
    return (3 * torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))).transpose(0, 2).to(dtype)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 3e-16), (torch.float32, 1.2e-7), (torch.bfloat16, 4e-3)])
def test_values_and_derivatives_are_those_of_elu(dtype: torch.dtype, error: float) -> None:
    mine, theirs = (values(dtype).requires_grad_() for _ in range(2))
    upstream = values(dtype).sin()
    got, wanted = ELU()(mine), F.elu(theirs)
    torch.testing.assert_close(got, wanted, rtol=torch.finfo(dtype).eps, atol=error)
    got.backward(upstream)
    wanted.backward(upstream)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=torch.finfo(dtype).eps, atol=error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_edges(dtype: torch.dtype) -> None:
    edges = torch.tensor(EDGES, dtype=dtype)
    torch.testing.assert_close(ELU()(edges), F.elu(edges), rtol=0, atol=torch.finfo(dtype).eps, equal_nan=True)


def test_gradient_is_the_derivative() -> None:
    assert torch.autograd.gradcheck(ELU(), values(torch.float64).requires_grad_())


def test_its_input_is_kept() -> None:
    inputs = values(torch.float32)
    ELU()(inputs)
    assert torch.equal(inputs, values(torch.float32))
