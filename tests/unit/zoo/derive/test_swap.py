"""Exchanged parts, by networks whose every value says which of the two it is from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.derive.swap import SwapConfig, layers_of, split_of, swap
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
LAYERS = ("a", "b.0", "b.1", "scale")


def network(value: float) -> dict[str, torch.Tensor]:
    """Layers a, b.0 (with a running variance and a counter), b.1 (tied to a), and a tensor outside of modules."""
    value = float(value)
    weight = torch.full((400, 50), value)
    return {
        "a.weight": weight,
        "a.bias": torch.full((400,), value),
        "b.0.weight": torch.full((30,), value),
        "b.0.running_var": torch.full((30,), value),
        "b.0.steps": torch.tensor(int(value)),
        "b.1.bias": torch.full((7,), value).half(),
        "b.1.tied": weight,
        "scale": torch.full((3,), value),
    }


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(1))) as writer:
        for value in (1, 2, 3):
            writer.add(f"net-{value}", network(value), seed=value, split="train")
        return writer.finish()


def made(zoo: Zoo, name: str = "made", **settings: object) -> Zoo:
    first, other = zoo.entry("net-1"), zoo.entry("net-2")
    return swap(SwapConfig(**settings), zoo, first, other, ORIGIN, zoo.path.parent / name)  # type: ignore[arg-type]


def test_layers_are_exchanged_whole(zoo: Zoo) -> None:
    assert tuple(layers_of(zoo.structure)) == LAYERS
    result = made(zoo, parts="layer", shares=(0.0, 0.5, 1.0), n=12)
    chosen = set()
    for entry in result.entries:
        weights = result.load(entry)
        found = {}
        for name, tensor in weights.items():
            if name not in ("b.0.steps", "b.1.tied"):
                assert len(tensor.unique()) == 1, name
                found.setdefault(name.rpartition(".")[0] or name, set()).add(float(tensor.flatten()[0]))
        assert all(len(values) == 1 for values in found.values()), "a layer is of one network"
        taken = frozenset(layer for layer, values in found.items() if values == {2.0})
        assert len(taken) == {"share-0": 0, "share-0.5": 2, "share-1": 4}[entry.split]
        assert weights["b.1.tied"] is weights["a.weight"]
        assert weights["b.0.steps"] == 1  # constants are the first network's
        assert entry.parents == (zoo.entry("net-1").sha256, zoo.entry("net-2").sha256)
        chosen |= {taken} if entry.split == "share-0.5" else set()
    assert len(chosen) > 2, "which layers is drawn anew for each network"


def test_single_values_are_exchanged_with_the_asked_probability(zoo: Zoo) -> None:
    result = made(zoo, parts="random", shares=(0.25,), n=3)
    maps = [result.load(entry)["a.weight"] == 2 for entry in result.entries]
    for taken in maps:
        assert taken.double().mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / taken.numel()) ** 0.5)
        # Independent from value to value: neighbours are taken together as often as by chance.
        assert (taken[:, 1:] & taken[:, :-1]).double().mean() == pytest.approx(1 / 16, abs=0.01)
    assert not torch.equal(maps[0], maps[1])


def test_a_network_depends_on_seed_share_and_number_alone(zoo: Zoo) -> None:
    few = made(zoo, "few", parts="random", shares=(0.5,), n=2)
    many = made(zoo, "many", parts="random", shares=(0.1, 0.5), n=4)
    other = made(zoo, "other", parts="random", shares=(0.5,), n=2, seed=1)
    of_half = [entry.sha256 for entry in many.entries if entry.split == split_of(0.5)]
    assert [entry.sha256 for entry in few.entries] == of_half[:2]
    assert not {entry.sha256 for entry in few.entries} & {entry.sha256 for entry in other.entries}


def test_what_makes_no_sense_is_refused(zoo: Zoo) -> None:
    with pytest.raises(ValueError, match="net-1 is given twice"):
        swap(SwapConfig(), zoo, zoo.entry("net-1"), zoo.entry("net-1"), ORIGIN, zoo.path.parent / "made")
    with pytest.raises(ValueError, match="different shares"):
        SwapConfig(shares=(0.1, 0.1))
    made(zoo, shares=(0.5,), n=2)
    with pytest.raises(ValueError, match=r"holds another zoo: swap\.n 2 -> 3"):
        made(zoo, shares=(0.5,), n=3)


def test_a_share_of_few_layers_is_one_at_least(zoo: Zoo) -> None:
    """Of none there would be copies of the first network, which score as well as that."""
    assert all(
        any(float(tensor.flatten()[0]) == 2 for tensor in made_of.values())
        for made_of in made(zoo, parts="layer", shares=(0.05,), n=3)
    )
