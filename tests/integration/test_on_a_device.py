"""The same on a GPU as on the processor. The tests run on the processor, too, so that a GPU finds them sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import rpg
import zoo
from rpg.diffusion import make_scheduler, sample
from rpg.methods.rpg.config import GeneratorConfig, RPGConfig, TrainConfig
from rpg.methods.rpg.estimate import training
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.models.recompute import recompute_in
from rpg.methods.rpg.optimizer import make_optimizer
from rpg.methods.rpg.train import Batches
from rpg.processes import Processes
from zoo import cuda
from zoo.seeds import generator as seeded_generator
from zoo.seeds import global_seed

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
ids = {"ids": ["cpu", "cuda"]}
LENGTH, SIZE, STATES = 70, 64, 5
CONFIG = RPGConfig(
    name="rpg",
    generator=GeneratorConfig(token_size=SIZE, d_model=64, d_state=16, head_dim=32, channels=(1, 8, 16, 8, 1)),
    train=TrainConfig(batch_size=4, diffusion_batch=60, precision="float32"),
)


def made(config: RPGConfig, device: torch.device, length: int = LENGTH) -> Generator:
    positions = torch.stack([torch.arange(length) // 8, torch.arange(length) % 8], dim=1)
    with global_seed(0):
        return Generator(config.generator, positions, STATES).to(device)


def losses(config: RPGConfig, device: torch.device, recompute: bool) -> list[float]:
    """Of three steps."""
    model = made(config, device).train()
    recompute_in(model, recompute)
    optimizer = make_optimizer(config.train, model)
    tokens = np.random.default_rng(0).standard_normal((STATES, LENGTH, SIZE), dtype=np.float32)
    mask, schedule = torch.ones(LENGTH, SIZE, dtype=torch.bool), make_scheduler(config.diffusion, "ddpm", 1000)
    batches = Batches(config.train, tokens, mask, schedule, Processes(device))
    found = []
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        found.append(batches.backward(model, step).item())
        optimizer.step()
    return found


@pytest.mark.parametrize("device", DEVICES, **ids)
@pytest.mark.parametrize("recompute", [False, True])
def test_training_takes_the_same_steps(device: torch.device, recompute: bool) -> None:
    found = losses(CONFIG, device, recompute)
    assert found == pytest.approx(losses(CONFIG, torch.device("cpu"), False), rel=1e-2)  # TF32, in convolutions
    assert found[2] != found[0]


@pytest.mark.parametrize("device", DEVICES, **ids)
@pytest.mark.parametrize("chunk", [1, 64])
def test_sampling_gives_the_same_tokens(device: torch.device, chunk: int) -> None:
    def tokens(device: torch.device, chunk: int) -> torch.Tensor:
        model = made(CONFIG, device).eval()
        with torch.no_grad():
            prototypes = model.prototypes(torch.tensor([3]))[0]
        streams = [seeded_generator(0, token) for token in range(LENGTH)]
        mask, schedule = torch.ones(LENGTH, SIZE, dtype=torch.bool), make_scheduler(CONFIG.diffusion, "ddim", 6)
        return sample(model.denoiser, schedule, prototypes, mask, streams, chunk).cpu()

    expected = tokens(torch.device("cpu"), LENGTH)
    assert (tokens(device, chunk) - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("device", DEVICES, **ids)
def test_a_zoo_is_learnt_and_generated(device: torch.device, tmp_path: Path) -> None:
    with global_seed(0):
        networks = [torch.nn.Linear(20, 10).state_dict() for _ in range(4)]
    originals = zoo.from_state_dicts(networks, "linear", out=tmp_path / "zoo")
    small = {"token_size": 32, "d_model": 32, "d_state": 8, "head_dim": 16, "channels": (1, 4, 1), "batch_size": 2}
    run = rpg.train(originals, method="rpg-tiny", out=tmp_path / "run", device=str(device), steps=12, **small)
    generated = rpg.generate(run, out=tmp_path / "new", device=str(device), n=2, steps=5)
    assert [tensor.shape for tensor in generated[0].values()] == [(10, 20), (10,)]
    for spent in (run.spent, generated.manifest.spent):
        assert spent is not None
        assert spent.device == cuda.name_of(device)
        assert (spent.device_bytes or 0) > 0 if device.type == "cuda" else spent.device_bytes is None


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_of_training_is_what_the_estimate_says(recompute: bool) -> None:
    device = torch.device("cuda")
    generator = GeneratorConfig(token_size=1024, d_model=1024, d_state=64, channels=(1, 16, 32, 16, 1))
    train = TrainConfig(batch_size=8, diffusion_batch=512, precision="bfloat16")
    config = CONFIG.model_copy(update={"generator": generator, "train": train})
    length, rng = 400, np.random.default_rng(0)
    model = made(config, device, length).train()
    recompute_in(model, recompute)
    optimizer = make_optimizer(train, model)
    tokens = rng.standard_normal((STATES, length, 1024), dtype=np.float32)
    mask, schedule = torch.ones(length, 1024, dtype=torch.bool), make_scheduler(config.diffusion, "ddpm", 1000)
    batches = Batches(train, tokens, mask, schedule, Processes(device))
    for step in range(2):
        cuda.reset_peak(device)
        optimizer.zero_grad(set_to_none=True)
        batches.backward(model, step)
        optimizer.step()
    kernels = model.kernels(torch.bfloat16)["scan"] == "mamba-ssm"
    expected = training(config, length, STATES, recompute, kernels).bytes
    assert cuda.peak(device) == pytest.approx(expected, rel=0.25)
