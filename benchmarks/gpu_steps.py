"""A training step of the four sizes of Table 12, keeping activations and recomputing them, beside `rpg estimate`.

Each size trains as its settings say (`recipes/_methods`) on random tokens of a network that it is for. `tokens_per_s`
counts those of whole sequences, the batch times a network's. Shares are of the device's full rate in bfloat16, FLOPs
counted as the estimate does, what is computed again included: of its data sheet where it has one here, and of the rate
measured now. Memory is the most that tensors had in a step. With bitsandbytes missing, RPG-Large's optimiser is AdamW
with whole moments, here and in the estimate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import Bench, arguments
from rpg.devices import DEVICES, GB, Device, measure
from rpg.diffusion import make_scheduler
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.estimate import estimate
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.models.kernels import has_fast_scan
from rpg.methods.rpg.models.recompute import recompute_in
from rpg.methods.rpg.objective import objective
from rpg.methods.rpg.optimizer import make_optimizer, require_optimizer
from rpg.methods.rpg.sizes import CHECKPOINTS
from rpg.methods.rpg.train import Batches
from rpg.processes import Processes
from rpg.tokens.layout import Layout
from zoo import cuda
from zoo.errors import MissingExtra
from zoo.recipe import load_method, load_recipe
from zoo.structure import DTYPES

SIZES = (  # settings, a network that they are for
    ("rpg-tiny", "cifar10-cnn-small"),
    ("rpg-base", "vit-tiny"),
    ("rpg-small", "vit-tiny"),
    ("rpg-large", "vit-base"),
)
TINY = ("method.generator.token_size=64", "method.generator.d_model=64", "method.generator.channels=[1,4,1]")
TINY_BATCH = ("method.train.batch_size=2", "method.train.diffusion_batch=8")
STORED = 4  # checkpoints on disk; which of them a step draws costs nothing
MOST_SECONDS, MOST_STEPS = 8.0, 20  # that a row is timed for
SAME = 2e-2  # losses with and without recomputing, relative


def layout_of(network: str, config: RPGConfig) -> Layout:
    """Where the values of a recipe's network lie in tokens, with the statistics of nothing in particular."""
    structure = load_recipe(network).task.structure()
    zeros = {spec.name: torch.zeros(spec.shape, dtype=DTYPES[spec.dtype]) for spec in structure}
    return Layout.fit(structure, lambda: iter([zeros]), config.generator.token_size, config.generator.tokenisation)


def made_on(device: torch.device, config: RPGConfig, layout: Layout) -> Generator:
    """A generator that has learnt nothing, made where it is used: billions of weights take a processor minutes."""
    with device:
        return Generator(config.generator, layout.positions(), CHECKPOINTS, config.has_readout)


def settings(method: str, quick: bool) -> RPGConfig:
    """Those of a size; of one that a processor trains in no time, if `quick`."""
    config, _ = load_method(method, [*TINY, *TINY_BATCH] if quick else [])
    assert isinstance(config, RPGConfig)
    try:
        require_optimizer(config.train)
    except MissingExtra:
        config = config.model_copy(update={"train": config.train.model_copy(update={"optimizer": "adamw"})})
    return config


def known(device: Device) -> Device | None:
    """The data sheet of a measured device."""
    return next((sheet for name, sheet in DEVICES.items() if name.upper() in device.name.upper()), None)


@dataclass(frozen=True)
class Trainer:
    """A generator and all that its steps need; the learning rate is 0, so that every row takes the same steps."""

    config: RPGConfig
    layout: Layout
    device: torch.device
    tokens: np.memmap

    def rows(self, recompute: Sequence[bool], deadline: float) -> list[dict[str, Any]]:
        """Seconds of a step and peak memory, or what went wrong."""
        config = self.config
        model = made_on(self.device, config, self.layout).train()
        optimizer = make_optimizer(config.train, model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        schedule = make_scheduler(config.diffusion, "ddpm", config.diffusion.num_steps)
        mask, processes, cond = self.layout.mask(), Processes(self.device), torch.arange(STORED)
        batches = Batches(config.train, self.tokens, mask, schedule, processes, cond, objective(config))

        def step(number: int) -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = batches.backward(model, number)
            optimizer.step()
            return loss.item()  # waits for the device

        found = []
        for on in recompute:
            recompute_in(model, on)
            try:
                loss = step(0)
                cuda.reset_peak(self.device)
                seconds: list[float] = []
                until = min(time.perf_counter() + MOST_SECONDS, deadline)
                while not seconds or (time.perf_counter() < until and len(seconds) < MOST_STEPS):
                    start = time.perf_counter()
                    step(1 + len(seconds))
                    seconds.append(time.perf_counter() - start)
                found.append({"loss": loss, "seconds": seconds, "peak": cuda.peak(self.device)})
            except torch.OutOfMemoryError as error:
                found.append({"error": str(error).split(". ")[0]})
        return found


def measure_size(bench: Bench, method: str, network: str, measured: Device, folder: Path, deadline: float) -> None:
    """The two rows of a size."""
    config = settings(method, bench.quick)
    layout = layout_of(network, config)
    path = folder / f"{method}.npy"
    shape = (STORED, layout.num_tokens, layout.token_size)
    tokens = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for checkpoint in tokens:
        checkpoint[:] = np.random.default_rng(0).standard_normal(checkpoint.shape, dtype=np.float32)
    sheet = known(measured)
    shapes = [tensor.shape for tensor in layout.tensors]
    expected = {}
    for on in (True, False):
        train = config.train.model_copy(update={"recompute": "on" if on else "off"})
        changed = config.model_copy(update={"train": train})
        expected[on] = estimate(changed, GenerateConfig(), shapes, CHECKPOINTS, sheet or measured)
    fits = {on: measured.memory is None or e["training"]["bytes"] < measured.memory for on, e in expected.items()}
    tried = [on for on in (True, False) if fits[on]]
    found = dict(zip(tried, Trainer(config, layout, bench.device, tokens).rows(tried, deadline), strict=True))
    path.unlink()
    for on in (True, False):
        bench.row(**row(config, network, layout, expected[on], found.get(on), measured, sheet))
        bench.save()
    losses = [one["loss"] for one in found.values() if "loss" in one]
    if len(losses) == 2:
        bench.check(f"{method}: recomputing gives the same loss", abs(losses[0] / losses[1] - 1) < SAME)


def row(
    config: RPGConfig,
    network: str,
    layout: Layout,
    expected: dict[str, Any],
    found: dict[str, Any] | None,
    measured: Device,
    sheet: Device | None,
) -> dict[str, Any]:
    """A line of the table."""
    training, train = expected["training"], config.train
    step = peak = None
    note = "not tried: the estimate says it does not fit" if found is None else found.get("error", "")
    if found is not None and "seconds" in found:
        step, peak = float(np.median(found["seconds"])), found["peak"]
        note = f"median of {len(found['seconds'])} steps"
    flops = training["flops_per_step"]
    rate = flops / step if step else None
    return {
        "width": "x".join(map(str, config.generator.widths)),
        "network": network,
        "tokens": layout.num_tokens,
        "batch": train.batch_size,
        "precision": train.precision,
        "optimizer": train.optimizer,
        "scan": training["scan"],
        "recompute": training["recompute"],
        "step_s": step,
        "estimated_s": training["hours"] * 3600 / training["steps"],
        "tokens_per_s": train.batch_size * layout.num_tokens / step if step else None,
        "share_of_data_sheet": rate / sheet.rate(train.precision) if rate and sheet else None,
        "share_of_measured": rate / measured.rate(train.precision) if rate else None,
        "memory_gb": None if peak is None else peak / GB,
        "estimated_gb": training["bytes"] / GB,
        "note": note,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=170, help="begin no size after so many (default: 170)")
    options = parser.parse_args()
    bench = Bench("gpu_steps", options)
    deadline = time.perf_counter() + options.seconds
    measured = measure(bench.device)
    with tempfile.TemporaryDirectory() as folder:
        for method, network in SIZES[:1] if bench.quick else SIZES:
            if time.perf_counter() > deadline:
                bench.row(network=network, note=f"{method}: no time was left")
                continue
            measure_size(bench, method, network, measured, Path(folder), deadline)
    bench.finish(measured=measured.name, mamba_ssm=has_fast_scan())


if __name__ == "__main__":
    main()
