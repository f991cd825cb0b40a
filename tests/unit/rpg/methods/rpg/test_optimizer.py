"""The optimisers, what they keep, how their state goes through a file, and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rpg.methods.rpg.config import TrainConfig
from rpg.methods.rpg.optimizer import make_optimizer, moment_bytes, require_optimizer
from rpg.methods.training import EMA
from zoo.errors import MissingExtra
from zoo.training.state import pack_state, read_state, unpack_state, write_state


def network() -> nn.Module:
    """With tensors above and below bitsandbytes' smallest for 8 bits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 300), nn.BatchNorm1d(300), nn.Linear(300, 17))


def eight_bits(model: nn.Module) -> torch.optim.Optimizer:
    pytest.importorskip("bitsandbytes")
    return make_optimizer(TrainConfig(optimizer="adamw8bit", learning_rate=1e-2), model)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(TrainConfig(learning_rate=1e-2), model)


class Quantised(torch.optim.Optimizer):
    """Stands in for bitsandbytes: moments as bytes with a scale and a shared table, the step as a plain number."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 1e-2})
        self.table = torch.linspace(-1, 1, 256)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state |= {"state1": torch.full_like(parameter, 127, dtype=torch.uint8), "absmax1": torch.ones(1)}
                state |= {"qmap1": self.table, "step": 0}
            state["step"] += 1
            assert type(state["step"]) is int
            moment = state["qmap1"][state["state1"].long()] * state["absmax1"] * 0.9 + parameter.grad
            parameter -= 1e-2 * moment / state["step"]
            state["absmax1"] = moment.abs().max()[None]
            state["state1"] = ((moment / state["absmax1"] + 1) * 127.5).round().to(torch.uint8)

    def load_state_dict(self, content: dict[str, Any]) -> None:  # as bitsandbytes: without casting bytes to float32
        parameters = self.param_groups[0]["params"]
        self.state.update({parameters[index]: dict(slots) for index, slots in content["state"].items()})


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        average.update(model)


@pytest.mark.parametrize("kind", [adamw, eight_bits, Quantised])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resumed_training_equals_uninterrupted(
    tmp_path: Path, kind: Callable[[nn.Module], torch.optim.Optimizer], stop: int
) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, EMA]:
        model = network()
        return model, kind(model), EMA(model, 0.9)

    whole, first, resumed = fresh(), fresh(), fresh()
    steps(*whole, 0, 8)
    steps(*first, 0, stop)
    write_state(tmp_path / "state", pack_state(*first[:2], stop, first[2].values))
    assert unpack_state(read_state(tmp_path / "state"), *resumed[:2], resumed[2].values) == stop
    steps(*resumed, stop, 8)
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name], tensor)
        assert torch.equal(resumed[2].values[name], whole[2].values[name])


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_moments_take_the_bytes_that_are_counted(kind: Any) -> None:
    if kind == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    model, settings = network(), TrainConfig(optimizer=kind)
    optimizer = make_optimizer(settings, model)
    steps(model, optimizer, EMA(model, 0.9), 0, 1)
    slots = [value for state in optimizer.state.values() for key, value in state.items() if not key.startswith("qmap")]
    held = sum(slot.numel() * slot.itemsize for slot in slots if isinstance(slot, torch.Tensor) and slot.dim())
    assert held == moment_bytes(settings, [parameter.numel() for parameter in model.parameters()])


def test_a_missing_library_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpg.methods.rpg.optimizer.find_spec", lambda name: None)
    require_optimizer(TrainConfig())
    with pytest.raises(MissingExtra, match=r"pip install 'rpg-zoo\[opt\]'"):
        require_optimizer(TrainConfig(optimizer="adamw8bit"))


def test_the_average_is_torchs_from_the_initial_weights_on() -> None:
    model = network()
    average, optimizer = EMA(model, 0.8), adamw(model)
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    expected.update_parameters(model)  # the first copies
    for step in range(5):
        steps(model, optimizer, average, step, step + 1)
        expected.update_parameters(model)
    for name, value in expected.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(average.values[name], value)
    assert average.values["1.num_batches_tracked"] == 5
