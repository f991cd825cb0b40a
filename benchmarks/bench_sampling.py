"""Sampling against the published algorithm at equal steps, and DPM-Solver++ against DDPM.

Equal steps: RPG-Tiny, untrained, ten networks of CNN (s)'s shapes, DDPM. The published algorithm makes one network per
call; time and condition are computed for every row in every step. The sides have the same weights and noise, and
processes of their own.

With `--run RUN --data-root DIR`, a trained run of a classification recipe: ten networks by DDPM with all its steps and
by DPM-Solver++ with 20, their time and mean accuracy on the test set.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import published
from harness import Bench, Served, arguments, interleaved, serve
from rpg.api import plan_generation
from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler, sample
from rpg.methods.rpg.config import GenerateConfig, GeneratorConfig
from rpg.methods.rpg.learnt import Learnt, build_generator
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.windows import chunk_size
from rpg.run import Run
from rpg.tokens.layout import Layout
from zoo.networks.classifiers import create_network
from zoo.recipe import task_of
from zoo.scoring import score, summaries
from zoo.seeds import generator as seeded_generator
from zoo.structure import Structure
from zoo.training.malloc import keep_freed_memory

NETWORKS = 10


def streams(networks: range, length: int) -> list[torch.Generator]:
    return [seeded_generator(0, "noise", k, token) for k in networks for token in range(length)]


@torch.no_grad()
def published_side(model: Generator, layout: Layout, diffusion: DiffusionConfig) -> Tensor:
    scheduler = make_scheduler(diffusion, "ddpm", diffusion.num_steps)
    signal = scheduler.steps.alphas_cumprod.double()
    made = []
    for k in range(NETWORKS):
        generators = streams(range(k, k + 1), layout.num_tokens)

        def noise(chunk: slice, _: int, generators: list[torch.Generator] = generators) -> Tensor:
            drawn = torch.stack([torch.randn(layout.token_size, generator=g) for g in generators[chunk]])
            return drawn.to(model.positions.device)

        hidden = published.prototypes(model, torch.tensor([k]))[0]
        made.append(published.sample(model, hidden, signal, 1024, noise))
    return torch.cat(made)


@torch.no_grad()
def project_side(model: Generator, layout: Layout, diffusion: DiffusionConfig) -> Tensor:
    keep_freed_memory()
    model.denoiser.fuse_conv_bn()
    prototypes = model.prototypes(torch.arange(NETWORKS)).flatten(0, 1)
    every = torch.ones(prototypes.shape, dtype=torch.bool)  # the published sampler does not know of padding
    scheduler = make_scheduler(diffusion, "ddpm", diffusion.num_steps)
    chunk = chunk_size("partial", layout.token_size, model.positions.device)
    noise = streams(range(NETWORKS), layout.num_tokens)
    return sample(model.denoiser, scheduler, prototypes, every, noise, chunk)


SIDES = {"published": published_side, "project": project_side}


def side(name: str, steps: int, device: torch.device) -> Tensor:
    """The tokens of all networks, untrained: every side has the same weights and noise."""
    weights = dict(create_network("cnn_small", 10, 3, 0).state_dict())
    layout = Layout.fit(Structure.of(weights), lambda: iter([weights]), 256, "layer")
    model = build_generator(GeneratorConfig(), layout, NETWORKS, 0).to(device).eval()
    return SIDES[name](model, layout, DiffusionConfig(num_steps=steps)).cpu()


def equal_steps(bench: Bench) -> None:
    steps = 3 if bench.quick else 50
    theirs, ours = (side(name, steps, bench.device) for name in SIDES)
    same = torch.allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    bench.check("equal steps: both sides sample the same tokens", same)
    served = {name: Served(__file__, name, str(steps), str(bench.device)) for name in SIDES}
    try:
        times = interleaved({name: one.step for name, one in served.items()}, rounds=1 if bench.quick else 7)
    finally:
        for one in served.values():
            one.stop()
    bench.row(
        networks=NETWORKS,
        steps=steps,
        published_s=times["published"].median,
        project_s=times["project"].median,
        speedup=times["project"].speedup_over(times["published"]),
    )


def fewer_steps(bench: Bench, run: Run, data_root: Path | None) -> None:
    task = task_of(run.record().origin).build(data_root, bench.device)
    levels = Learnt(run).config().diffusion.num_steps
    full = GenerateConfig(n=NETWORKS, sampler="ddpm", steps=levels)
    settings = {
        "DDPM": full,
        "DDIM": full.model_copy(update={"sampler": "ddim", "steps": 60}),
        "DPM-Solver++": full.model_copy(update={"sampler": "dpm++", "steps": 20}),
    }
    first: tuple[float, float] | None = None
    for name, config in settings.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            zoo = plan_generation(
                run, config.model_dump(mode="json"), out=Path(folder) / "zoo", device=str(bench.device)
            ).carry_out()
            seconds = time.perf_counter() - start
            scores = score(zoo, task, Path(folder) / "scores")
        summary = summaries(scores)[task.main_metric]
        first = first or (seconds, summary.mean)
        bench.row(
            run=run.path.name,
            sampler=name,
            steps=config.steps,
            networks=NETWORKS,
            seconds=seconds,
            speedup=first[0] / seconds,
            best=summary.best,
            mean=summary.mean,
            std=summary.std,
            mean_minus_ddpm=summary.mean - first[1],
        )


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--run", type=Path, help="a trained run")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RPG_DATA"), help="where its data set is")
    parser.add_argument("--serve", nargs=3, metavar=("SIDE", "STEPS", "DEVICE"), help="for its own use")
    options = parser.parse_args()
    if options.serve:
        name, steps, device = options.serve
        serve(lambda _: side(name, int(steps), torch.device(device)).sum().item())
        return
    bench = Bench("sampling", options)
    equal_steps(bench)
    if options.run:
        fewer_steps(bench, Run(options.run).require_trained(), options.data_root)
    bench.finish()


if __name__ == "__main__":
    main()
