"""Flow matching against the closed form of Gaussians: velocity field, sampler, training; PCA against the plain SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rpg.methods.components import Components
from rpg.methods.flow import Sampler, Velocity, VelocityConfig, flow_loss, integrate

MEAN, DEVIATION, SIGMA = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]), 0.5


def optimal(points: Tensor, times: Tensor) -> Tensor:
    """E[x1 - x0 | x_t] for x0 ~ N(0, SIGMA^2), x1 ~ N(MEAN, DEVIATION^2): linear regression within a joint Gaussian."""
    t = times[:, None]
    covariance = t * DEVIATION**2 - (1 - t) * SIGMA**2
    variance = (1 - t) ** 2 * SIGMA**2 + t**2 * DEVIATION**2
    return MEAN + covariance / variance * (points - t * MEAN)


@pytest.mark.parametrize("sampler", ["euler", "midpoint", "rk4"])
def test_the_sampler_with_the_optimal_field_gives_the_gaussian(sampler: Sampler) -> None:
    """This field carries x0 to MEAN + DEVIATION / SIGMA * x0."""
    start = SIGMA * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = integrate(optimal, start, {"euler": 2500, "midpoint": 100, "rk4": 40}[sampler], sampler)
    torch.testing.assert_close(found, MEAN + DEVIATION / SIGMA * start, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_samplers_converge_at_their_order(sampler: Sampler, order: int) -> None:
    """y' = -(1 + t) y^2 is solved by y0 / (1 + y0 (t + t^2 / 2))."""
    start = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    errors = [
        float(
            (integrate(lambda y, t: -(1 + t[:, None]) * y**2, start, steps, sampler) - start / (1 + 1.5 * start)).abs()[
                1
            ]
        )
        for steps in (40, 80)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_training_comes_near_the_optimal_field() -> None:
    """Its excess over the least possible loss is the squared distance of the fields: a hundredth of what there is."""
    torch.manual_seed(0)
    field = Velocity(2, VelocityConfig(steps=1, batch_size=1, learning_rate=1, hidden=(64, 64), dropout=0))
    optimizer = torch.optim.AdamW(field.parameters(), 5e-3, fused=True)
    draw = torch.Generator().manual_seed(1)

    def pairs(n: int) -> tuple[Tensor, Tensor, Tensor]:
        source = SIGMA * torch.randn(n, 2, generator=draw)
        return source, MEAN + DEVIATION * torch.randn(n, 2, generator=draw), torch.rand(n, generator=draw)

    for step in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 400)
        optimizer.zero_grad()
        source, clean, times = pairs(256)
        flow_loss(field, source, clean, times, torch.zeros(256, 2)).backward()
        optimizer.step()
    source, clean, times = pairs(4000)
    points = (1 - times[:, None]) * source + times[:, None] * clean
    with torch.no_grad():
        found, best = field(points, times), optimal(points, times)
        assert float((found - best).square().mean()) < 0.01 * float((clean - source).square().mean())
        made = integrate(field, SIGMA * torch.randn(4000, 2, generator=draw), 20, "rk4")
    assert made.mean(0).tolist() == pytest.approx(MEAN.tolist(), abs=0.15)
    assert made.std(0).tolist() == pytest.approx(DEVIATION.tolist(), rel=0.1)


def test_points_have_their_noise_and_targets_have_none() -> None:
    seen = []

    def velocity(points: Tensor, times: Tensor) -> Tensor:
        seen.append(points)
        return torch.zeros_like(points)

    source, clean, noise = torch.tensor([[2.0]]), torch.tensor([[6.0]]), torch.tensor([[0.5]])
    loss = flow_loss(velocity, source, clean, torch.tensor([0.25]), noise)  # type: ignore[arg-type]  # as good as one
    assert seen[0].item() == 3.5
    assert loss.item() == 16.0


@pytest.mark.parametrize(
    ("size", "hidden", "time", "millions"),
    [
        (26_506, (512, 256, 512), 64, 27.5),
        (26_506, (64, 32, 64), 64, 3.4),
        (99, (512, 256, 512), 64, 0.40),
        (99, (1024, 512, 1024), 128, 1.41),
        (272_474, (512, 256, 512), 64, 279.6),
        (99, (1024, 512, 1024, 1024), 64, 2.4),
    ],
)
def test_its_parameters_are_as_many_as_those_of_the_published_models(size, hidden, time, millions) -> None:
    config = VelocityConfig(steps=1, batch_size=1, learning_rate=1, hidden=hidden, time_width=time)
    with torch.device("meta"):
        count = sum(p.numel() for p in Velocity(size, config).parameters())
    digits = len(str(millions).partition(".")[2])
    assert round(count / 1e6, digits) == millions or abs(count / 1e6 - millions) < 0.06


@pytest.fixture
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(7, 40)) @ np.diag(np.linspace(0.1, 3, 40)) + 5).astype(np.float32)


def test_components_are_those_of_a_singular_value_decomposition(vectors, monkeypatch) -> None:
    monkeypatch.setattr("rpg.methods.components.COLUMN_VALUES", 7 * 9)  # five pieces
    mean = vectors.astype(np.float64).mean(0)
    left, values, right = np.linalg.svd(vectors - mean, full_matrices=False)
    found = Components.fit(vectors, 3)
    assert found.principal.variances.tolist() == pytest.approx((values[:3] ** 2 / 6).tolist())
    codes = left[:, :3] * values[:3]
    np.testing.assert_allclose(np.abs(found.codes.numpy()), np.abs(codes), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.encode(torch.from_numpy(vectors)), found.codes)
    new = torch.randn(4, 40, generator=torch.Generator().manual_seed(1)) + 5
    wanted = mean + (new.double().numpy() - mean) @ right[:3].T @ right[:3]
    torch.testing.assert_close(found.decode(found.encode(new)), torch.from_numpy(wanted).float(), rtol=1e-5, atol=1e-5)


def test_all_components_give_the_training_vectors_back(vectors) -> None:
    given = torch.from_numpy(vectors)
    found = Components.fit(vectors, 6)
    torch.testing.assert_close(found.decode(found.encode(given)), given, rtol=1e-5, atol=1e-5)


def test_twins_have_components_that_are_nothing() -> None:
    """Vectors that span less than N - 1 dimensions: the round trip is exact, not a division by zero."""
    given = torch.tensor([[1.0, 2, 3], [1, 2, 3], [4, 4, 4], [4, 4, 4]])
    found = Components.fit(given.numpy(), 3)
    torch.testing.assert_close(found.decode(found.encode(given)), given)
