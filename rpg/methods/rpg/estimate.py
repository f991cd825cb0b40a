"""What a recipe will cost, before anything is made: tokens, parameters, memory, FLOPs and hours.

The generator is built and a training step and a sampling step are run on tensors without memory (`rpg.meter`), with the
PyTorch scan: on CUDA mamba-ssm's kernels keep fewer intermediate tensors, so there the memory is an upper bound.
Legend: L tokens, D token size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rpg.devices import GB, Device
from rpg.diffusion import Scheduler, draw_noise, make_scheduler, squared_error
from rpg.meter import Cost, cost_of, without_memory
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.objective import objective, sampling_schedule
from rpg.methods.rpg.optimizer import moment_bytes
from rpg.methods.rpg.sizes import adequate_sizes, beside_the_paper
from rpg.methods.rpg.windows import CHUNK, GROUP_VALUES, windows
from rpg.tokens.tokenisation import place, useful
from zoo.conditions import BITS

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
    sampling_schedule(config, sampling)  # refuses bad steps
    with without_memory():
        model = Generator(settings, torch.zeros(length, 2, dtype=torch.int64), num_states, config.has_readout)
        recurrent, denoiser = (sum(p.numel() for p in part.parameters()) for part in (model.recurrent, model.denoiser))
        count = model.num_parameters
        kept = kept_bytes(config, model)
        step = training_step(config, model, schedule, length)
        network = sampled_network(config, sampling, model, length)  # last, since it makes the denoiser one for sampling
    trained = kept + step.peak
    lacks = device.memory is not None and trained > device.memory
    weights = 4 * count
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
            "bytes_whatever_the_batch": kept + weights,
            "remedy": training_remedy(config, length, num_states, device.memory) if lacks else None,
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
            "training_fits": None if device.memory is None else not lacks,
        },
    }


def kept_bytes(config: RPGConfig, model: Generator) -> int:
    """What training holds all the time: weights, the optimiser's moments, the average of the weights."""
    copies = 2 if config.train.ema else 1
    return 4 * model.num_parameters * copies + moment_bytes(config.train, model)


def training_step(config: RPGConfig, model: Generator, schedule: Scheduler, length: int) -> Cost:
    """Forward and backward of a step (train.Batches); `peak` holds activations and gradients, not weights."""
    settings, size = config.train, config.generator.token_size
    checkpoints = settings.batch_size // settings.accumulation
    measured = min(settings.accumulation, 2)  # the second adds to the first's gradients; the others do the same
    tokens_in_loss = -(-min(settings.diffusion_batch, settings.batch_size * length) // settings.accumulation)

    def step_with(tokens: int) -> Cost:
        model.positions.data = torch.zeros(tokens, model.positions.shape[1])
        model.zero_grad(set_to_none=True)
        cost = cost_of(parts)
        return Cost(cost.flops * settings.accumulation // measured, cost.peak)

    def parts() -> None:
        for _ in range(measured):
            part()

    def part() -> None:
        clean, mask = torch.zeros(tokens_in_loss, size), torch.ones(tokens_in_loss, size, dtype=torch.bool)
        picked = torch.zeros(tokens_in_loss, dtype=torch.int64)
        index = (_cond(config, checkpoints), picked, picked)
        levels, noise = draw_noise(schedule, tokens_in_loss, size, torch.Generator())
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            error = squared_error(model, schedule, clean, mask, levels, noise, *index, objective=objective(config))
            loss = error / clean.numel()
        loss.backward()

    if config.generator.recurrent == "lstm" and length > 2 * SHORT:
        cost = step_with(SHORT).extrapolate(step_with(2 * SHORT), length / SHORT)
        model.positions.data = torch.zeros(length, model.positions.shape[1])
        return cost
    return step_with(length)


def _cond(config: RPGConfig, checkpoints: int) -> torch.Tensor:
    """What the generator is told of so many checkpoints."""
    if config.generator.condition == "binary":
        return torch.zeros(checkpoints, BITS)
    return torch.zeros(checkpoints, dtype=torch.int64)


def training_remedy(config: RPGConfig, length: int, num_states: int, memory: int | None, processes: int = 1) -> str:
    """What to set so that training needs less memory than now and, as far as is known, fits into `memory` bytes.

    Accumulation comes first, as it changes nothing but BatchNorm's batches; then the optimiser. Each of several
    processes has its part of the batch.
    """
    settings = config.train
    share = {
        "batch_size": settings.batch_size // processes,
        "diffusion_batch": -(-settings.diffusion_batch // processes),
    }
    least = 0
    for optimizer in dict.fromkeys([settings.optimizer, "adamw8bit"]):
        for accumulation in range(settings.accumulation, share["batch_size"] + 1):
            changed: dict[str, Any] = {"optimizer": optimizer, "accumulation": accumulation}
            names = [f"--set method.train.{key}={new}" for key, new in changed.items() if new != getattr(settings, key)]
            if share["batch_size"] % accumulation or not names:
                continue
            train = settings.model_copy(update=changed | share)
            least = _training_bytes(config.model_copy(update={"train": train}), length, num_states)
            if memory is None or least <= memory:
                return f"use {' '.join(names)}: about {least / GB:.3g} GB"
    return (
        f"at least {least / GB:.3g} GB are needed, whatever the settings of method.train: spread the weights over "
        f"several devices with `accelerate launch --use_fsdp --fsdp_version 2` and --set method.train.optimizer=adamw, "
        f"or extend a smaller size"
    )


def _training_bytes(config: RPGConfig, length: int, num_states: int) -> int:
    schedule = make_scheduler(config.diffusion, "ddpm", config.diffusion.num_steps)
    with without_memory():
        model = Generator(config.generator, torch.zeros(length, 2, dtype=torch.int64), num_states, config.has_readout)
        return kept_bytes(config, model) + training_step(config, model, schedule, length).peak


def sampling_remedy(
    config: RPGConfig, sampling: GenerateConfig, length: int, num_states: int, memory: int | None
) -> str:
    """What to set so that sampling needs less memory than now and, as far as is known, fits into `memory` bytes."""
    modes = ("full", "partial", "sequential")
    fewer = [mode for mode in modes if modes.index(mode) > modes.index(sampling.mode)]
    candidates: list[tuple[str, dict[str, Any]]] = [(f"--mode {mode}", {"mode": mode}) for mode in fewer]
    if sampling.n > 1:
        candidates.append((f"--mode {modes[-1]} -n 1", {"mode": modes[-1], "n": 1}))
    for flags, changed in candidates:
        with without_memory():
            model = Generator(
                config.generator, torch.zeros(length, 2, dtype=torch.int64), num_states, config.has_readout
            )
            needed = 4 * model.num_parameters
            needed += sampled_network(config, sampling.model_copy(update=changed), model, length).peak
        if memory is None or needed <= memory:
            return f"use {flags}: about {needed / GB:.3g} GB"
    return "use --device cpu, or a device with more memory"


@torch.no_grad()
def sampled_network(config: RPGConfig, sampling: GenerateConfig, model: Generator, length: int) -> Cost:
    """One network (generate.draw), with as many beside it as are denoised in one pass, or window by window if it is
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
    denoiser.fuse_conv_bn()

    def prototypes_of(count: int) -> Cost:
        model.positions.data = torch.zeros(count, model.positions.shape[1])
        return cost_of(lambda: model.prototypes(_cond(config, group)))

    if config.generator.recurrent == "lstm" and length > 2 * SHORT:
        prototypes = prototypes_of(SHORT).extrapolate(prototypes_of(2 * SHORT), length / SHORT)
    else:
        prototypes = prototypes_of(length)
    noisy, time = torch.zeros(chunk, size), torch.zeros(1, size)
    denoised = cost_of(lambda: denoiser.denoise(noisy, time, noisy))
    timed = cost_of(lambda: denoiser.time_embedding(torch.zeros(1, dtype=torch.int64)))
    per_step = denoised.flops * length / chunk + timed.flops * len(passes) / group
    steps = 0 if sampling.sampler == "readout" else sampling.steps
    flops = round(prototypes.flops / group + steps * per_step)
    sampled = waiting + max(DENOISING_COPIES * values + denoised.peak, SAMPLER_COPIES * values)
    return Cost(flops, max(prototypes.peak, sampled))


def describe(found: dict[str, Any]) -> str:
    """The same for people."""
    network, tokens, generator = found["network"], found["tokens"], found["generator"]
    training, sampling, device = found["training"], found["sampling"], found["device"]
    rates = device["flops_per_second"]
    memory = "" if device["bytes"] is None else f", {device['bytes'] / GB:.0f} GB"
    fits = ", which fits" if device["training_fits"] else ""
    if device["training_fits"] is False:
        fits = f", which does not fit: {training['remedy']}"
    return "\n".join(
        [
            f"networks of {network['parameters']:,} values in {network['tensors']} tensors; "
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
