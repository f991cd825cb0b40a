"""Networks of the user's own: classes by reference, as `my_net:MyNet`, and those that are registered or offered by an
installed package (zoo.plugins).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import plugins
from zoo.errors import MissingData
from zoo.formats.weights import fitted, log_notes, read
from zoo.seeds import global_seed
from zoo.structure import Structure
from zoo.tasks.base import Option

KEY = "task.model"


def is_own(model: str) -> bool:
    """Whether `task.model` is not one of timm's names, or ours, which go first."""
    if plugins.REFERENCE.fullmatch(model):
        return True
    if model not in plugins.names("networks"):
        return False
    from zoo.networks.classifiers import is_known

    return not is_known(model)


def create_own(model: str, seed: int, options: Mapping[str, Option], pretrained: bool | str = False) -> nn.Module:
    """The network, on the CPU, with random weights that are a function of the seed; `options` are the keyword arguments
    of its constructor. `pretrained`: a file with weights to start from, all of them.

    Raises ValueError, in one line, for what the user did not let in, is no torch module or cannot be made; MissingData
    and Corrupt for the weights.
    """
    make = _maker(model)
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    # Not on the meta device of a caller who wants shapes alone: any constructor has to do.
    with plugins.guarded(f"{KEY} {model}({given})"), torch.device("cpu"), global_seed(seed, "build"):
        network = make(**options)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{KEY} {model} makes a {type(network).__name__}; expected a torch.nn.Module")
    if not network.state_dict():
        raise ValueError(f"{KEY} {model} has no tensors; expected a network with something to learn")
    if pretrained is True:
        raise ValueError(f"nobody has published weights of {model}; expected task.pretrained=false, or a file")
    if pretrained:
        _load(network, Path(pretrained))
    return network


def _maker(model: str) -> Any:
    if not plugins.REFERENCE.fullmatch(model):
        return plugins.find("networks", model)
    found = plugins.referred(model, KEY)
    # A reference may stand in anyone's recipe: it calls classes of networks, never another function of a module.
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{KEY} {model} is {type(found).__name__} {str(found)[:80]}; expected a torch.nn.Module class")
    return found


def _load(network: nn.Module, file: Path) -> None:
    if not file.is_file():
        raise MissingData(f"no weights at {file}; expected a .safetensors or .pth file for task.pretrained")
    weights = read(file)
    found = fitted(weights.tensors, Structure.of(network.state_dict(keep_vars=True)), str(file))
    log_notes(file, weights, found)
    network.load_state_dict(found.tensors)
