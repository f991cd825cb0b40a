"""What a recipe will cost, before anything is made: tokens, parameters, memory, FLOPs and time.

From the closed forms of the generator's parts (`rpg.methods.rpg.costs`), in no time whatever the size. On CUDA the scan
is mamba-ssm's kernels where these are installed here, otherwise that in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rpg.devices import GB, Device
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.costs import Part, Pass, denoising_bytes, parameters_of, parts_of, peak
from rpg.methods.rpg.models.generator import check_states
from rpg.methods.rpg.models.kernels import has_fast_scan
from rpg.methods.rpg.optimizer import moment_bytes
from rpg.methods.rpg.sizes import adequate_sizes, beside_the_paper
from rpg.methods.rpg.windows import CHUNK, GROUP_VALUES, windows
from rpg.tokens.tokenisation import place, useful
from zoo.progress import duration

# All tokens' values that many times over are alive together while a level is denoised and while the sampler steps.
DENOISING_COPIES, SAMPLER_COPIES = 4, 9
SAMPLER_LAUNCHES, STAGE_LAUNCHES = 20, 6  # of a sampler's step, and of a stage of the denoiser
OPTIMIZER_LAUNCHES = 20  # which takes all weights together
FILLED = 0.9  # of a device's memory; the rest is its context's, its libraries', and lost between blocks


def estimate(
    config: RPGConfig, sampling: GenerateConfig, shapes: Sequence[Sequence[int]], num_states: int, device: Device
) -> dict[str, Any]:
    """The whole estimate, JSON-ready, for networks with tensors of these shapes and a zoo of `num_states` checkpoints.
    Memory is in bytes. Hours are lower bounds: the device's full matrix rate, which no step reaches, or what starting
    the kernels takes, whichever is longer.

    Raises ValueError for settings that do not fit together.
    """
    settings = config.generator
    places = place(shapes, settings.tokenisation, settings.token_size)
    length = sum(p.num_tokens for p in places)
    parameters = sum(p.numel for p in places)
    if not length:
        raise ValueError("this network has no floating-point values, so there is nothing to generate")
    config.check_draw(sampling)
    check_states(settings, num_states)
    kernels = device.cuda and has_fast_scan()
    again = recomputes(config, length, num_states, device.memory, kernels=kernels)
    with_it, without = (training(config, length, num_states, on, kernels) for on in (True, False))
    step = with_it if again else without
    lacks = device.memory is not None and step.bytes > device.memory
    remedy = None
    if lacks:
        remedy = training_remedy(config, length, num_states, device.memory, recompute=again, kernels=kernels)
    network = sampled_network(config, sampling, length, num_states, kernels)
    count, learned = parameters_of(step.parts), parameters_of(step.parts, "states")
    recurrent, denoiser = (parameters_of(step.parts, room) for room in ("recurrent", "denoiser"))
    seconds = max(step.flops / device.rate(config.train.precision), step.launches * device.launch)
    network_seconds = max(network.flops / device.float32, network.launches * device.launch)
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
            "learned_embeddings": learned,
            "readout": parameters_of(step.parts, "readout"),
            "beside_the_paper": beside_the_paper(settings, recurrent, denoiser),
        },
        "training": {
            "bytes": step.bytes,
            "bytes_whatever_the_batch": step.kept + 4 * count,
            "recompute": again,
            "bytes_recomputing": with_it.bytes,
            "bytes_keeping": without.bytes,
            "flops_recomputing": with_it.flops,
            "flops_keeping": without.flops,
            "scan": "mamba-ssm" if kernels else "pytorch",
            "remedy": remedy,
            "flops_per_step": step.flops,
            "launches_per_step": step.launches,
            "steps": config.train.steps,
            "precision": config.train.precision,
            "hours": seconds * config.train.steps / 3600,
        },
        "sampling": {
            "bytes": network.bytes,
            "flops_per_network": network.flops,
            "launches_per_network": network.launches,
            "steps": sampling.steps,
            "sampler": sampling.sampler,
            "hours_per_network": network_seconds / 3600,
        },
        "device": {
            "name": device.name,
            "flops_per_second": {"bfloat16": device.bfloat16, "float32": device.float32},
            "seconds_per_launch": device.launch,
            "bytes": device.memory,
            "source": device.source,
            "training_fits": None if device.memory is None else not lacks,
        },
    }


@dataclass(frozen=True)
class Training:
    """A step of training: bytes that are kept all the time and all that are taken at most, FLOPs, kernels launched."""

    parts: list[Part]
    kept: int
    bytes: int
    flops: int
    launches: int


def training(config: RPGConfig, length: int, num_states: int, recompute: bool, kernels: bool = False) -> Training:
    """Forward and backward of a step (train.Batches), part by part of its accumulation, and what training holds beside:
    weights, the optimiser's moments, the average of the weights.
    """
    settings = config.train
    tokens = -(-min(settings.diffusion_batch, settings.batch_size * length) // settings.accumulation)
    rows, half = settings.batch_size // settings.accumulation, settings.precision == "bfloat16"
    supervised = min(settings.prototype_batch or 0, settings.batch_size * length) // settings.accumulation
    passed = Pass(rows, length, tokens, half, recompute, kernels, supervised)
    parts = parts_of(config.generator, num_states, passed, config.has_readout)
    counts = [part.parameters for part in parts]
    kept = 4 * sum(counts) * (2 if settings.ema else 1) + moment_bytes(settings, counts)
    # From the second part of a step on there are gradients of all weights all the time.
    most = peak(parts, accumulated=settings.accumulation > 1)
    flops = settings.accumulation * sum(part.flops for part in parts)
    launches = settings.accumulation * sum(part.launches for part in parts) + OPTIMIZER_LAUNCHES
    return Training(parts, kept, kept + most, flops, launches)


def recomputes(
    config: RPGConfig, length: int, num_states: int, memory: int | None, processes: int = 1, kernels: bool = False
) -> bool:
    """Whether training recomputes: as `method.train.recompute` says, and by default where a device with so many bytes
    would not hold what is kept otherwise.
    """
    if config.train.recompute != "auto":
        return config.train.recompute == "on"
    if memory is None:
        return False
    return training(_share(config, processes), length, num_states, False, kernels).bytes > FILLED * memory


def _share(config: RPGConfig, processes: int) -> RPGConfig:
    """What one of several processes has of a step."""
    settings = config.train
    changed = {
        "batch_size": settings.batch_size // processes,
        "diffusion_batch": -(-settings.diffusion_batch // processes),
        "prototype_batch": -(-settings.prototype_batch // processes) if settings.prototype_batch else None,
    }
    return config.model_copy(update={"train": settings.model_copy(update=changed)})


def training_remedy(
    config: RPGConfig,
    length: int,
    num_states: int,
    memory: int | None,
    processes: int = 1,
    *,
    recompute: bool = True,
    kernels: bool = False,
) -> str:
    """What to set so that training needs less memory than now and, as far as is known, fits into `memory` bytes.

    Recomputing comes first, as it changes nothing but time, if it is not done already (`recompute`); then accumulation,
    which changes nothing but BatchNorm's batches; then the optimiser. Each of several processes has its part of the
    batch.
    """
    settings, least = config.train, 0
    for optimizer in dict.fromkeys([settings.optimizer, "adamw8bit"]):
        for accumulation in range(settings.accumulation, settings.batch_size // processes + 1):
            if settings.batch_size // processes % accumulation:
                continue
            changed: dict[str, Any] = {"optimizer": optimizer, "accumulation": accumulation}
            names = [f"--set method.train.{key}={new}" for key, new in changed.items() if new != getattr(settings, key)]
            names = names if recompute else ["--set method.train.recompute=on", *names]
            if not names:
                continue
            part = _share(config, processes)
            part = part.model_copy(update={"train": part.train.model_copy(update=changed)})
            least = training(part, length, num_states, True, kernels).bytes
            if memory is None or least <= memory:
                return f"use {' '.join(names)}: about {least / GB:.3g} GB"
    return (
        f"at least {least / GB:.3g} GB are needed, whatever the settings of method.train: spread the weights over "
        f"several devices with `accelerate launch --use_fsdp --fsdp_version 2` and --set method.train.optimizer=adamw, "
        f"or extend a smaller size"
    )


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
        needed = sampled_network(config, sampling.model_copy(update=changed), length, num_states).bytes
        if memory is None or needed <= memory:
            return f"use {flags}: about {needed / GB:.3g} GB"
    return "use --device cpu, or a device with more memory"


@dataclass(frozen=True)
class Sampling:
    """What one network costs: all bytes at most, weights included, FLOPs, kernels launched."""

    bytes: int
    flops: int
    launches: int


def sampled_network(
    config: RPGConfig, sampling: GenerateConfig, length: int, num_states: int, kernels: bool = False
) -> Sampling:
    """One network (generate.draw), with as many beside it as are denoised in one pass, or window by window if it is
    large. On the CPU chunks are smaller, so there the memory is an upper bound.
    """
    size = config.generator.token_size
    group = min(sampling.n, max(1, GROUP_VALUES // (length * size)))
    tokens = group * length
    chunk = min(CHUNK.get(sampling.mode, max(1, GROUP_VALUES // size)), tokens)
    passes = windows(length, size, chunk)
    window = len(passes[0]) if len(passes) > 1 else tokens
    values, waiting = 4 * window * size, 4 * (tokens - window) * size  # bytes in the pass, and prototypes beside it

    rows = 1 if config.generator.one_sequence else group
    passed = Pass(rows, length, rows * length, kernels=kernels)
    parts = parts_of(config.generator, num_states, passed, config.has_readout)
    weights = 4 * parameters_of(parts)
    made = [part for part in parts if part.room in ("states", "recurrent")]
    timing, *stages = (part for part in parts if part.room == "denoiser")
    denoised = DENOISING_COPIES * values + denoising_bytes(config.generator, chunk)
    most = max(*(part.alone for part in made), waiting + max(denoised, SAMPLER_COPIES * values))
    # Everything of the denoiser was counted for `rows` networks; a step embeds its time once.
    per_step = sum(stage.forward for stage in stages) / rows + timing.forward / (rows * length) * len(passes) / group
    steps = 0 if sampling.sampler == "readout" else sampling.steps
    flops = sum(part.forward for part in made) / group + steps * per_step
    if sampling.sampler == "readout":
        flops += parts[-1].forward / rows
    chunks = -(-window // chunk) * len(passes)
    launches = steps * (chunks * STAGE_LAUNCHES * len(stages) + len(passes) * SAMPLER_LAUNCHES) / group
    return Sampling(weights + most, round(flops), round(launches))


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
            f"denoiser {generator['denoiser']:,}, learned embeddings {generator['learned_embeddings']:,}, "
            f"read-out {generator['readout']:,}",
            *(f"            {line}" for line in generator["beside_the_paper"]),
            f"training    {training['bytes'] / GB:.2f} GB{fits}{_recomputing(training)}; "
            f"{training['flops_per_step'] / 1e12:.3g} TFLOP a step, {training['steps']:,} steps: "
            f"at least {duration(3600 * training['hours'])} in {training['precision']}{_imitated(training, rates)}",
            f"sampling    {sampling['bytes'] / GB:.2f} GB; {sampling['flops_per_network'] / 1e12:.3g} TFLOP a network "
            f"({sampling['sampler']}, {sampling['steps']} steps): at least "
            f"{duration(3600 * sampling['hours_per_network'])} in float32",
            f"device      {device['name']}{memory}: {rates['bfloat16'] / 1e12:.3g} TFLOP/s in bfloat16, "
            f"{rates['float32'] / 1e12:.3g} in float32 ({device['source']}); times are at this full rate, or those of "
            f"starting the kernels, {device['seconds_per_launch'] * 1e6:.2g} µs each",
        ]
    )


def _imitated(training: dict[str, Any], rates: dict[str, float]) -> str:
    """What to do where bfloat16 is the slower precision, as on processors that have no instructions for it."""
    if training["precision"] != "bfloat16" or rates["bfloat16"] >= rates["float32"]:
        return ""
    times = rates["float32"] / rates["bfloat16"]
    return f", in which this device takes {times:.0f} times as long: --set method.train.precision=float32"


def _recomputing(training: dict[str, Any]) -> str:
    if training["recompute"]:
        fewer = 100 * (1 - training["flops_keeping"] / training["flops_recomputing"])
        return f", recomputing ({training['bytes_keeping'] / GB:.2f} GB without, and {fewer:.0f}% fewer FLOPs)"
    if training["bytes_recomputing"] >= training["bytes"]:
        return ""
    return f" ({training['bytes_recomputing'] / GB:.2f} GB with method.train.recompute=on)"
