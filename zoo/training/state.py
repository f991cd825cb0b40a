"""Training state as plain tensors, so that training can be stopped anywhere and its state never needs pickle.

It holds no state of random generators: every draw is a function of (seed, step), see zoo.seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint import content_hash, load_tensors, save_tensors
from zoo.errors import Corrupt

NOTHING: Mapping[str, Tensor] = {}


def pack_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    extra: Mapping[str, Tensor] = NOTHING,
    keep: bool = True,
) -> dict[str, Tensor]:
    """Model, optimiser, extra tensors and the number of finished steps as tensors on the CPU. There they are those that
    training goes on to change: write or send them first.

    Of several processes all must call this, for sharded tensors are gathered; those that do not `keep` the result get
    nothing.
    """
    tensors = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    tensors |= {f"extra.{name}": tensor for name, tensor in extra.items()}
    # optimizer.state rather than state_dict(): bitsandbytes nests the latter. Its step is a number, not a tensor.
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif value is not None:
                tensors[f"number.{index}.{key}"] = torch.tensor(value)
    tensors["step"] = torch.tensor(step)
    return {name: tensor.cpu() for name, tensor in gather_full(tensors, keep).items()}


def unpack_state(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Tensor] = NOTHING,
) -> int:
    """The inverse of `pack_state`, in place; returns the number of finished steps."""
    current, parameters = model.state_dict(), _parameters(optimizer)
    weights: dict[str, Tensor] = {}
    slots: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        index, _, key = rest.partition(".")
        if owner == "model":
            weights[rest] = _sharded_like(tensor, current[rest])
        elif owner == "extra":
            extra[rest].copy_(_sharded_like(tensor, extra[rest]))
        elif owner == "number":
            slots.setdefault(int(index), {})[key] = tensor.item()
        elif owner == "optimizer":
            slots.setdefault(int(index), {})[key] = _sharded_like(tensor, parameters[int(index)])
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


def gather_full(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """The tensors, on the CPU where they were sharded, gathered one by one from all processes. All must call this;
    those that do not `keep` the result get nothing.
    """
    gathered: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "full_tensor"):  # a DTensor
            tensor = tensor.full_tensor().cpu()
        if keep:
            gathered[name] = tensor
    return gathered


def _sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, if `like` is sharded and has its shape (an optimiser's step has not)."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.tensor(list(bytes.fromhex(content_hash(tensors))), dtype=torch.uint8)
