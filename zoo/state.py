"""Training state as plain tensors, so that a run can be stopped anywhere and its state never needs pickle.

Randomness needs no place in it: every draw is a function of (seed, step), see zoo.seeds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.checkpoint import content_hash, load_tensors, save_tensors
from zoo.errors import Corrupt


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write model, optimiser and the number of finished steps atomically to one safetensors file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None}
    tensors["step"] = torch.tensor(step)
    save_tensors(path, tensors | {"sha256": _digest(tensors)})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_state` wrote, in place; returns the number of finished steps. Raises Corrupt when the file is
    not as it was written.
    """
    tensors = load_tensors(path)
    digest = tensors.pop("sha256", None)
    if digest is None or not torch.equal(digest, _digest(tensors)):
        raise Corrupt(f"{path} has changed since it was written; remove it to start this training again")
    step = int(tensors.pop("step"))
    weights: dict[str, Tensor] = {}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "model":
            weights[rest] = tensor
        else:
            index, _, key = rest.partition(".")
            slots.setdefault(int(index), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _digest(tensors: dict[str, Tensor]) -> Tensor:
    return torch.tensor(list(bytes.fromhex(content_hash(tensors))), dtype=torch.uint8)
