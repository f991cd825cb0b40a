"""Training state as plain tensors, so that a run can be stopped anywhere and its state never needs pickle.

Randomness needs no place in it: every draw is a function of (seed, step), see zoo.seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.checkpoint import content_hash, load_tensors, save_tensors
from zoo.errors import Corrupt


def pack_state(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Tensor]:
    """Model, optimiser and the number of finished steps as tensors on the CPU. On the CPU they are those that training
    goes on to change: write or send them first.
    """
    tensors = {f"model.{name}": tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.cpu() for key, value in values.items() if value is not None}
    return tensors | {"step": torch.tensor(step)}


def unpack_state(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The inverse of `pack_state`, in place; returns the number of finished steps."""
    weights: dict[str, Tensor] = {}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "model":
            weights[rest] = tensor
        elif owner == "optimizer":
            index, _, key = rest.partition(".")
            slots.setdefault(int(index), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def write_state(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a packed state atomically to one safetensors file."""
    save_tensors(path, {**tensors, "sha256": _digest(tensors)})


def read_state(path: Path) -> dict[str, Tensor]:
    """What `write_state` wrote. Raises Corrupt when the file is not as it was written."""
    tensors = load_tensors(path)
    digest = tensors.pop("sha256", None)
    if digest is None or not torch.equal(digest, _digest(tensors)):
        raise Corrupt(f"{path} has changed since it was written; remove it to start this training again")
    return tensors


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write model, optimiser and the number of finished steps atomically to one safetensors file."""
    write_state(path, pack_state(model, optimizer, step))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_state` wrote, in place; returns the number of finished steps. Raises Corrupt when the file is
    not as it was written.
    """
    return unpack_state(read_state(path), model, optimizer)


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.tensor(list(bytes.fromhex(content_hash(tensors))), dtype=torch.uint8)
