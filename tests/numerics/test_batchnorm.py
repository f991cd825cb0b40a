"""Batch normalisation over processes equals that of the whole batch: output, gradients and running statistics."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from rpg.methods.rpg.models.batchnorm import BatchNorm

SPLITS = ((5, 3), (8, 0))  # tokens of each process
C, D = 4, 6


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs far from zero, so that a difference of squares would show, and what the output is multiplied with."""
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, C, D, generator=rng) + 50
    return inputs, torch.randn(inputs.shape, generator=rng)


def steps(layer: nn.Module, inputs: torch.Tensor, factor: torch.Tensor) -> dict[str, torch.Tensor]:
    assert isinstance(layer.weight, torch.Tensor)
    nn.init.uniform_(layer.weight, 1, 2, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        inputs = inputs.detach().requires_grad_()
        layer.zero_grad()
        output = layer(inputs)
        (output * factor).sum().backward()
    layer.eval()
    found = {"output": output, "inputs": inputs.grad, "eval": layer(inputs), **dict(layer.named_buffers())}
    return {key: value.detach() for key, value in found.items()} | {  # type: ignore[union-attr]
        f"{name}.grad": parameter.grad for name, parameter in layer.named_parameters()
    }


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for number, split in enumerate(SPLITS):
        inputs, factor = (tensor.split(split)[rank] for tensor in data())
        layer = BatchNorm(C)
        layer.together = True
        if number:  # as images
            inputs, factor = inputs[:, :, None], factor[:, :, None]
        torch.save(steps(layer, inputs, factor), f"{folder}/{number}-{rank}")
    dist.destroy_process_group()


def test_processes_together_normalise_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(process, (port, str(tmp_path)), nprocs=2)
    for number in range(len(SPLITS)):
        compare([torch.load(tmp_path / f"{number}-{rank}") for rank in range(2)])


def compare(found: list[dict[str, Any]]) -> None:
    expected = steps(nn.BatchNorm1d(C), *data())
    for name, value in expected.items():
        if name in ("output", "inputs", "eval"):
            together = torch.cat([part[name] for part in found]).view(8, C, D)
        elif name.endswith(".grad"):  # which training adds up over processes
            together = sum(part[name] for part in found)
        else:
            together = found[0][name]
            assert all(torch.equal(part[name], together) for part in found)
        torch.testing.assert_close(together, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_torchs(training: bool) -> None:
    ours, theirs = BatchNorm(C).train(training), nn.BatchNorm1d(C).train(training)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    inputs, _ = data()
    assert torch.equal(ours(inputs), theirs(inputs))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
