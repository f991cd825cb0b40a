"""`rpg estimate`: its numbers against the generator, its optimiser and its samplers themselves, and the four sizes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rpg.config import DiffusionConfig
from rpg.devices import DEVICES, Device, measure
from rpg.diffusion import draw_noise, make_scheduler, sample, squared_error
from rpg.meter import cost_of
from rpg.methods.rpg.config import GenerateConfig, GeneratorConfig, RPGConfig, TrainConfig
from rpg.methods.rpg.estimate import (
    describe,
    estimate,
    recomputes,
    sampling_remedy,
    training,
    training_remedy,
)
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.sizes import SIZES, adequate_sizes, size_of
from rpg.methods.rpg.windows import windows
from rpg.tokens.layout import generated
from zoo.errors import MissingExtra
from zoo.recipe import load_method, load_recipe, method_names, recipe_names
from zoo.structure import Structure

SHAPES = [(20, 30), (30,), (5, 5)]  # 19 + 1 + 1 tokens of 32
DEVICE = Device("toy", bfloat16=1e12, float32=1e11, memory=10**9, source="made up")


def small(**settings: Any) -> RPGConfig:
    options = {"token_size": 32, "d_model": 32, "d_state": 8, "head_dim": 16, "channels": (1, 4, 1), **settings}
    return RPGConfig(
        name="rpg",
        generator=GeneratorConfig.model_validate(options),
        train=TrainConfig(batch_size=3, steps=100, diffusion_batch=40, precision="float32"),
    )


@pytest.mark.parametrize("recurrent", ["mamba", "lstm", "transformer", "none"])
@pytest.mark.parametrize("other", [{}, {"positions": "learned", "permutation_state": "learned"}])
def test_numbers_are_those_of_a_real_training_step(recurrent: str, other: dict[str, str]) -> None:
    config = small(recurrent=recurrent, **other)
    found = estimate(config, GenerateConfig(n=2, steps=7), SHAPES, 5, DEVICE)
    assert found["tokens"] == {"count": 21, "size": 32, "tokenisation": "layer", "useful": pytest.approx(655 / 672)}

    generator = Generator(config.generator, torch.zeros(21, 2, dtype=torch.int64), 5)
    parts = found["generator"]
    assert parts["parameters"] == generator.num_parameters
    assert parts["recurrent"] + parts["denoiser"] + parts["learned_embeddings"] == generator.num_parameters
    optimizer = torch.optim.AdamW(generator.parameters())
    schedule = make_scheduler(config.diffusion, "ddpm", 1000)

    def step() -> None:
        picked = torch.randperm(63)[:40]
        index = (torch.tensor([0, 1, 2]), picked // 21, picked % 21)
        tokens, mask = torch.zeros(40, 32), torch.ones(40, 32, dtype=torch.bool)
        noise = draw_noise(schedule, 40, 32, torch.Generator())
        (squared_error(generator, schedule, tokens, mask, *noise, *index) / mask.numel()).backward()

    real = cost_of(step)
    assert found["training"]["flops_per_step"] == real.flops
    optimizer.step()
    held = [*generator.parameters(), *(t for s in optimizer.state.values() for t in s.values() if t.dim())]
    held_bytes = sum(tensor.numel() * tensor.itemsize for tensor in held)
    assert held_bytes < found["training"]["bytes"] == pytest.approx(held_bytes + real.peak, rel=0.25)  # a tiny step
    assert found["training"]["hours"] == pytest.approx(found["training"]["launches_per_step"] * 5e-6 * 100 / 3600)


def with_train(config: RPGConfig, **settings: Any) -> RPGConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def test_the_average_and_the_eight_bits_are_counted() -> None:
    def training(**settings: Any) -> dict[str, Any]:
        return estimate(with_train(small(), **settings), GenerateConfig(steps=1), SHAPES, 3, DEVICE)

    plain = training()
    weights = plain["generator"]["parameters"]
    assert training(ema=0.9)["training"]["bytes"] - plain["training"]["bytes"] == 4 * weights
    assert 0 < plain["training"]["bytes"] - training(optimizer="adamw8bit")["training"]["bytes"] < 6 * weights


def test_accumulation_takes_the_memory_of_a_part_and_the_work_of_all() -> None:
    config = with_train(small(recurrent="none"), batch_size=4, diffusion_batch=40)  # nothing is common to the sequences
    whole, parts = (
        estimate(with_train(config, accumulation=n), GenerateConfig(steps=1), SHAPES, 3, DEVICE)["training"]
        for n in (1, 4)
    )
    assert parts["flops_per_step"] == pytest.approx(whole["flops_per_step"], rel=1e-6)
    always = parts["bytes_whatever_the_batch"]
    assert always < parts["bytes"] < always + (whole["bytes"] - always) / 2


@pytest.mark.parametrize("processes", [1, 2])
def test_the_remedy_for_training_is_the_least_that_fits(processes: int) -> None:
    config = with_train(small(), batch_size=12, diffusion_batch=40)
    part = with_train(config, batch_size=12 // processes, diffusion_batch=40 // processes, recompute="on")
    needs = {
        n: estimate(with_train(part, accumulation=n), GenerateConfig(steps=1), SHAPES, 3, DEVICE)["training"]["bytes"]
        for n in (2, 3, 6)
    }
    for n, memory in needs.items():
        said = training_remedy(config, 21, 3, memory, processes)
        assert said == f"use --set method.train.accumulation={n}: about {memory / 1e9:.3g} GB"
    assert "accumulation=2" in training_remedy(config, 21, 3, None)
    assert training_remedy(config, 21, 3, None, recompute=False).startswith(
        "use --set method.train.recompute=on: about"
    )
    tight = with_train(config, accumulation=12)
    assert "method.train.optimizer=adamw8bit: about" in training_remedy(tight, 21, 3, None)
    assert "accelerate launch --use_fsdp --fsdp_version 2" in training_remedy(config, 21, 3, 1000)


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_what_the_remedy_says_can_be_typed(word: str) -> None:
    config, _ = load_method("rpg-tiny", [f"method.train.recompute={word}"])
    assert isinstance(config, RPGConfig)
    assert config.train.recompute == word


@pytest.mark.parametrize(("bfloat16", "said"), [(1e9, True), (1e12, False)])
def test_a_device_on_which_bfloat16_is_the_slower_precision_is_told(bfloat16: float, said: bool) -> None:
    config = with_train(small(), precision="bfloat16")
    device = replace(DEVICE, bfloat16=bfloat16, float32=1e11)
    text = describe(estimate(config, GenerateConfig(steps=1), SHAPES, 3, device))
    assert ("takes 100 times as long: --set method.train.precision=float32" in text) == said


def test_the_remedy_for_sampling_is_the_least_that_fits() -> None:
    config, full = small(), GenerateConfig(n=30, steps=4, mode="full")
    needs = {
        flags: estimate(config, full.model_copy(update=changed), SHAPES, 3, DEVICE)["sampling"]["bytes"]
        for flags, changed in {
            "--mode partial": {"mode": "partial"},
            "--mode sequential -n 1": {"mode": "sequential", "n": 1},
        }.items()
    }
    for flags, memory in needs.items():
        assert sampling_remedy(config, full, 21, 3, memory) == f"use {flags}: about {memory / 1e9:.3g} GB"
    assert "--mode partial" in sampling_remedy(config, full, 21, 3, None)
    assert "more memory" in sampling_remedy(config, full, 21, 3, 1000)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
@pytest.mark.parametrize("mode", ["sequential", "partial", "full"])
def test_sampling_costs_what_the_sampler_does(sampler: str, mode: str) -> None:
    config = small()
    settings = GenerateConfig.model_validate({"n": 6, "steps": 4, "sampler": sampler, "mode": mode})
    found = estimate(config, settings, SHAPES, 5, DEVICE)["sampling"]
    generator = Generator(config.generator, torch.zeros(21, 2, dtype=torch.int64), 5).eval()
    count = generator.num_parameters
    generator.denoiser.fuse_conv_bn()
    chunk = {"sequential": 1, "partial": 256, "full": 126}[mode]

    @torch.no_grad()
    def generate() -> torch.Tensor:
        prototypes = generator.prototypes(torch.zeros(6, dtype=torch.int64)).flatten(0, 1)
        schedule = make_scheduler(config.diffusion, settings.sampler, 4)
        mask = torch.ones(prototypes.shape, dtype=torch.bool)
        return sample(generator.denoiser, schedule, prototypes, mask, [torch.Generator() for _ in range(126)], chunk)

    with FlopCounterMode(display=False) as counter:
        generate()
    assert found["flops_per_network"] == pytest.approx(counter.get_total_flops() / 6, rel=1e-6)
    real = cost_of(generate).peak + 4 * count
    assert real <= 1.02 * found["bytes"] <= 1.3 * real


@pytest.mark.parametrize("mode", ["sequential", "full"])
def test_sampling_in_windows_costs_what_the_sampler_does(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("estimate", "generate", "windows"):
        monkeypatch.setattr(f"rpg.methods.rpg.{module}.GROUP_VALUES", 60 * 32)
    config = small()
    settings = GenerateConfig.model_validate({"n": 6, "steps": 2, "mode": mode})
    found = estimate(config, settings, [(32 * 210,)], 5, DEVICE)["sampling"]
    generator = Generator(config.generator, torch.zeros(210, 2, dtype=torch.int64), 5).eval()
    count = generator.num_parameters
    generator.denoiser.fuse_conv_bn()
    chunk = {"sequential": 1, "full": 60}[mode]
    schedule = make_scheduler(config.diffusion, settings.sampler, 2)

    @torch.no_grad()
    def generate() -> None:
        prototypes = generator.prototypes(torch.zeros(1, dtype=torch.int64))[0]
        for window in windows(210, 32, chunk):
            assert len(window) <= 60
            given = prototypes[window.start : window.stop]
            streams = [torch.Generator() for _ in window]
            sample(generator.denoiser, schedule, given, torch.ones(given.shape, dtype=torch.bool), streams, chunk)

    with FlopCounterMode(display=False) as counter:
        generate()
    assert found["flops_per_network"] == pytest.approx(counter.get_total_flops(), rel=1e-6)
    real = cost_of(generate).peak + 4 * count
    assert real <= 1.02 * found["bytes"] <= 1.3 * real


def test_recomputing_is_chosen_where_memory_would_not_do() -> None:
    config = load_method("rpg-base")[0]
    assert isinstance(config, RPGConfig)
    kept = training(config, 760, 50, recompute=False).bytes
    for memory, expected in ((None, False), (round(kept / 0.8), False), (kept, True), (24 * 10**9, True)):
        assert recomputes(config, 760, 50, memory) is expected
    assert recomputes(with_train(config, recompute="on"), 760, 50, None)
    assert not recomputes(with_train(config, recompute="off"), 760, 50, 1)


@pytest.mark.parametrize(
    ("method", "network", "memory"),
    [
        ("rpg-base", "vit-tiny", 24),
        ("rpg-base", "vit-small", 24),
        ("rpg-base", "resnet18", 24),
        ("rpg-base", "resnet50", 24),
        ("rpg-large", "vit-base", 80),
        ("rpg-large", "convnext-large", 80),
    ],
)
def test_the_papers_batch_fits_on_one_card_when_recomputing(method: str, network: str, memory: int) -> None:
    config, sampling = load_method(method)
    assert isinstance(config, RPGConfig)
    assert isinstance(sampling, GenerateConfig)
    shapes = [spec.shape for spec in generated(load_recipe(network).task.structure())]
    found = estimate(with_train(config, recompute="on"), sampling, shapes, 50, DEVICES["h100"])["training"]
    assert found["bytes"] < memory * 10**9 < found["bytes_keeping"]
    assert found["flops_recomputing"] <= 1.35 * found["flops_keeping"]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("settings", [{"batch_size": 4, "diffusion_batch": 512, "optimizer": "adamw8bit"}, {}])
def test_the_order_of_table_5_comes_out(settings: dict[str, Any], recompute: bool) -> None:
    """ViT-Tiny, as the authors trained it for that table, and with the batch of Table 11."""
    base = load_method("rpg-base")[0]
    assert isinstance(base, RPGConfig)
    base = with_train(base, **settings)

    def needed(recurrent: str, kernels: bool = False) -> int:
        generator = base.generator.model_copy(update={"recurrent": recurrent})
        return training(base.model_copy(update={"generator": generator}), 808, 50, recompute, kernels).bytes

    assert needed("mamba", kernels=True) < needed("transformer") < needed("lstm")


def test_kernels_of_mamba_keep_less_than_the_scan_in_pytorch() -> None:
    base = load_method("rpg-base")[0]
    assert isinstance(base, RPGConfig)
    assert training(base, 760, 50, False, kernels=True).bytes < 0.7 * training(base, 760, 50, False).bytes


def test_starting_kernels_is_a_floor() -> None:
    slow = replace(DEVICE, launch=1.0)
    found = estimate(small(), GenerateConfig(steps=1), SHAPES, 3, slow)["training"]
    assert found["hours"] == pytest.approx(found["launches_per_step"] * 100 / 3600)
    quick = estimate(small(), GenerateConfig(steps=1), SHAPES, 3, replace(DEVICE, launch=0.0))["training"]
    assert quick["hours"] == pytest.approx(quick["flops_per_step"] * 100 / 1e11 / 3600)


def test_the_largest_takes_no_longer() -> None:
    config, sampling = load_method("rpg-tiny")
    assert isinstance(config, RPGConfig)
    assert isinstance(sampling, GenerateConfig)
    start = time.process_time()
    found = estimate(config, sampling, [(200_000_000,)], 50, DEVICES["h100"])
    assert time.process_time() - start < 1
    assert found["tokens"]["count"] == 781_250


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="33 checkpoints need as many one-hot"):
        estimate(small(), GenerateConfig(steps=1), SHAPES, 33, DEVICE)
    with pytest.raises(ValueError, match="2000 sampling steps"):
        estimate(small(), GenerateConfig(steps=2000), SHAPES, 3, DEVICE)
    with pytest.raises(ValueError, match="nothing to generate"):
        estimate(small(), GenerateConfig(steps=1), [], 3, DEVICE)


def test_what_does_not_fit_is_said_with_the_remedy() -> None:
    words = {
        10**9: "which fits (",
        8 * 10**5: "which fits, recomputing (",
        7 * 10**5: "use --set method.train.accumulation=3: about",
        10**5: "at least 0.00",
    }
    for memory, word in words.items():
        device = Device("toy", 1e12, 1e11, memory, "made up")
        found = estimate(small(), GenerateConfig(steps=1), SHAPES, 3, device)
        assert word in describe(found)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        (2864, ["RPG-Tiny"]),
        (1_000_000, ["RPG-Small"]),
        (5_700_000, ["RPG-Small", "RPG-Base"]),
        (25_557_032, ["RPG-Base"]),
        (197_767_336, ["RPG-Large"]),
    ],
)
def test_table_12_says_which_size_is_adequate(parameters: int, names: list[str]) -> None:
    assert adequate_sizes(parameters) == names


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_sizes_come_out_at_the_counts_of_the_paper(size: Any) -> None:
    config, sampling = load_method(size.name.lower())
    assert isinstance(config, RPGConfig)
    assert isinstance(sampling, GenerateConfig)
    assert size_of(config.generator) == size
    found = estimate(config, sampling, [(max(int(size.smallest), 3000),)], 50, DEVICES["h100"])
    lines = found["generator"]["beside_the_paper"]
    assert all("the same number" in line for line in lines), lines
    large = size.name == "RPG-Large"  # Table 11
    assert (config.train.batch_size, config.train.steps) == ((8, 120_000) if large else (16, 80_000))
    assert (config.train.learning_rate, config.train.diffusion_batch) == ((1e-5, 512) if large else (3e-5, 1024))
    assert (config.train.weight_decay, config.train.precision) == (1e-5, "bfloat16")
    assert config.train.optimizer == ("adamw8bit" if large else "adamw")
    assert (sampling.sampler, sampling.steps) == (("ddim", 60) if large else ("ddpm", 1000))
    assert config.diffusion == DiffusionConfig()


def test_every_size_has_its_base_recipe() -> None:
    assert {size.name.lower() for size in SIZES} <= set(method_names())


def test_an_ablation_has_no_column_in_table_12() -> None:
    assert size_of(GeneratorConfig(recurrent="lstm")) is None
    found = estimate(small(), GenerateConfig(steps=1), SHAPES, 3, DEVICE)
    assert found["generator"]["beside_the_paper"] == ["no column of Table 12 has this architecture"]


@pytest.mark.parametrize("name", recipe_names())
def test_structures_without_data_are_those_of_the_networks(name: str) -> None:
    task = load_recipe(name).task
    try:
        found = task.structure()
    except MissingExtra as error:
        pytest.skip(str(error))
    if name == "digits":
        built = task.build(None, torch.device("cpu"))
        assert found == Structure.of(built.weights(built.build(0)))
    assert len(found) > 0


def test_ties_are_found_on_the_meta_device() -> None:
    with torch.device("meta"):
        tied, other = torch.nn.Parameter(torch.empty(3)), torch.nn.Parameter(torch.empty(3))
    specs = Structure.of({"a": tied, "b": other, "c": tied}).tensors
    assert [spec.tied_to for spec in specs] == [None, None, "a"]


def test_measured_rates_are_positive() -> None:
    device = measure(torch.device("cpu"))
    assert device.bfloat16 > 1e8
    assert device.float32 > 1e8
    assert device.memory is None
