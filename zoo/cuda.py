"""What is asked of CUDA itself: the only file that says `torch.cuda`. All of it answers without a GPU, too."""

from __future__ import annotations

from pathlib import Path

import torch

# What Linux calls the instructions for it: two of x86's, one of Arm's.
BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}
CPUINFO = Path("/proc/cpuinfo")


def names() -> list[str]:
    """The GPUs of this machine."""
    return [torch.cuda.get_device_name(number) for number in range(count())]


def count() -> int:
    """How many there are."""
    return torch.cuda.device_count()


def available() -> bool:
    """Whether there is one that works."""
    return torch.cuda.is_available()


def name_of(device: torch.device) -> str:
    """What the device is called: of a CPU, `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def total_memory(device: torch.device) -> int | None:
    """Bytes that the device holds, used or free; not known for a CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether it does so itself, without imitating it; of GPUs, the current one. A processor of which nothing is said
    is taken to.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not CPUINFO.exists() or not BFLOAT16.isdisjoint(CPUINFO.read_text().split())


def synchronise(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def synchronise_all() -> None:
    """Wait for the current GPU, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    """Let `peak` begin here, and give back what is no longer used."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """The most bytes that tensors had on the device since `reset_peak`; not known for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
