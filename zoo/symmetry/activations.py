"""What units do on images, for matching by activations: units that answer alike correspond, whatever their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from zoo.seeds import generator
from zoo.symmetry.action import Part
from zoo.symmetry.specification import MATRICES, Specification

Record: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A network's weights -> for every module of the specification's `outputs` its channels (channels, samples)."""
SAMPLES = 512  # pixels or tokens of all images, of every module's output


def recorder(
    model: nn.Module,
    load: Callable[[nn.Module, Mapping[str, Tensor]], None],
    specification: Specification,
    inputs: Tensor,
) -> Record:
    """Records what the modules of `specification.outputs` give on these inputs, in evaluation mode; of each the same
    SAMPLES positions for all networks. `load` puts weights into the model. Inputs have to be training images.
    """
    positions: dict[str, Tensor] = {}

    def record(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        load(model, weights)
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                channels = output.movedim(1, -1) if output.ndim == 4 else output
                rows = channels.flatten(0, -2)
                if name not in positions:
                    order = torch.randperm(len(rows), generator=generator(0, "positions", name))
                    positions[name] = order[torch.arange(SAMPLES) % len(rows)]
                found[name] = rows[positions[name].to(rows.device)].mT.double().cpu()

            return hook

        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in specification.outputs]
        try:
            with torch.no_grad():
                model.eval()(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return found

    return record


def standardised(specification: Specification, part: Part, outputs: Tensor) -> Tensor:
    """A part's outputs (N, *factors, samples) without their means, and, where units have scales of their own, each
    with the same spread: what is left are correlations.
    """
    centred = outputs - outputs.mean(-1, keepdim=True)
    if any(f.group and specification.groups[f.group].kind in MATRICES for f in part.dims):
        return centred
    spread = centred.norm(dim=-1, keepdim=True)
    return centred / torch.where(spread > 0, spread, 1.0)
