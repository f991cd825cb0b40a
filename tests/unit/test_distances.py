"""Distances summed piece by piece, against those of whole networks in memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rpg import distances as module
from rpg.distances import distances, in_step
from zoo.manifest import Origin
from zoo.store import Column, Zoo, ZooWriter
from zoo.structure import Structure, TensorSpec

ORIGIN = Origin(
    name="toy", kind="collected", task="toy", recipe="", recipe_sha256="0" * 64, command=("x",), versions={}
)
SPEC = TensorSpec(name="w", shape=(100,), dtype="float32", kind="float")


def network(rng: torch.Generator) -> dict[str, torch.Tensor]:
    weight = torch.randn(7, 5, generator=rng)
    return {
        "a.weight": weight,
        "b.half": torch.randn(11, generator=rng).bfloat16(),
        "c.steps": torch.randint(99, (), generator=rng),
        "d.scalar": torch.randn((), generator=rng, dtype=torch.float64),
        "e.tied": weight,
    }


def zoo_of(path: Path, count: int, seed: int) -> Zoo:
    rng = torch.Generator().manual_seed(seed)
    with ZooWriter(path, ORIGIN, Structure.of(network(rng))) as writer:
        for k in range(count):
            writer.add(f"n{k}", network(rng), seed=k, split="train")
        return writer.finish()


def brute_force(a: Zoo, b: Zoo) -> np.ndarray:
    """Over the tensors that are generated, tied ones once."""
    names = ("a.weight", "b.half", "d.scalar")
    rows = [
        torch.stack([torch.cat([w[n].double().reshape(-1) for n in names]) for w in zoo.checkpoints(zoo.entries)])
        for zoo in (a, b)
    ]
    found: np.ndarray = (rows[0][:, None] - rows[1][None]).square().sum(-1).sqrt().numpy()
    return found


@pytest.mark.parametrize("piece", [1, 50, 2**22])
def test_distances_are_those_of_whole_networks(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    zoos = [zoo_of(tmp_path / f"{k}", count, k) for k, count in enumerate((4, 3, 1, 2))]
    first, second, third, fourth = zoos
    groups = [[(first, first.entries)], [(second, second.entries)], [(third, third.entries), (fourth, fourth.entries)]]
    found = distances(groups)
    np.testing.assert_allclose(found[0].to_first, brute_force(first, first), rtol=1e-12, atol=0)
    np.testing.assert_allclose(found[0].within, found[0].to_first)
    np.testing.assert_allclose(found[1].to_first, brute_force(second, first), rtol=1e-12)
    np.testing.assert_allclose(found[1].within, brute_force(second, second), rtol=1e-12)
    joined = np.concatenate([brute_force(third, first), brute_force(fourth, first)])
    np.testing.assert_allclose(found[2].to_first, joined, rtol=1e-12)
    np.testing.assert_allclose(found[2].within[:1, 1:], brute_force(third, fourth), rtol=1e-12)


def test_only_the_entries_asked_for_count(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", 5, 0)
    chosen = [zoo.entries[3], zoo.entries[1]]
    (found,) = distances([[(zoo, chosen)]])
    np.testing.assert_allclose(found.within, brute_force(zoo, zoo)[np.ix_([3, 1], [3, 1])], rtol=1e-12)


@given(cuts=st.lists(st.sets(st.integers(1, 9)), min_size=1, max_size=4))
def test_streams_cut_differently_go_in_step(cuts: list[set[int]]) -> None:
    whole = [torch.arange(10.0).repeat(2, 1) + 100 * k for k in range(len(cuts))]
    streams = []
    for block, places in zip(whole, cuts, strict=True):
        ends = [0, *sorted(places), 10]
        streams.append([Column(SPEC, a, block[:, a:b]) for a, b in pairwise(ends)])
    pieces = list(in_step(streams))
    assert all(len({block.shape[1] for block in piece}) == 1 for piece in pieces)
    for k, block in enumerate(whole):
        assert torch.equal(torch.cat([piece[k] for piece in pieces], 1), block)


def test_columns_of_a_zoo_are_its_generated_values(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", 3, 0)
    columns = list(zoo.columns(zoo.entries, values=12))
    assert all(column.block.numel() <= 12 for column in columns)
    assert [spec.name for spec in dict.fromkeys(column.spec for column in columns)] == [
        "a.weight",
        "b.half",
        "d.scalar",
    ]
    for name in ("a.weight", "b.half", "d.scalar"):
        joined = torch.cat([column.block for column in columns if column.spec.name == name], 1)
        whole = torch.stack([weights[name].reshape(-1) for weights in zoo.checkpoints(zoo.entries)])
        assert joined.dtype == whole.dtype
        assert torch.equal(joined, whole)
