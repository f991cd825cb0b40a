"""A tensor's numbers, histogram and heat map beside numpy's and a brute force; neighbours beside whole networks."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from rpg.board import tensors
from rpg.board.tensors import BINS, CELLS, distances_to, summarize_tensor

SHAPES = st.lists(st.integers(1, 7), max_size=3).map(tuple)


@given(shape=SHAPES, seed=st.integers(0, 99), piece=st.integers(1, 50), cells=st.integers(1, 5), bad=st.integers(0, 3))
def test_a_summary_is_that_of_numpy_in_pieces_of_any_size(
    shape: tuple[int, ...], seed: int, piece: int, cells: int, bad: int
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    flat = tensor.reshape(-1)
    flat[: min(bad, flat.numel() - 1)] = torch.tensor([float("nan"), float("inf"), -float("inf")])[
        : min(bad, flat.numel() - 1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "PIECE", piece)
        patch.setattr(tensors, "CELLS", cells)
        found = summarize_tensor(tensor)
    values = flat.double().numpy()
    finite = values[np.isfinite(values)]
    assert (found.count, found.not_finite) == (len(finite), len(values) - len(finite))
    assert found.mean == pytest.approx(finite.mean())
    assert found.std == pytest.approx(finite.std(), abs=1e-12)
    assert (found.low, found.high) == (finite.min(), finite.max())
    assert found.counts.sum() == len(finite)
    np.testing.assert_array_equal(found.counts, np.histogram(finite, found.edges)[0])

    matrix = values.reshape(shape[0], -1) if len(shape) > 1 else values.reshape(1, -1)
    height, width = min(matrix.shape[0], cells), min(matrix.shape[1], cells)
    assert found.cells.shape == (height, width)
    for i in range(height):
        for j in range(width):
            part = [
                matrix[r, c]
                for r in range(matrix.shape[0])
                for c in range(matrix.shape[1])
                if (r * height // matrix.shape[0], c * width // matrix.shape[1]) == (i, j) and np.isfinite(matrix[r, c])
            ]
            assert found.cells[i, j] == pytest.approx(np.mean(part)) if part else np.isnan(found.cells[i, j])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_every_dtype_has_a_summary(dtype: torch.dtype) -> None:
    found = summarize_tensor(torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype))
    assert (found.count, found.low, found.high, found.counts[0], found.counts[-1]) == (6, 0, 1, 2, 4)


@pytest.mark.parametrize("value", [0.0, 1.0, -3e30, 1e-300])
def test_equal_values_fall_into_one_bin(value: float) -> None:
    found = summarize_tensor(torch.full((5, 4), value, dtype=torch.float64))
    assert sorted(found.counts)[-2:] == [0, 20]
    assert len(found.counts) == BINS
    assert found.edges[0] < value < found.edges[-1]


def test_tensors_that_cannot_be_drawn_are_refused() -> None:
    for tensor in (torch.empty(0), torch.empty(3, 0), torch.full((2,), float("nan"))):
        with pytest.raises(ValueError, match="no finite value"):
            summarize_tensor(tensor)
    with pytest.raises(ValueError, match="too far apart"):
        summarize_tensor(torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64))


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    """64 MiB of float32 from a file, of which a copy in float64 alone would be 128 MiB."""
    file = tmp_path / "values"
    file.write_bytes(bytes(2**26))
    tensor = torch.from_file(str(file), size=2**24).reshape(64, -1)
    summarize_tensor(tensor[:, : 2**14])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = summarize_tensor(tensor)
    assert found.count == 2**24
    assert found.cells.shape == (64, CELLS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 110 * 1024  # KiB: the mapped file and pieces


def test_distances_are_those_of_whole_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [{"a": torch.randn(5, 7), "b": torch.randn(11), "n": torch.tensor(k)} for k in range(6)]
    made = zoo.from_state_dicts(networks, "made", out=tmp_path / "made")
    monkeypatch.setattr(tensors, "PIECE", 20)
    others = [entry for entry in made.entries if entry.id != made.entries[2].id]
    found = distances_to(made, made.entries[2], made, others)
    flat = [torch.cat([network["a"].reshape(-1), network["b"]]).double() for network in networks]
    expected = [float((flat[2] - flat[k]).norm()) for k in (0, 1, 3, 4, 5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    other = zoo.from_state_dicts([{"a": torch.randn(2)}], "other", out=tmp_path / "other")
    with pytest.raises(ValueError, match="holds other networks"):
        distances_to(made, made.entries[0], other, other.entries)
