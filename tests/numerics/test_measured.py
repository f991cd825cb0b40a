"""What training and drawing with a module cost, against counts by hand; of modules that no machine here holds, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rpg.devices import DEVICES
from rpg.methods.measured import draw_cost, estimated, stage_cost
from rpg.methods.training import Optimisation

SETTINGS = Optimisation(steps=100, batch_size=8, learning_rate=1e-3)


def linear() -> nn.Module:
    return nn.Linear(30, 20, bias=False)


def squared(module: nn.Module) -> Tensor:
    return module(torch.ones(8, 30)).square().sum()


def test_a_step_of_a_linear_map_by_hand() -> None:
    """Forward and the gradient of the weights are a matrix product each; inputs need no gradient. At the end of the
    step the batch, the output, its gradient twice (of the square, of its sum) and the gradient of the weights live.
    """
    found = stage_cost("map", linear, squared, SETTINGS)
    assert (found.parameters, found.steps) == (600, 100)
    assert found.flops_per_step == 2 * 2 * 8 * 30 * 20
    weights, batch, output = 4 * 600, 4 * 8 * 30, 4 * 8 * 20
    assert 4 * weights + batch + output <= found.bytes <= 4 * weights + batch + 5 * output + 64
    averaged = stage_cost("map", linear, squared, SETTINGS.model_copy(update={"ema": 0.9}), beside=1000)
    assert averaged.bytes == found.bytes + weights + 1000


def test_a_draw_is_shared_by_the_networks_that_are_made_together() -> None:
    once = draw_cost(linear, lambda m: m(torch.ones(8, 30)), networks=8)
    assert once.flops == 2 * 30 * 20
    assert once.bytes == 4 * (600 + 8 * 30 + 8 * 20)
    assert draw_cost(linear, lambda m: m(torch.ones(8, 30)), networks=8, times=7).flops == 7 * once.flops


def test_what_no_machine_holds_takes_no_memory() -> None:
    stages = [
        stage_cost(name, lambda: nn.Linear(10**8, 1000), lambda m: m(torch.ones(1, 10**8)).sum(), SETTINGS)
        for name in ("first", "second")
    ]
    draw = draw_cost(lambda: nn.Linear(10**8, 1000), lambda m: m(torch.ones(1, 10**8)), networks=1)
    found = estimated(stages, draw, DEVICES["h100"], values=10**8)
    assert found.parameters == 2 * (10**11 + 1000)
    assert found.fit_bytes > 4 * 4e11
    assert found.fit_flops == 2 * 100 * 2 * 2 * 10**11
    assert found.fit_hours == pytest.approx(found.fit_flops / DEVICES["h100"].float32 / 3600)
    assert found.figures["device"]["training_fits"] is False
    assert "does not hold" in found.text
