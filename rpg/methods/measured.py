"""What a method that trains one module costs, measured on tensors without memory by the code that trains and draws."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from rpg.devices import GB, Device, memory_of
from rpg.meter import cost_of, peak_of, without_memory
from rpg.methods.base import Estimate
from rpg.methods.training import Optimisation

Module = TypeVar("Module", bound=nn.Module)


def parameters_of(build: Callable[[], nn.Module]) -> int:
    """How many parameters a module has, without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def kept_bytes(parameters: int, settings: Optimisation) -> int:
    """What training keeps of float32 parameters whatever it computes: them, AdamW's two moments, an average."""
    return 4 * parameters * (4 if settings.ema else 3)


def check_memory(
    build: Callable[[], nn.Module], settings: Optimisation, device: torch.device, values: int, remedy: str
) -> None:
    """Raise ValueError, with the remedy, when a module and its optimiser alone are more than a device holds; `values`
    are those of the networks it is for.
    """
    memory = memory_of(device) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parameters = parameters_of(build)
    needed = kept_bytes(parameters, settings) + 4 * parameters  # and gradients
    if needed > memory:
        raise ValueError(
            f"for networks of {values:,} values this method has {parameters:,} parameters, which take "
            f"{needed / GB:,.0f} GB with gradients and moments, and {device} has {memory / GB:,.0f} GB; {remedy}, or "
            "another method (`rpg methods`)"
        )


def measured(
    build: Callable[[], Module],
    loss: Callable[[Module], Tensor],
    draw: Callable[[Module], object],
    settings: Optimisation,
    device: Device,
    times: int = 1,
    beside: int = 0,
) -> Estimate:
    """The estimate of a module that is trained by `loss` (a step's, of a batch it makes itself) and that makes a
    network by calling `draw` so many `times`, with so many bytes `beside`. Everything is called on tensors that have
    shapes alone, whatever their size.
    """
    with without_memory():
        module = build()
        parameters = sum(parameter.numel() for parameter in module.parameters())

        def step() -> None:
            module.zero_grad(set_to_none=True)
            loss(module.train()).backward()

        def network() -> None:
            with torch.no_grad():
                draw(module.eval())

        flops, peak = cost_of(step).flops, peak_of(step)
        module.zero_grad(set_to_none=True)
        draw_flops, draw_peak = times * cost_of(network).flops, beside + peak_of(network)
    fit_flops, fit_bytes = flops * settings.steps, kept_bytes(parameters, settings) + peak
    draw_bytes, hours = 4 * parameters + draw_peak, flops * settings.steps / device.float32 / 3600
    text = (
        f"{parameters:,} parameters; training takes {fit_bytes / GB:.3g} GB and at least {hours:.2g} hours on "
        f"{device.name} ({settings.steps:,} steps of {flops / 1e9:,.3g} GFLOP); drawing a network takes "
        f"{draw_bytes / GB:.3g} GB and {draw_flops / 1e9:,.3g} GFLOP"
    )
    fits = None if device.memory is None else fit_bytes <= device.memory
    if device.memory is not None and not fits:
        text += f"; {device.name} has {device.memory / GB:.0f} GB: out of memory"
    found = Estimate(parameters, fit_bytes, fit_flops, draw_bytes, draw_flops, hours)
    known = {key: value for key, value in vars(found).items() if key not in ("figures", "text")}
    return replace(found, figures={**known, "training_fits": fits}, text=text)
