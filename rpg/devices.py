"""How fast devices multiply matrices and how much they hold: data sheets, or a short measurement on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rpg.methods.rpg.config import Precision
from zoo import cuda
from zoo.errors import Failed

GB, T = 10**9, 10**12
MEASURE_SECONDS = 0.5
LAUNCH = 5e-6  # seconds that PyTorch takes on the host for an operation, about, whatever the GPU


@dataclass(frozen=True)
class Device:
    """FLOP/s of dense matrix products by precision (a multiplication and an addition are 2), memory in bytes (None: not
    known) and where the numbers come from; `launch` is what starting a kernel takes, in seconds, and `cuda` whether
    CUDA's kernels run there.
    """

    name: str
    bfloat16: float
    float32: float
    memory: int | None
    source: str
    launch: float = LAUNCH
    cuda: bool = False

    def rate(self, precision: Precision) -> float:
        return self.bfloat16 if precision == "bfloat16" else self.float32


# Without sparsity; float32 without TF32, as torch multiplies by default.
DEVICES = {
    "h100": Device(
        "H100 SXM", 989.4 * T, 66.9 * T, 80 * GB, "NVIDIA H100 data sheet and architecture white paper", cuda=True
    ),
    "h200": Device("H200 SXM", 989.4 * T, 66.9 * T, 141 * GB, "NVIDIA H200 data sheet", cuda=True),
    "a100": Device("A100 SXM 80 GB", 312 * T, 19.5 * T, 80 * GB, "NVIDIA A100 data sheet", cuda=True),
    "rtx3090": Device("RTX 3090", 71 * T, 35.6 * T, 24 * GB, "NVIDIA GA102 white paper, FP32 accumulation", cuda=True),
}


def measure(device: torch.device) -> Device:
    """This machine's rate, measured for about a second, and its memory (free memory is not looked at)."""
    on_gpu = device.type == "cuda"
    rates = {dtype: _matrix_rate(device, dtype, 8192 if on_gpu else 768) for dtype in (torch.bfloat16, torch.float32)}
    memory = cuda.total_memory(device)
    name = cuda.name_of(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    launch = _launch_seconds(device)
    return Device(name, rates[torch.bfloat16], rates[torch.float32], memory, "measured now", launch, on_gpu)


def _launch_seconds(device: torch.device, count: int = 1000) -> float:
    """What an operation on a few values takes, one of many in a row."""
    a = torch.ones(8, device=device)
    start = time.perf_counter()
    for _ in range(count):
        a = a + 1
    a[0].item()  # waits for the device
    return (time.perf_counter() - start) / count


def memory_there(device: torch.device) -> int:
    """Bytes that the device holds, used or free; of a CPU those of the machine."""
    return cuda.total_memory(device) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turn the device's being out of memory into Failed with advice, made when it is needed."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise Failed(f"{reason}; {advice()} (what was finished is kept)") from None


def _matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square product, the best of those that fit in the time."""
    a, b = torch.ones(2, size, size, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + MEASURE_SECONDS
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
