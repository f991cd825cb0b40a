"""Distances summed piece by piece, against those of whole networks in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rpg.reports import distances as module
from rpg.reports.distances import distances
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


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
    assert [one.to_heldout for one in found] == [None, None, None]


def test_distances_to_those_held_out_are_there_where_asked_for(tmp_path: Path) -> None:
    zoos = [zoo_of(tmp_path / f"{k}", count, k) for k, count in enumerate((4, 3, 2))]
    for zoo, found in zip(zoos, distances([[(zoo, zoo.entries)] for zoo in zoos], heldout=1), strict=True):
        assert found.to_heldout is not None
        np.testing.assert_allclose(found.to_heldout, brute_force(zoo, zoos[1]), rtol=1e-12)


def test_only_the_entries_asked_for_count(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", 5, 0)
    chosen = [zoo.entries[3], zoo.entries[1]]
    (found,) = distances([[(zoo, chosen)]])
    np.testing.assert_allclose(found.within, brute_force(zoo, zoo)[np.ix_([3, 1], [3, 1])], rtol=1e-12)
