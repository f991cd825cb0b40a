"""A training step against the published algorithm, and the share of the machine's matrix rate that it reaches.

`tiny` is RPG-Tiny on networks of CNN (s)'s shapes, `wide` has d_model and token size 1,024 and 512 tokens a network;
both with batch 8. The sides have the same weights and draw the same checkpoints, tokens, levels and noise; they run in
processes of their own, in turn, each with its own way of reading tokens, its own optimiser and memory. `share` is the
project's FLOPs (`rpg estimate`) over the better of two rates that `rpg.devices.measure` finds before and after.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import published
from harness import Bench, Served, arguments, interleaved, serve
from rpg.config import DiffusionConfig
from rpg.devices import Device, measure
from rpg.diffusion import draw_noise, make_scheduler
from rpg.methods.rpg.config import GenerateConfig, GeneratorConfig, Precision, RPGConfig, TrainConfig
from rpg.methods.rpg.estimate import estimate
from rpg.methods.rpg.learnt import build_generator
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.optimizer import make_optimizer
from rpg.methods.rpg.train import Batches
from rpg.processes import Processes
from rpg.tokens.files import open_tokens, write_tokens
from rpg.tokens.layout import Layout
from zoo.networks.classifiers import create_network
from zoo.seeds import generator as seeded_generator
from zoo.structure import Structure
from zoo.training.malloc import keep_freed_memory

CHECKPOINTS = 50
CASES = {
    "tiny": (GeneratorConfig(), TrainConfig(batch_size=8)),
    "wide": (
        GeneratorConfig(token_size=1024, d_model=1024, d_state=128),
        TrainConfig(batch_size=8, diffusion_batch=256),
    ),
    "quick": (
        GeneratorConfig(token_size=64, d_model=64, head_dim=32, channels=(1, 4, 1)),
        TrainConfig(batch_size=2, diffusion_batch=8),
    ),
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
STEPS_CHECKED = 3
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}  # of a loss, relative, after steps that rounding has made differ


def network(case: str, seed: int) -> dict[str, torch.Tensor]:
    """The weights of one checkpoint."""
    if case == "wide":
        rng = seeded_generator(seed, "wide")
        return {f"layer{i}": torch.randn(256, 256, generator=rng) for i in range(8)}
    return dict(create_network("cnn_small", 10, 3, seed).state_dict())


def prepare(case: str, folder: Path) -> None:
    """What both sides read: a file per checkpoint for the published algorithm, the tokenised zoo for this project."""
    networks = [network(case, seed) for seed in range(CHECKPOINTS)]
    settings = CASES[case][0]
    layout = Layout.fit(Structure.of(networks[0]), lambda: iter(networks), settings.token_size, settings.tokenisation)
    for seed, weights in enumerate(networks):
        torch.save(weights, folder / f"{seed}.pth")
    write_tokens(folder / "tokens.npy", layout, networks, CHECKPOINTS)
    (folder / "layout.json").write_text(layout.to_json())


def published_step(settings: TrainConfig, model: Generator, layout: Layout, folder: Path) -> Callable[[int], float]:
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    length, size, mask = layout.num_tokens, layout.token_size, layout.mask()

    def step(number: int) -> float:
        rng = seeded_generator(settings.seed, "train", number)
        states = torch.randint(CHECKPOINTS, (settings.batch_size,), generator=rng)
        picked = torch.randperm(settings.batch_size * length, generator=rng)[: settings.diffusion_batch]
        levels, noise = draw_noise(schedule, len(picked), size, rng)
        tokens = published.read_tokens([folder / f"{k}.pth" for k in states.tolist()], layout).flatten(0, 1)[picked]
        kept = mask.repeat(settings.batch_size, 1)[picked]
        data = (tensor.to(model.positions.device) for tensor in (tokens, kept, levels, noise, states, picked))
        tokens, kept, levels, noise, states, picked = data
        noisy = schedule.steps.add_noise(tokens, noise, levels)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            hidden = published.prototypes(model, states).flatten(0, 1)[picked]
            estimate = published.denoise(model, noisy, levels, hidden)
            loss = (estimate - noise).square()[kept].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def project_step(settings: TrainConfig, model: Generator, layout: Layout, folder: Path) -> Callable[[int], float]:
    keep_freed_memory()
    optimizer = make_optimizer(settings, model)
    tokens = open_tokens(folder / "tokens.npy", layout, CHECKPOINTS)
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    batches = Batches(settings, tokens, layout.mask(), schedule, Processes(model.positions.device))

    def step(number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = batches.backward(model, number)
        optimizer.step()
        return loss.item()

    return step


SIDES = {"published": published_step, "project": project_step}


def serve_side(side: str, case: str, precision: str, folder: Path, device: str) -> None:
    config, settings = CASES[case]
    settings = settings.model_copy(update={"precision": precision})
    layout = Layout.parse((folder / "layout.json").read_bytes(), folder)
    model = build_generator(config, layout, CHECKPOINTS, 0).to(device).train()
    serve(SIDES[side](settings, model, layout, folder))


def compare(bench: Bench, case: str, precision: Precision, folder: Path, rounds: int) -> None:
    before = measure(bench.device)
    sides = {name: Served(__file__, name, case, precision, str(folder), str(bench.device)) for name in SIDES}
    try:
        times = interleaved({name: side.step for name, side in sides.items()}, rounds, warmup=STEPS_CHECKED)
    finally:
        for side in sides.values():
            side.stop()
    theirs, ours = (torch.tensor(side.answers[:STEPS_CHECKED]) for side in sides.values())
    same = torch.allclose(theirs, ours, rtol=TOLERANCE[precision])
    bench.check(f"{case}, {precision}: both sides' first {STEPS_CHECKED} losses agree", same)
    device = max(before, measure(bench.device), key=lambda found: found.rate(precision))
    rate = device.rate(precision)
    flops = step_flops(case, precision, folder, device)
    bench.row(
        case=case,
        precision=precision,
        published_s=times["published"].median,
        project_s=times["project"].median,
        speedup=times["project"].speedup_over(times["published"]),
        gflop=flops / 1e9,
        matrix_gflop_s=rate / 1e9,
        share=flops / times["project"].median / rate,
    )


def step_flops(case: str, precision: str, folder: Path, device: Device) -> float:
    config, settings = CASES[case]
    recipe = RPGConfig(name="rpg", generator=config, train=settings.model_copy(update={"precision": precision}))
    layout = Layout.parse((folder / "layout.json").read_bytes(), folder)
    shapes = [tensor.shape for tensor in layout.tensors]
    return float(estimate(recipe, GenerateConfig(), shapes, CHECKPOINTS, device)["training"]["flops_per_step"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--serve", nargs=5, metavar=("SIDE", "CASE", "PRECISION", "FOLDER", "DEVICE"), help="for its own use"
    )
    options = parser.parse_args()
    if options.serve:
        side, case, precision, folder, device = options.serve
        serve_side(side, case, precision, Path(folder), device)
        return
    bench = Bench("step", options)
    rounds = {"quick": 1} if bench.quick else {"tiny": 25, "wide": 5}
    for case, count in rounds.items():
        with tempfile.TemporaryDirectory() as folder:
            prepare(case, Path(folder))
            for precision in PRECISIONS:
                compare(bench, case, precision, Path(folder), count)
    bench.finish()


if __name__ == "__main__":
    main()
