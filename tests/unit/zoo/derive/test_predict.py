"""Networks predicted without a generator, against closed forms: weights that are linear in the bits, plain means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.conditions import all_conditions, bits, distance, neighbours
from zoo.derive.predict import PredictConfig, predict
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
RNG = torch.Generator().manual_seed(0)
SLOPE, OFFSET = torch.randn(6, 10, generator=RNG), torch.randn(6, generator=RNG)
TARGETS = ("0100010111", "0000000001")
CONDITIONS = tuple(c for c in all_conditions()[::7] if c not in TARGETS)


def network(condition: str, step: int = 0) -> dict[str, torch.Tensor]:
    values = OFFSET + SLOPE @ bits(condition) + 0.01 * step
    weight = values[:4].view(2, 2)
    return {"weight": weight, "tied": weight, "norm.running_var": values[4:].abs(), "steps": torch.tensor(3)}


def zoo_of(path: Path, conditions: tuple[str, ...]) -> Zoo:
    with ZooWriter(path, ORIGIN, Structure.of(network(TARGETS[0]))) as writer:
        for condition in conditions:
            for step in (0, 1):
                id = f"{condition}-{step}"
                writer.add(id, network(condition, step), seed=0, split="train", step=step, condition=condition)
        return writer.finish()


def made(zoo: Zoo, kind: str, conditions: tuple[str, ...] = TARGETS) -> list[dict[str, torch.Tensor]]:
    config = PredictConfig.model_validate({"kind": kind, "conditions": conditions})
    found = predict(config, zoo, zoo.select("train"), ORIGIN, zoo.path.parent / kind)
    assert {entry.condition for entry in found.entries} == set(conditions)
    return [found.load(found.entry(f"{kind}-{condition}")) for condition in conditions]


def test_regression_recovers_a_linear_map(tmp_path: Path) -> None:
    for condition, weights in zip(TARGETS, made(zoo_of(tmp_path / "zoo", CONDITIONS), "regression"), strict=True):
        torch.testing.assert_close(weights["weight"], network(condition)["weight"] + 0.005, rtol=1e-5, atol=1e-5)
        assert weights["tied"].data_ptr() == weights["weight"].data_ptr()
        assert bool((weights["norm.running_var"] >= 0).all())
        assert weights["steps"] == 3


def test_regression_is_numpys_least_squares_of_least_norm(tmp_path: Path) -> None:
    few = CONDITIONS[:5]  # do not decide eleven coefficients
    zoo = zoo_of(tmp_path / "zoo", few)
    (weights,) = made(zoo, "regression", TARGETS[:1])
    x = np.array([[1, *bits(str(e.condition)).tolist()] for e in zoo.entries])
    y = np.stack([zoo.load(e)["weight"].numpy().ravel() for e in zoo.entries])
    expected = np.array([1, *bits(TARGETS[0]).tolist()]) @ np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(weights["weight"].numpy().ravel(), expected, rtol=1e-4, atol=1e-5)


def test_neighbours_are_averaged(tmp_path: Path) -> None:
    target = TARGETS[0]
    near = tuple(neighbours(target)[:3])
    (weights,) = made(zoo_of(tmp_path / "zoo", (*near, "1011101000")), "neighbours", (target,))
    expected = torch.stack([network(c, step)["weight"] for c in near for step in (0, 1)]).mean(0)
    torch.testing.assert_close(weights["weight"], expected)


def test_without_one_bit_neighbours_the_nearest_there_are(tmp_path: Path) -> None:
    target = "0000011111"
    (weights,) = made(zoo_of(tmp_path / "zoo", ("1100011111", "1110011111")), "neighbours", (target,))
    torch.testing.assert_close(weights["weight"], network("1100011111", 0)["weight"] + 0.005)


def test_nearest_is_the_last_checkpoint_of_the_closest_other_task(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "zoo", CONDITIONS)
    for condition, weights in zip(
        (*TARGETS, CONDITIONS[3]), made(zoo, "nearest", (*TARGETS, CONDITIONS[3])), strict=True
    ):
        least = min(distance(condition, other) for other in CONDITIONS if other != condition)
        first = min(other for other in CONDITIONS if distance(condition, other) == least)
        assert torch.equal(weights["weight"], network(first, 1)["weight"])


def test_no_other_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task but"):
        made(zoo_of(tmp_path / "zoo", TARGETS[:1]), "nearest", TARGETS[:1])
