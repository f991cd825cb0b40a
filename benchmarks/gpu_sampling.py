"""Tables 7 and 13 of the paper: time and memory of generating one network, by mode and by sampler.

Steps cost alike, so one step and a few are timed and the rest is counted: `seconds_per_step` is the difference, and
`minutes` those of all the steps of the table, from there on. Networks are made as `rpg generate` makes them, from a
generator that has learnt nothing, which costs the same; decoding is in, writing files is not. Memory is the most that
tensors had, the generator included. The paper's numbers are of one H100 with 80 GB.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from gpu_steps import TINY, known, layout_of, made_on
from torch import Tensor

from harness import Bench, arguments
from rpg.devices import GB, Device, measure
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.estimate import estimate
from rpg.methods.rpg.generate import Member, Sampling
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.objective import objective, sampling_schedule
from rpg.methods.rpg.sizes import CHECKPOINTS
from rpg.methods.rpg.windows import chunk_size
from rpg.tokens.layout import Layout
from zoo import cuda
from zoo.progress import progress
from zoo.recipe import load_method

MODES = ("partial", "full", "sequential")
TABLE_13 = {  # minutes and GB of 1,000 steps of DDPM, by mode
    "vit-tiny": {"sequential": (9.8, 6.2), "partial": (1.1, 10.3), "full": (1.1, 19.4)},
    "resnet18": {"sequential": (18.6, 6.3), "partial": (1.8, 10.3), "full": (1.7, 30.8)},
    "convnext-atto": {"sequential": (6.8, 6.2), "partial": (0.9, 10.3), "full": (0.9, 15.2)},
    "vit-small": {"sequential": (33.8, 6.4), "partial": (2.9, 10.5), "full": (2.9, 45.9)},
    "resnet50": {"sequential": (38.0, 6.4), "partial": (3.3, 10.5), "full": (3.3, 50.5)},
}
TABLE_7 = {  # minutes by steps of DDIM; GB
    "vit-base": ({5: 0.5, 20: 0.6, 60: 0.8, 100: 1.1, 200: 1.8}, 20.7),
    "convnext-large": ({5: 0.5, 20: 0.7, 60: 1.3, 100: 2.0, 200: 3.5}, 21.6),
}
FEW = 3  # steps that are timed, beside one
SAME = 1e-2  # distance of tokens by different modes, relative: convolutions are in TF32 on a GPU


class Timed(NamedTuple):
    """Seconds of the first step, with all that comes once, and of each further one; the most bytes on the device."""

    first: float
    each: float
    peak: int | None


class Maker:
    """A generator for one network, and how it makes it."""

    def __init__(self, method: str, network: str, device: torch.device, quick: bool) -> None:
        config, _ = load_method(method, TINY if quick else [])
        assert isinstance(config, RPGConfig)
        self.config, self.device, self.network = config, device, network
        self.layout: Layout = layout_of(network, config)
        self.generator: Generator = made_on(device, config, self.layout).eval()
        self.generator.denoiser.fuse_conv_bn()

    def make(self, request: GenerateConfig) -> Tensor:
        """One network's tokens (L, D), decoded on the way."""
        member = Member("made", (0,), torch.tensor(0), 0, ())
        chunk = chunk_size(request.mode, self.layout.token_size, self.device)
        schedule = sampling_schedule(self.config, request)
        with progress(f"making {self.network}", 1, show=False) as bar, torch.no_grad():
            goal, layout = objective(self.config), self.layout
            sampling = Sampling(self.generator, goal, layout, None, schedule, 0, chunk, bar)
            prototypes_1LD = self.generator.prototypes(member.cond[None])
            made = []
            for window in sampling.windows():
                prototypes_1KD = prototypes_1LD[:, window.start : window.stop]
                made.append(sampling.denoise([member], window, prototypes_1KD)[0])
                for _ in layout.decode_window(made[-1], window.start):
                    pass
        return torch.cat(made)

    def timed(self, request: GenerateConfig) -> tuple[Timed, Tensor]:
        """What the first step and each further one took, and the tokens after the few steps."""
        self.make(request.model_copy(update={"steps": 1}))  # loads kernels
        cuda.reset_peak(self.device)
        seconds = []
        for steps in (1, 1, 1 + FEW):
            cuda.synchronise(self.device)
            start = time.perf_counter()
            tokens = self.make(request.model_copy(update={"steps": steps}))
            cuda.synchronise(self.device)
            seconds.append(time.perf_counter() - start)
        one = min(seconds[:2])
        return Timed(one, (seconds[2] - one) / FEW, cuda.peak(self.device)), tokens


def row(maker: Maker, request: GenerateConfig, measured: Device, timed: Timed) -> dict[str, Any]:
    """A line of the table, for all the steps of `request`; the estimate is of the device's data sheet."""
    shapes = [tensor.shape for tensor in maker.layout.tensors]
    device = replace(known(measured) or measured, memory=measured.memory)
    expected = estimate(maker.config, request, shapes, CHECKPOINTS, device)["sampling"]
    return {
        "network": maker.network,
        "tokens": maker.layout.num_tokens,
        "mode": request.mode,
        "sampler": request.sampler,
        "steps": request.steps,
        "seconds_per_step": timed.each,
        "minutes": (timed.first + timed.each * (request.steps - 1)) / 60,
        "estimated_minutes": expected["hours_per_network"] * 60,
        "memory_gb": None if timed.peak is None else timed.peak / GB,
        "estimated_gb": expected["bytes"] / GB,
    }


def table_13(bench: Bench, measured: Device, network: str, deadline: float) -> None:
    maker = Maker("rpg-tiny" if bench.quick else "rpg-base", network, bench.device, bench.quick)
    first: Tensor | None = None
    for mode in MODES:
        if time.perf_counter() > deadline:
            bench.row(table=13, network=network, mode=mode, note="no time was left")
            continue
        request = GenerateConfig.model_validate({"n": 1, "sampler": "ddpm", "steps": 1000, "mode": mode})
        timed, tokens = maker.timed(request)
        minutes, gigabytes = TABLE_13[network][mode] if network in TABLE_13 else (None, None)
        found = row(maker, request, measured, timed)
        bench.row(table=13, **found, paper_minutes=minutes, paper_gb=gigabytes)
        bench.save()
        if first is None:
            first = tokens
            continue
        same = float((tokens - first).norm() / first.norm()) < SAME
        bench.check(f"{network}: {mode} makes the tokens that {MODES[0]} makes", same)


def table_7(bench: Bench, measured: Device, network: str) -> None:
    maker = Maker("rpg-tiny" if bench.quick else "rpg-large", network, bench.device, bench.quick)
    published, gigabytes = TABLE_7.get(network, ({5: None}, None))
    request = GenerateConfig(n=1, sampler="ddim", steps=5)
    timed, _ = maker.timed(request)
    for steps, minutes in published.items():
        found = row(maker, request.model_copy(update={"steps": steps}), measured, timed)
        bench.row(table=7, **found, paper_minutes=minutes, paper_gb=gigabytes)
        bench.save()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="begin nothing after so many (default: 120)")
    options = parser.parse_args()
    bench = Bench("gpu_sampling", options)
    deadline = time.perf_counter() + options.seconds
    measured = measure(bench.device)
    small = ["cifar10-cnn-small"]
    first, *others = small if bench.quick else list(TABLE_13)
    table_13(bench, measured, first, deadline)
    for network in small if bench.quick else TABLE_7:  # before the others, which are like the first
        if time.perf_counter() > deadline:
            bench.row(table=7, network=network, note="no time was left")
            continue
        table_7(bench, measured, network)
    for network in others:
        if time.perf_counter() > deadline:
            bench.row(table=13, network=network, note="no time was left")
            continue
        table_13(bench, measured, network, deadline)
    bench.finish(measured=measured.name)


if __name__ == "__main__":
    main()
