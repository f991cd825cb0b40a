"""What a recipe will cost, before anything is made: tokens, parameters, memory, FLOPs and hours.

The generator is built and a training step and a sampling step are run on tensors without memory (`rpg.meter`), with the
PyTorch scan: on CUDA mamba-ssm's kernels keep fewer intermediate tensors, so there the memory is an upper bound.
Legend: L tokens, D token size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rpg.config import GenerateConfig, RPGConfig
from rpg.devices import GB, Device
from rpg.generate import CHUNK, GROUP_VALUES, windows
from rpg.meter import Cost, cost_of, without_memory
from rpg.models.diffusion import Scheduler, diffusion_loss, make_scheduler
from rpg.models.generator import Generator
from rpg.sizes import adequate_sizes, beside_the_paper
from rpg.tokenisation import place, useful

# All tokens' values that many times over are alive together while a level is denoised and while the sampler steps.
DENOISING_COPIES, SAMPLER_COPIES = 4, 9
SHORT = 16  # tokens after which the cost of a training step of an LSTM, which runs token by token, is extrapolated


def estimate(
    config: RPGConfig, sampling: GenerateConfig, shapes: Sequence[Sequence[int]], num_states: int, device: Device
) -> dict[str, Any]:
    """The whole estimate, JSON-ready, for networks with tensors of these shapes and a zoo of `num_states` checkpoints.
    Memory is in bytes, hours are those at the device's full matrix rate, which no step reaches: lower bounds.

    Raises ValueError for settings that do not fit together.
    """
    settings = config.generator
    places = place(shapes, settings.tokenisation, settings.token_size)
    length = sum(p.num_tokens for p in places)
    parameters = sum(p.numel for p in places)
    if not length:
        raise ValueError("this network has no floating-point tensors, so there is nothing to generate")
    schedule = make_scheduler(config.diffusion, "ddpm", config.diffusion.num_steps)
    make_scheduler(config.diffusion, sampling.sampler, sampling.steps)  # refuses bad steps
    with without_memory():
        model = Generator(settings, torch.zeros(length, 2, dtype=torch.int64), num_states)
        recurrent, denoiser = (sum(p.numel() for p in part.parameters()) for part in (model.recurrent, model.denoiser))
        count = model.num_parameters
        step = training_step(config, model, schedule, length)
        network = sampled_network(config, sampling, model, length)
    weights = 4 * count
    # Weights and AdamW's two moments, then gradients with either activations or the copy that AdamW's step makes.
    trained = 3 * weights + max(step.peak, 2 * weights)
    hours = step.flops * config.train.steps / device.rate(config.train.precision) / 3600
    return {
        "network": {"parameters": parameters, "tensors": len(places), "adequate_sizes": adequate_sizes(parameters)},
        "tokens": {
            "count": length,
            "size": settings.token_size,
            "tokenisation": settings.tokenisation,
            "useful": useful(places, settings.token_size),
        },
        "generator": {
            "parameters": count,
            "recurrent": recurrent,
            "denoiser": denoiser,
            "learned_embeddings": count - recurrent - denoiser,
            "beside_the_paper": beside_the_paper(settings, recurrent, denoiser),
        },
        "training": {
            "bytes": trained,
            "bytes_whatever_the_batch": 5 * weights,
            "flops_per_step": step.flops,
            "steps": config.train.steps,
            "precision": config.train.precision,
            "hours": hours,
        },
        "sampling": {
            "bytes": weights + network.peak,
            "flops_per_network": network.flops,
            "steps": sampling.steps,
            "sampler": sampling.sampler,
            "hours_per_network": network.flops / device.float32 / 3600,
        },
        "device": {
            "name": device.name,
            "flops_per_second": {"bfloat16": device.bfloat16, "float32": device.float32},
            "bytes": device.memory,
            "source": device.source,
            "training_fits": None if device.memory is None else trained <= device.memory,
        },
    }


def training_step(config: RPGConfig, model: Generator, schedule: Scheduler, length: int) -> Cost:
    """Forward and backward of a step (rpg.train.Batches.loss); `peak` holds activations and gradients, not weights."""
    settings, size = config.train, config.generator.token_size
    tokens_in_loss = min(settings.diffusion_batch, settings.batch_size * length)

    def step_with(tokens: int) -> Cost:
        model.positions.data = torch.zeros(tokens, model.positions.shape[1])
        model.zero_grad(set_to_none=True)
        return cost_of(run)

    def run() -> None:
        clean, mask = torch.zeros(tokens_in_loss, size), torch.ones(tokens_in_loss, size, dtype=torch.bool)
        picked = torch.zeros(tokens_in_loss, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            prototypes = model.prototypes(torch.zeros(settings.batch_size, dtype=torch.int64), picked, picked)
            loss = diffusion_loss(model.denoiser, schedule, clean, mask, prototypes, torch.Generator())
        loss.backward()

    if config.generator.recurrent == "lstm" and length > 2 * SHORT:
        cost = step_with(SHORT).extrapolate(step_with(2 * SHORT), length / SHORT)
        model.positions.data = torch.zeros(length, model.positions.shape[1])
        return cost
    return step_with(length)


@torch.no_grad()
def sampled_network(config: RPGConfig, sampling: GenerateConfig, model: Generator, length: int) -> Cost:
    """One network (rpg.generate), with as many beside it as are denoised in one pass, or window by window if it is
    large; `peak` is without weights. On the CPU chunks are smaller, so there the memory is an upper bound. The model's
    denoiser is made one for sampling.
    """
    size = config.generator.token_size
    group = min(sampling.n, max(1, GROUP_VALUES // (length * size)))
    tokens = group * length
    chunk = min(CHUNK.get(sampling.mode, max(1, GROUP_VALUES // size)), tokens)
    passes = windows(length, size, chunk)
    window = len(passes[0]) if len(passes) > 1 else tokens
    values, waiting = 4 * window * size, 4 * (tokens - window) * size  # bytes in the pass, and prototypes beside it
    denoiser = model.eval().denoiser
    denoiser.fold_norms()

    def prototypes_of(count: int) -> Cost:
        model.positions.data = torch.zeros(count, model.positions.shape[1])
        return cost_of(lambda: model.prototypes(torch.zeros(group, dtype=torch.int64)))

    if config.generator.recurrent == "lstm" and length > 2 * SHORT:
        prototypes = prototypes_of(SHORT).extrapolate(prototypes_of(2 * SHORT), length / SHORT)
    else:
        prototypes = prototypes_of(length)
    noisy, time = torch.zeros(chunk, size), torch.zeros(1, size)
    denoised = cost_of(lambda: denoiser.denoise(noisy, time, noisy))
    timed = cost_of(lambda: denoiser.time_embedding(torch.zeros(1, dtype=torch.int64)))
    per_step = denoised.flops * length / chunk + timed.flops * len(passes) / group
    flops = round(prototypes.flops / group + sampling.steps * per_step)
    sampled = waiting + max(DENOISING_COPIES * values + denoised.peak, SAMPLER_COPIES * values)
    return Cost(flops, max(prototypes.peak, sampled))


def describe(name: str, found: dict[str, Any]) -> str:
    """The same for people."""
    network, tokens, generator = found["network"], found["tokens"], found["generator"]
    training, sampling, device = found["training"], found["sampling"], found["device"]
    rates = device["flops_per_second"]
    memory = "" if device["bytes"] is None else f", {device['bytes'] / GB:.0f} GB"
    fits = ", which fits" if device["training_fits"] else ""
    if device["training_fits"] is False:
        least = training["bytes_whatever_the_batch"]
        remedy = "lower rpg.train.batch_size" if least <= device["bytes"] else f"weights alone take {least / GB:.0f} GB"
        fits = f", which does not fit: {remedy}"
    return "\n".join(
        [
            f"{name}: networks of {network['parameters']:,} values in {network['tensors']} tensors; "
            f"adequate: {' or '.join(network['adequate_sizes'])} (Table 12)",
            f"tokens      {tokens['count']:,} of {tokens['size']} values by {tokens['tokenisation']}, "
            f"{100 * tokens['useful']:.1f}% useful",
            f"generator   {generator['parameters']:,} parameters: recurrent {generator['recurrent']:,}, "
            f"denoiser {generator['denoiser']:,}, learned embeddings {generator['learned_embeddings']:,}",
            *(f"            {line}" for line in generator["beside_the_paper"]),
            f"training    {training['bytes'] / GB:.2f} GB{fits}; "
            f"{training['flops_per_step'] / 1e12:.3g} TFLOP a step, {training['steps']:,} steps: "
            f"at least {training['hours']:.3g} hours in {training['precision']}",
            f"sampling    {sampling['bytes'] / GB:.2f} GB; {sampling['flops_per_network'] / 1e12:.3g} TFLOP a network "
            f"({sampling['sampler']}, {sampling['steps']} steps): {sampling['hours_per_network']:.3g} hours in float32",
            f"device      {device['name']}{memory}: {rates['bfloat16'] / 1e12:.3g} TFLOP/s in bfloat16, "
            f"{rates['float32'] / 1e12:.3g} in float32 ({device['source']}); hours are at this full rate",
        ]
    )
