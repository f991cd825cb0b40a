"""Networks whose symmetries are broken at birth: of every unit a share of the weights is frozen at constants, which all
seeds share. Units are then told apart by their constants, so that networks of different seeds need no alignment.

Source: the W-asymmetric networks of Lim et al., 2024, https://arxiv.org/abs/2405.20231.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from zoo.seeds import Seed, generator
from zoo.structure import Frozen

CONSTANT = "weight_constant"
"""What a layer's buffer of constants is called: as large as its weight, and 0 where that is free."""


class Asymmetry(Frozen):
    """`share` of the incoming weights of every unit of linear layers and convolutions are constants, from a normal
    distribution of standard deviation `width` / sqrt(incoming weights). `seed` decides where they are and what.
    The others start at `random`, or at 0, so that all seeds start from the `constants` alone (and biases of their own)
    and differ by the order of their images: such networks stay nearer to one another (docs/log.md).
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    width: PositiveFloat = 1.0
    seed: Seed = 0
    start: Literal["random", "constants"] = "random"


class _Linear(nn.Linear):
    weight_constant: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, held(self.weight, self.weight_constant), self.bias)


class _Conv2d(nn.Conv2d):
    weight_constant: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, held(self.weight, self.weight_constant), self.bias)


def held(weight: Tensor, constant: Tensor) -> Tensor:
    """The weight with its constants. No gradient reaches what lies below them."""
    return torch.where(constant != 0, constant, weight)


def is_constant(name: str) -> bool:
    """Whether a tensor of a state dict is a layer's constants."""
    return name.rpartition(".")[2] == CONSTANT


def break_symmetries(network: nn.Module, asymmetry: Asymmetry) -> nn.Module:
    """The same network, changed in place: its layers hold constants, below which their weights are 0, and stay so.
    Depthwise and other grouped convolutions, norms and embeddings stay as they are.

    Raises ValueError for a network without a layer that could have constants, or with one of a kind that is unknown.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for name, module in layers:
        if type(module) not in (nn.Linear, nn.Conv2d):
            raise ValueError(f"task.asymmetry: {name} is a {type(module).__name__}; expected plain layers of torch")
    layers = [(name, module) for name, module in layers if getattr(module, "groups", 1) == 1]
    if not any(_count(module, asymmetry) for _, module in layers):
        raise ValueError(
            f"task.asymmetry: share {asymmetry.share} of no layer of {type(network).__name__} is a weight; expected "
            "linear layers or convolutions, or a larger share"
        )
    for name, module in layers:
        module.register_buffer(CONSTANT, _constants(name, module, asymmetry))
        with torch.no_grad():
            free = module.get_buffer(CONSTANT) == 0
            module.weight.mul_(free if asymmetry.start == "random" else 0)
        module.__class__ = _Linear if isinstance(module, nn.Linear) else _Conv2d
    return network


def _count(module: nn.Linear | nn.Conv2d, asymmetry: Asymmetry) -> int:
    """How many constants each unit has."""
    return round(asymmetry.share * module.weight[0].numel())


def _constants(name: str, module: nn.Linear | nn.Conv2d, asymmetry: Asymmetry) -> Tensor:
    weight = module.weight
    if weight.is_meta:
        return torch.empty_like(weight, requires_grad=False)
    rng = generator(asymmetry.seed, "asymmetry", name)
    units, incoming = weight.flatten(1).shape
    places = torch.rand((units, incoming), generator=rng).argsort(1)[:, : _count(module, asymmetry)]
    values = torch.randn(places.shape, generator=rng) * (asymmetry.width / incoming**0.5)
    return torch.zeros(units, incoming).scatter_(1, places, values).view(weight.shape).to(weight.device, weight.dtype)
