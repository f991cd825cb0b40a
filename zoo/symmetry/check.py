"""The test that every specification has to pass: random elements of its groups change nothing that is computed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo.seeds import generator, global_seed
from zoo.structure import Structure
from zoo.symmetry.action import Element, act, identity, random_element
from zoo.symmetry.specification import Specification

TOLERANCE = 1e-9  # relative to the largest output, in float64


def function_change(
    network: nn.Module, specification: Specification, inputs: Tensor, seed: int = 0, only: Iterable[str] | None = None
) -> float:
    """The largest change of an output, relative to the largest output, when a random element acts on the network: in
    float64, in training and evaluation mode, from weights that are all drawn at random (biases, statistics and scales
    that are zeros and ones at the start would hide mistakes). Infinite where outputs are not finite, or all zero.
    `only`: these groups and diagonals alone.

    Raises ValueError when the specification does not fit the network's tensors.
    """
    specification.check(Structure.of(network.state_dict(keep_vars=True)))
    model = copy.deepcopy(network).double()
    rng = generator(seed, "function test")
    randomise(model, rng)
    weights = {name: tensor.detach().clone()[None] for name, tensor in model.state_dict().items()}
    element = random_element(specification, 1, rng)
    if only is not None:
        element = identity(specification, 1) | {name: element[name] for name in only}
    changed = act(specification, element, weights)
    largest = 0.0
    for training in (False, True):
        before, after = (_outputs(model, state, inputs.double(), training, seed) for state in (weights, changed))
        change = float((after - before).abs().max() / before.abs().max())
        if not math.isfinite(change):  # which no comparison would see
            return math.inf
        largest = max(largest, change)
    return largest


def holds(network: nn.Module, specification: Specification, inputs: Tensor, draws: int = 3) -> bool:
    """Whether the function stays the same under random elements, within TOLERANCE."""
    return all(function_change(network, specification, inputs, seed) < TOLERANCE for seed in range(draws))


def randomise(model: nn.Module, rng: torch.Generator) -> None:
    """Draw all floating-point tensors anew, in place: matrices as large as they were, vectors around themselves,
    variances positive.
    """
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
                if name.endswith("running_var"):
                    tensor.copy_(noise.abs() + 0.5)
                elif tensor.ndim > 1:
                    tensor.copy_(noise * float(tensor.double().pow(2).mean().sqrt() or 0.1))
                else:
                    tensor.add_(0.3 * noise)


def _outputs(model: nn.Module, weights: Element, inputs: Tensor, training: bool, seed: int) -> Tensor:
    model.load_state_dict({name: tensor[0] for name, tensor in weights.items()})
    model.train(training)
    with torch.no_grad(), global_seed(seed, "dropout"):
        return model(inputs)
