"""What ten times the size costs: time and memory of a training step against L, token size and number of checkpoints.

RPG-Tiny with a small batch on synthetic tokens. All sizes are timed in turn in one run; memory is the growth of
anonymous memory at its peak, in a process of its own for each size, or what a GPU gave. `power` is the exponent p in
cost ~ size^p between the smallest and this size: 1 is linear, 0 is free. The plot is `size.svg`.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from harness import Bench, arguments, interleaved, watch
from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler
from rpg.methods.rpg.config import GeneratorConfig, TrainConfig
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.train import Batches
from rpg.processes import Processes
from zoo import cuda
from zoo.files import write_bytes

SETTINGS = TrainConfig(batch_size=4, diffusion_batch=128, precision="float32")
FACTORS = (1, 3, 10)
AXES = ("tokens", "token_size", "checkpoints")


class Size(NamedTuple):
    tokens: int
    token_size: int
    checkpoints: int

    def grown(self, axis: str, factor: int) -> Size:
        return self._replace(**{axis: getattr(self, axis) * factor})


BASE = Size(tokens=64, token_size=256, checkpoints=25)
QUICK = Size(tokens=4, token_size=16, checkpoints=2)


def write_synthetic(path: Path, size: Size) -> None:
    """Normal tokens (N, L, D), a checkpoint at a time."""
    rng = np.random.default_rng(0)
    shape = (size.checkpoints, size.tokens, size.token_size)
    tokens = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for checkpoint in tokens:
        checkpoint[:] = rng.standard_normal(checkpoint.shape, dtype=np.float32)


def stepper(tokens: Any, size: Size, device: torch.device) -> Callable[[], float]:
    """A function that does one training step, each time the next, and returns its loss."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        positions = torch.stack([torch.arange(size.tokens) // 8, torch.arange(size.tokens) % 8], dim=1)
        model = Generator(GeneratorConfig(token_size=size.token_size), positions, size.checkpoints).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)
    mask = torch.ones(size.tokens, size.token_size, dtype=torch.bool)
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    batches = Batches(SETTINGS, tokens, mask, schedule, Processes(device))
    count = 0

    def step() -> float:
        nonlocal count
        optimizer.zero_grad(set_to_none=True)
        loss = batches.backward(model, count)
        optimizer.step()
        count += 1
        return loss.item()

    return step


def first_losses(path: Path, size: Size, steps: int, device: torch.device) -> tuple[list[float], int | None]:
    """What is watched; returns losses, and the most bytes on a GPU."""
    cuda.reset_peak(device)
    step = stepper(np.load(path, mmap_mode="r"), size, device)
    return [step() for _ in range(steps)], cuda.peak(device)


def plot(rows: list[dict[str, Any]]) -> bytes:
    """Time and memory relative to the smallest size, logarithmic, beside linear growth."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, cost in zip(figure.subplots(1, 2), ("step_ms", "memory_mb"), strict=True):
        for axis in AXES:
            mine = [row for row in rows if row["axis"] == axis]
            relative = [row[cost] / mine[0][cost] for row in mine]
            axes.plot([row["factor"] for row in mine], relative, marker="o", label=axis.replace("_", " "))
        axes.plot(FACTORS, FACTORS, color="grey", linestyle="--", label="linear")
        axes.set(xscale="log", yscale="log", xlabel="size, relative", ylabel=f"{cost.replace('_', ', ')}, relative")
        axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main() -> None:
    bench = Bench("size", arguments(__doc__).parse_args())
    base = QUICK if bench.quick else BASE
    factors = FACTORS[::2] if bench.quick else FACTORS
    sizes = {(axis, factor): base.grown(axis, factor) for axis in AXES for factor in factors}
    different = list(dict.fromkeys(sizes.values()))
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder) / f"{'x'.join(map(str, size))}.npy" for size in different}
        memory = {}
        for size, path in paths.items():
            write_synthetic(path, size)
            steps = 1 if bench.quick else 3
            before, peak, (losses, on_gpu) = watch(first_losses, path, size, steps, bench.device)
            memory[size] = (peak.anonymous - before.anonymous if on_gpu is None else on_gpu) / 1e6
            same = stepper(np.load(path), size, bench.device)() == losses[0]
            bench.check(f"{size}: the loss from the mapped file is that from memory", same)
        steppers = {
            str(size): stepper(np.load(path, mmap_mode="r"), size, bench.device) for size, path in paths.items()
        }
        times = interleaved(steppers, rounds=1 if bench.quick else 7)
    for (axis, factor), size in sizes.items():
        step, used = times[str(size)].median, memory[size]
        bench.row(
            axis=axis,
            factor=factor,
            **size._asdict(),
            step_ms=step * 1e3,
            power_of_time=_power(step / times[str(base)].median, factor),
            memory_mb=used,
            power_of_memory=_power(used / memory[base], factor),
        )
    write_bytes(bench.out / "size.svg", plot(bench.rows))
    bench.finish()


def _power(growth: float, factor: int) -> float | None:
    return math.log(growth) / math.log(factor) if factor > 1 else None


if __name__ == "__main__":
    main()
