"""Networks predicted without a generator, against closed forms: weights that are linear in the bits, plain means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.checkpoint import content_hash
from zoo.conditions import all_conditions, bits, distance, neighbours
from zoo.derive.predict import PredictConfig, predict
from zoo.derive.ridge import PENALTIES, Bits, leave_one_out
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


def made(
    zoo: Zoo,
    kind: str,
    conditions: tuple[str, ...] = TARGETS,
    start: dict[str, torch.Tensor] | None = None,
) -> list[dict[str, torch.Tensor]]:
    settings = {"kind": kind, "conditions": conditions, "start": start and content_hash(start)}
    config = PredictConfig.model_validate(settings)
    found = predict(config, zoo, zoo.select("train"), ORIGIN, zoo.path.parent / kind, start)
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


def shared_start() -> dict[str, torch.Tensor]:
    """Where the networks of `zoo_of` come from, if a bit adds half a column of SLOPE, or takes it away."""
    values = OFFSET + SLOPE.sum(1) / 2 + 0.005
    weight = values[:4].view(2, 2)
    return {"weight": weight, "tied": weight, "norm.running_var": values[4:].abs(), "steps": torch.tensor(3)}


def test_task_arithmetic_recovers_sums_of_task_vectors(tmp_path: Path) -> None:
    found = made(zoo_of(tmp_path / "zoo", CONDITIONS), "arithmetic", start=shared_start())
    for condition, weights in zip(TARGETS, found, strict=True):
        torch.testing.assert_close(weights["weight"], network(condition)["weight"] + 0.005, rtol=1e-5, atol=1e-5)
        assert weights["tied"].data_ptr() == weights["weight"].data_ptr()
        assert weights["steps"] == 3


def test_task_arithmetic_has_no_place_for_what_all_tasks_share(tmp_path: Path) -> None:
    """From another start, tasks and their complements being seen, it is off by exactly the way from start to start."""
    pairs = tuple({*CONDITIONS, *(c.translate(str.maketrans("01", "10")) for c in CONDITIONS)} - set(TARGETS))
    both = tuple(c for c in pairs if c.translate(str.maketrans("01", "10")) in pairs)
    start = shared_start()
    moved = {**start, "weight": start["weight"] + 1.0}
    moved["tied"] = moved["weight"]
    (weights,) = made(zoo_of(tmp_path / "zoo", both), "arithmetic", TARGETS[:1], moved)
    torch.testing.assert_close(weights["weight"], network(TARGETS[0])["weight"] + 1.005, rtol=1e-5, atol=1e-5)


def test_task_arithmetic_of_one_task_is_its_projection(tmp_path: Path) -> None:
    """The shortest task vectors that give one task give another the share of it that their signs have in common."""
    seen, start = "0000011111", shared_start()
    (weights,) = made(zoo_of(tmp_path / "zoo", (seen,)), "arithmetic", ("0000011110",), start)
    expected = start["weight"] + 0.8 * (network(seen)["weight"] + 0.005 - start["weight"])
    torch.testing.assert_close(weights["weight"], expected)


def test_only_task_arithmetic_takes_a_start() -> None:
    for kind, start in (("arithmetic", None), ("ridge", "0" * 64)):
        with pytest.raises(ValueError, match="task arithmetic needs the start"):
            PredictConfig.model_validate({"kind": kind, "conditions": TARGETS, "start": start})


def noisy_zoo(path: Path, conditions: tuple[str, ...], noise: float = 1.0) -> Zoo:
    """Networks that are linear in the bits but for noise, the first task with two more checkpoints."""
    rng = torch.Generator().manual_seed(1)
    with ZooWriter(path, ORIGIN, Structure.of(network(TARGETS[0]))) as writer:
        for k, condition in enumerate((*conditions, conditions[0], conditions[0])):
            weights = network(condition)
            weight = weights["weight"] + noise * torch.randn(2, 2, generator=rng)
            weights |= {"weight": weight, "tied": weight, "norm.running_var": 1 + bits(condition)[:2]}
            writer.add(f"n{k:02d}", weights, seed=0, split="train", step=0, condition=condition)
        return writer.finish()


def test_ridge_needs_no_penalty_where_weights_are_linear_in_the_bits(tmp_path: Path) -> None:
    found = made(noisy_zoo(tmp_path / "zoo", CONDITIONS, noise=0.0), "ridge")
    for condition, weights in zip(TARGETS, found, strict=True):
        torch.testing.assert_close(weights["weight"], network(condition)["weight"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weights["norm.running_var"], 1 + bits(condition)[:2], rtol=1e-5, atol=1e-5)


def test_ridge_leaves_tasks_out_as_one_would_by_hand(tmp_path: Path) -> None:
    conditions = CONDITIONS[::5]
    zoo = noisy_zoo(tmp_path / "zoo", conditions)
    task = torch.tensor([conditions.index(str(entry.condition)) for entry in zoo.entries])
    found = leave_one_out(Bits.of(conditions), zoo, zoo.entries, task)

    x = torch.stack([bits(c) for c in conditions]).double().numpy()
    rows = [[zoo.load(e) for e in zoo.entries if e.condition == c] for c in conditions]
    y = np.stack(
        [
            np.mean(
                [np.concatenate([w[n].double().numpy().ravel() for n in ("weight", "norm.running_var")]) for w in own],
                0,
            )
            for own in rows
        ]
    )
    unit = float((np.linalg.svd(x - x.mean(0))[1] ** 2).mean())
    for penalty in PENALTIES:
        errors = []
        for k in range(len(x)):
            keep = np.arange(len(x)) != k
            mean_x, mean_y = x[keep].mean(0), y[keep].mean(0)
            centred = x[keep] - mean_x
            slope = np.linalg.solve(centred.T @ centred + penalty * unit * np.eye(10), centred.T @ (y[keep] - mean_y))
            errors.append(((mean_y + (x[k] - mean_x) @ slope - y[k]) ** 2).sum())
        assert found[penalty] == pytest.approx(np.mean(errors), rel=1e-6)
    best = min(found, key=lambda p: found[p])
    centred = x - x.mean(0)
    slope = np.linalg.solve(centred.T @ centred + best * unit * np.eye(10), centred.T @ (y - y.mean(0)))
    expected = y.mean(0) + (bits(TARGETS[0]).numpy() - x.mean(0)) @ slope
    (weights,) = made(zoo, "ridge", TARGETS[:1])
    np.testing.assert_allclose(weights["weight"].numpy().ravel(), expected[:4], rtol=1e-5, atol=1e-5)


def test_ridge_cannot_leave_out_a_task_that_alone_decides_a_bit(tmp_path: Path) -> None:
    conditions = ("1000000000", "0100000000", "0010000000")
    zoo = noisy_zoo(tmp_path / "zoo", conditions)
    task = torch.tensor([conditions.index(str(entry.condition)) for entry in zoo.entries])
    found = leave_one_out(Bits.of(conditions), zoo, zoo.entries, task)
    assert found[0.0] == float("inf")
    assert all(np.isfinite(found[penalty]) for penalty in PENALTIES[1:])
    (weights,) = made(zoo, "ridge", TARGETS[:1])
    assert bool(weights["weight"].isfinite().all())
