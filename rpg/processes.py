"""Wraps accelerate, the only module that imports it: processes that train together, one per device, and trackers.

`accelerate launch` starts the processes; by itself a program is one. They see the same files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rpg.methods.rpg.models.batchnorm import BatchNorm
from zoo.errors import MissingExtra, suggest

TRACKERS = {"tensorboard": "rpg-zoo[track]", "wandb": "wandb", "trackio": "trackio"}  # and what to install
KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")  # of accelerate's distributed types, those known to work


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_sharded() -> bool:
    """Whether the weights are spread over the processes: `accelerate launch --use_fsdp --fsdp_version 2`.

    Raises ValueError for the first version of FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("this is FSDP 1, which is not supported; use `accelerate launch --use_fsdp --fsdp_version 2`")
    return True


def ignored_options() -> list[str]:
    """Options of `accelerate launch` that ask for what is not done here."""
    asked = {
        "--mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no",
        "--gradient_accumulation_steps": os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1",
        "--fsdp_auto_wrap_policy": os.environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP") != "NO_WRAP",
        "--fsdp_offload_params": os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true",
        "--fsdp_activation_checkpointing": os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true",
    }
    return [option for option, is_asked in asked.items() if is_asked]


def require_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown tracker, MissingExtra for one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--track {name} is not a tracker{suggest(name, TRACKERS)}")
        if find_spec(name) is None:
            raise MissingExtra(f"--track {name} needs {name}: `pip install '{TRACKERS[name]}'`")


class Processes:
    """This process among those that train together: the `rank`-th of `count`, on its `device`."""

    def __init__(self, device: torch.device, trackers: Sequence[str] = (), logs: Path | None = None) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        self.count = world_size()
        if self.count > 1 and device.index is not None:
            raise ValueError(f"--device {device} is one device for {self.count} processes; try --device {device.type}")
        self._accelerator = Accelerator(
            # Alone, a process needs no device from accelerate; precision is the recipe's, whatever the launcher says.
            cpu=device.type == "cpu" or self.count == 1,
            mixed_precision="no",
            log_with=list(trackers) or None,
            project_dir=logs,
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy of them
                # The others wait while the first tokenises. (When one fails, the launcher ends the others at once.)
                InitProcessGroupKwargs(timeout=timedelta(hours=2)),
            ],
        )
        if self._accelerator.distributed_type.value not in KINDS:
            raise ValueError(
                f"accelerate launches {self._accelerator.distributed_type.value}; use several CPUs or GPUs, or FSDP 2"
            )
        self.rank = self._accelerator.process_index
        self.device = device if self.count == 1 else self._accelerator.device
        self._trackers = bool(trackers)

    def wrap(self, model: nn.Module, units: Sequence[nn.Module]) -> nn.Module:
        """The model whose `forward` and `backward` average gradients over the processes. Parameters and names of
        `model` itself stay; where FSDP is asked for they are sharded, and gathered unit by unit when needed, so
        units are to be used through their `forward` alone. Make the optimiser after this.
        """
        if self.count == 1:
            return model
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.together = True
        if not is_sharded():
            return self._accelerator.prepare_model(model)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        for unit in (*units, model):
            fully_shard(unit, mesh=mesh)
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, gradients are added up in each process and not yet averaged: there is more to come for this step.
        (Sharded ones are averaged each time: kept whole, they would take the memory that accumulation is to save.)
        """
        return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def start_trackers(self, name: str, identity: str, step: int) -> None:
        """Open the trackers for a run that goes on after `step`. What TensorBoard has beyond is hidden; the others know
        a run again by its name or identity.
        """
        if self._trackers:
            options = {
                "tensorboard": {"purge_step": step + 1},
                "wandb": {"id": identity, "resume": "allow"},
                "trackio": {"name": identity, "resume": "allow"},
            }
            self._accelerator.init_trackers(name, init_kwargs=options)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values to the trackers, if there are any, from the first process."""
        if self._trackers:
            self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Close trackers and leave the others."""
        self._accelerator.end_training()
