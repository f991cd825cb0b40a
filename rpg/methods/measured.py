"""What methods that train modules cost, measured on their own code: a step and a draw, on tensors without memory
(rpg.meter), so that networks of any size take seconds and the numbers follow the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from rpg.devices import GB, Device, memory_there
from rpg.meter import cost_of, peak_of, without_memory
from rpg.methods.base import Estimate
from zoo.progress import duration

if TYPE_CHECKING:
    from rpg.methods.training import Optimisation

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class StageCost:
    """Training one module: its `parameters`, the most `bytes` alive at once (weights, gradients, moments, average,
    activations, batch), and of one of its `steps` the FLOPs and the operations that are started.
    """

    name: str
    parameters: int
    steps: int
    bytes: int
    flops_per_step: int
    launches_per_step: int

    def hours(self, device: Device) -> float:
        """The least that the stage takes: at the full rate in float32, or of starting operations."""
        return self.steps * seconds(device, self.flops_per_step, self.launches_per_step) / 3600


@dataclass(frozen=True)
class DrawCost:
    """Drawing: the most `bytes` alive at once, weights included, and of one network FLOPs and operations."""

    bytes: int
    flops: int
    launches: int

    def then(self, other: DrawCost) -> DrawCost:
        """Both, one after the other; the modules of both are there all the time at most."""
        return DrawCost(self.bytes + other.bytes, self.flops + other.flops, self.launches + other.launches)


def seconds(device: Device, flops: int, launches: int) -> float:
    """The least that so many FLOPs in float32 and operations take."""
    return max(flops / device.float32, launches * device.launch)


def stage_cost(
    name: str,
    build: Callable[[], Module],
    loss: Callable[[Module], Tensor],
    settings: Optimisation,
    beside: int = 0,
) -> StageCost:
    """One step of `Trainer.train`: `build()` makes the module and `loss(module)` the scalar that is minimised, batch
    included. `beside` are bytes of what else is there meanwhile, such as a module that is trained already.
    """
    with without_memory():
        module = build().train()
        parameters = [p for p in module.parameters() if p.requires_grad]

        def step() -> None:
            loss(module).backward()

        peak = peak_of(step)  # gradients are made inside
        for parameter in parameters:
            parameter.grad = None
        cost = cost_of(step)
        weights = size_of(module)
        moments = 2 * sum(p.nbytes for p in parameters)
    return StageCost(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        steps=settings.steps,
        bytes=beside + weights * (2 if settings.ema else 1) + moments + peak,
        flops_per_step=cost.flops,
        launches_per_step=cost.launches + 1,  # the optimiser takes all weights together
    )


def draw_cost(
    build: Callable[[], Module], make: Callable[[Module], object], networks: int, times: int = 1, beside: int = 0
) -> DrawCost:
    """Drawing `networks` together with the module: `make(module)`, which is done so many `times`, for a sampler's
    steps. `beside` are bytes of what else is there meanwhile.
    """
    with without_memory():
        module = build().eval()
        with torch.no_grad():
            cost = cost_of(lambda: make(module))
        weights = size_of(module)
    flops, launches = (round(times * value / networks) for value in (cost.flops, cost.launches))
    return DrawCost(beside + weights + cost.peak, flops, launches)


def check_memory(stages: Sequence[StageCost], device: torch.device, values: int, remedy: str) -> None:
    """Raise ValueError, with the remedy, when one of the stages takes more than a device holds; `values` are those of
    the networks that are learnt.
    """
    needed, there = max(stage.bytes for stage in stages), memory_there(device)
    if needed > there:
        raise ValueError(
            f"to learn networks of {values:,} values these settings take {needed / GB:,.3g} GB, and {device} has "
            f"{there / GB:,.3g} GB; {remedy}, learn a part of the network (task.trainable), or take a method for "
            "networks as large, such as --method rpg-small"
        )


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def estimated(stages: Sequence[StageCost], draw: DrawCost, device: Device, values: int, beside: int = 0) -> Estimate:
    """The whole estimate of a method that trains these stages one after the other, for networks of so many `values`;
    `beside` are the most bytes that learning takes before or between them.
    """
    hours = sum(stage.hours(device) for stage in stages)
    most = max(beside, *(stage.bytes for stage in stages))
    parameters = sum(stage.parameters for stage in stages)
    flops = sum(stage.steps * stage.flops_per_step for stage in stages)
    draw_hours = seconds(device, draw.flops, draw.launches) / 3600
    fits = None if device.memory is None else most <= device.memory
    figures = {
        "network": {"parameters": values},
        "generator": {"parameters": parameters},
        "training": {
            "bytes": most,
            "flops_per_step": max(stage.flops_per_step for stage in stages),
            "steps": sum(stage.steps for stage in stages),
            "hours": hours,
            "stages": [{**asdict(stage), "hours": stage.hours(device)} for stage in stages],
        },
        "sampling": {"bytes": draw.bytes, "flops_per_network": draw.flops, "hours_per_network": draw_hours},
        "device": {"name": device.name, "bytes": device.memory, "source": device.source, "training_fits": fits},
    }
    return Estimate(
        parameters=parameters,
        fit_bytes=most,
        fit_flops=flops,
        draw_bytes=draw.bytes,
        draw_flops=draw.flops,
        fit_hours=hours,
        figures=figures,
        text=_text(stages, draw, device, values, most, draw_hours),
    )


def _text(
    stages: Sequence[StageCost], draw: DrawCost, device: Device, values: int, most: int, draw_hours: float
) -> str:
    lines = [f"networks of {values:,} values"]
    for stage in stages:
        lines.append(
            f"{stage.name:<11} {stage.parameters:,} parameters, {stage.bytes / GB:.2f} GB; "
            f"{stage.flops_per_step / 1e12:.3g} TFLOP a step, {stage.steps:,} steps: "
            f"at least {duration(3600 * stage.hours(device))}"
        )
    memory = "" if device.memory is None else f", {device.memory / GB:.0f} GB"
    if device.memory is not None:
        memory += ", which fits" if most <= device.memory else f", which does not hold {most / GB:.3g} GB"
    return "\n".join(
        [
            *lines,
            f"sampling    {draw.bytes / GB:.2f} GB; {draw.flops / 1e12:.3g} TFLOP a network: "
            f"at least {duration(3600 * draw_hours)}",
            f"device      {device.name}{memory}: {device.float32 / 1e12:.3g} TFLOP/s in float32 ({device.source}); "
            f"times are at this full rate, or those of starting the operations, {device.launch * 1e6:.2g} µs each",
        ]
    )
