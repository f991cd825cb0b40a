"""p-diff: its networks against plain functions, its draws against a zoo whose distribution is known, its bytes after
interruptions.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from linear_gaussian import CPU, MEAN, SIZE, check_distribution, draws, flat, gaussian_zoo, values_of
from torch import Tensor

import rpg.devices
import rpg.methods.latents
import rpg.methods.p_diff.method
from killing import Killed
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.latents import DiffusionDraw
from rpg.methods.p_diff.method import Config, PDiff
from rpg.methods.p_diff.modules import Autoencoder, Denoiser, reconstruction_error
from rpg.methods.vectors import Vectors, reconstructed
from rpg.run import Run
from zoo.errors import Corrupt
from zoo.recipe import load_method
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure, TensorSpec

AUTOENCODER = {
    "channels": (8, 16),
    "code": 6,
    "kernel_size": 5,
    "steps": 300,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "save_every": 10,
}
DENOISER = {
    "channels": (1, 16, 32, 16, 1),
    "kernel_size": 5,
    "steps": 400,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "ema": 0.99,
    "save_every": 10,
}


def config(autoencoder: dict | None = AUTOENCODER, denoiser: dict = DENOISER, **others: object) -> Config:
    return Config.model_validate({"name": "p-diff", "autoencoder": autoencoder, "denoiser": denoiser, **others})


def brief(**others: object) -> Config:
    return config({**AUTOENCODER, "steps": 20}, {**DENOISER, "steps": 20, "batch_size": 8}, **others)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return gaussian_zoo(tmp_path_factory.mktemp("p-diff") / "zoo")


@pytest.fixture(scope="module")
def run(zoo) -> Run:
    return train(config(), zoo, zoo.path.parent / "run")


@pytest.fixture(scope="module")
def short(zoo) -> Run:
    return train(brief(), zoo, zoo.path.parent / "short")


# The two networks


def plain_norm(tensors: dict[str, Tensor], name: str, features: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        tensors[f"{name}.{part}"][None, :, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (features - mean) / (variance + 1e-5).sqrt() * weight + bias


def stirred(module: torch.nn.Module) -> dict[str, Tensor]:
    """Its tensors, none of which stays what initialisation made of it."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator(0, name)))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module.state_dict()


def test_the_autoencoder_is_what_plain_functions_compute() -> None:
    model = Autoencoder(64, (4, 6), 5, 3).eval()
    tensors, vectors = stirred(model), torch.randn(3, 64, generator=generator(0, "x"))
    features = vectors[:, None]
    for k in (0, 3):
        features = F.conv1d(features, tensors[f"halving.{k}.weight"], tensors[f"halving.{k}.bias"], 2, 1)
        features = F.leaky_relu(plain_norm(tensors, f"halving.{k + 1}", features), 0.01)
    assert features.shape == (3, 6, 16)
    codes = features.reshape(3, 96) @ tensors["to_code.weight"].T + tensors["to_code.bias"]
    torch.testing.assert_close(model.encode(vectors), codes)
    features = (codes @ tensors["from_code.weight"].T + tensors["from_code.bias"]).view(3, 6, 16)
    for k in (0, 3):
        weight, bias = tensors[f"doubling.{k}.weight"], tensors[f"doubling.{k}.bias"]
        spread = torch.zeros(*features.shape[:2], 2 * features.shape[2])
        spread[..., ::2] = features  # a transposed convolution is one over values with zeros between them
        features = F.conv1d(spread, weight.transpose(0, 1).flip(2), bias, padding=1)
        features = F.elu(plain_norm(tensors, f"doubling.{k + 1}", features))
    expected = F.conv1d(features, tensors["last.weight"], tensors["last.bias"], padding=1)[:, 0]
    torch.testing.assert_close(model.decode(codes), expected)


def test_the_denoiser_is_what_plain_functions_compute() -> None:
    model = Denoiser(12, (1, 4, 8, 16, 8, 4, 1), 3).eval()
    tensors, noisy = stirred(model), torch.randn(2, 12, generator=generator(0, "x"))
    steps = torch.tensor([3, 700])
    frequency = 10_000.0 ** (-torch.arange(128) / 128)
    angle = steps[:, None] * frequency
    hidden = torch.cat([angle.cos(), angle.sin()], 1) @ tensors["time_embedding.mlp.0.weight"].T
    hidden = F.silu(hidden + tensors["time_embedding.mlp.0.bias"])
    time = (hidden @ tensors["time_embedding.mlp.2.weight"].T + tensors["time_embedding.mlp.2.bias"])[:, None]

    def stage(k: int, features: Tensor) -> Tensor:
        weight, bias = tensors[f"stages.{k}.0.weight"], tensors[f"stages.{k}.0.bias"]
        features = F.conv1d(features + time, weight, bias, padding=1)
        return features if k == 5 else F.elu(plain_norm(tensors, f"stages.{k}.1", features))

    first = stage(0, noisy[:, None])
    second = stage(1, first)
    back = stage(3, stage(2, second))
    expected = stage(5, stage(4, back + second) + first)[:, 0]
    torch.testing.assert_close(model(noisy, steps), expected, rtol=1e-4, atol=1e-5)


def test_only_batch_statistics_let_a_code_depend_on_the_others() -> None:
    vectors = torch.randn(4, 64, generator=generator(0, "x"))
    for mistaken in (False, True):
        model = Autoencoder(64, (4, 6), 5, 3, mistaken).eval()
        alone, together = model.encode(vectors[:2]), model.encode(vectors)[:2]
        assert torch.allclose(alone, together, atol=1e-5) is not mistaken


def test_parameters_are_those_of_the_published_networks() -> None:
    """On CNN (s) without an autoencoder 11.45 million, as counted in the code of RPG's authors, and the denoiser of
    codes of 128 values 2.46 million. The autoencoder of 2,048 values has 2.20 million there, in two more maps of a code
    to a code, which is what one map does.
    """

    def millions(module: torch.nn.Module, more: int = 0) -> float:
        return round((sum(p.numel() for p in module.parameters()) + more) / 1e6, 2)

    with torch.device("meta"):
        assert millions(_settings("p-diff-flat")[0].denoiser(2_880, 0)) == 11.45
        method, _ = _settings("p-diff")
        assert millions(method.denoiser(128, 0)) == 2.46
        assert millions(method._autoencoder(2_048), 2 * 128**2) == 2.2


def _settings(name: str) -> tuple[PDiff, DiffusionDraw]:
    found, request = load_method(name)
    assert isinstance(found, Config)
    assert isinstance(request, DiffusionDraw)
    return found.build(), request


def _one_tensor(values: int) -> Structure:
    return Structure(tensors=(TensorSpec(name="weights", shape=(values,), dtype="float32", kind="float"),))


# The autoencoder's loss


class Threefold(torch.nn.Module):
    """Codes are three times the vectors."""

    def encode(self, vectors: Tensor) -> Tensor:
        return 3 * vectors

    def decode(self, codes: Tensor) -> Tensor:
        return codes / 3


@pytest.mark.parametrize(("on_vectors", "on_codes"), [(0.2, 0.0), (0.0, 0.9), (0.2, 0.9)])
def test_the_error_of_noised_vectors_and_codes_is_against_the_clean_ones(on_vectors, on_codes) -> None:
    """Known in closed form, where the autoencoder is linear and loses nothing."""
    vectors = torch.randn(500, 640, generator=generator(0, "x"))
    model: Any = Threefold()
    found = reconstruction_error(model, vectors, on_vectors, on_codes, generator(0, "noise"))
    assert found.item() == pytest.approx(on_vectors**2 + (on_codes / 3) ** 2, rel=0.02)


def test_the_error_is_what_plain_functions_compute() -> None:
    model = Autoencoder(64, (4, 6), 5, 3).eval()
    vectors, rng = torch.randn(3, 64, generator=generator(0, "x")), generator(0, "noise")
    found = reconstruction_error(model, vectors, 0.1, 0.5, generator(0, "noise"))
    codes = model.encode(vectors + 0.1 * torch.randn(3, 64, generator=rng))
    decoded = model.decode(codes + 0.5 * torch.randn(3, 5, generator=rng))
    assert found.item() == pytest.approx((decoded - vectors).square().sum().item() / vectors.numel())


def test_training_takes_the_noise_that_is_asked_for(zoo, tmp_path, monkeypatch) -> None:
    """By default that of the paper: 0.001 on vectors, 0.1 on codes."""
    given: list[tuple[float, float]] = []

    def look(model, vectors, on_vectors, on_codes, rng):
        given.append((on_vectors, on_codes))
        return reconstruction_error(model, vectors, on_vectors, on_codes, rng)

    monkeypatch.setattr(rpg.methods.p_diff.method, "reconstruction_error", look)
    one = {**DENOISER, "steps": 1}
    for asked, expected in [({}, (1e-3, 0.1)), ({"input_noise": 0.2, "latent_noise": 0.3}, (0.2, 0.3))]:
        train(config({**AUTOENCODER, "steps": 1, **asked}, one), zoo, tmp_path / str(expected[0]))
        assert given[-1] == expected


# What is learnt


def test_draws_have_the_distribution_of_the_zoo(zoo, run) -> None:
    check_distribution(draws(run, DiffusionDraw(n=400, steps=50)), values_of(zoo))


def test_the_autoencoder_gives_networks_back(zoo, run) -> None:
    """Those never seen, too: a code of 6 values holds the 3 that a network has."""
    method = run.method()
    assert isinstance(method, PDiff)
    for some in (zoo, gaussian_zoo(zoo.path.parent / "new", 1000, 10)):
        entries = some.select("train")[:10]
        found = torch.stack([flat(weights) for weights in reconstructed(method, run, some, entries, CPU)])
        given = values_of(some)[:10]
        assert (found - given).norm() < 0.15 * (given - MEAN).norm()
    vectors = Vectors(run)
    given = torch.stack([vectors.of(zoo.load(entry)) for entry in zoo.select("train")])
    wrong = (method.reconstruct(vectors, given, CPU) - given)[:, vectors.layout.mask().flatten()]  # not of padding
    assert run.facts["autoencoder_error"] == pytest.approx(wrong.square().mean().item(), rel=1e-3)
    assert 0 < run.facts["autoencoder_error"] < 0.01


def test_the_codes_are_scaled_and_their_scale_is_said(run, short, zoo) -> None:
    assert run.facts["latents_rescaled"] is True
    plain = train(brief(rescale_latents=False), zoo, zoo.path.parent / "plain")
    assert plain.facts["latents_rescaled"] is False
    assert plain.facts["latent_deviation"] == short.facts["latent_deviation"] != 1
    assert (plain.path / "denoiser.safetensors").read_bytes() != (short.path / "denoiser.safetensors").read_bytes()


def test_without_an_autoencoder_vectors_are_diffused(zoo, tmp_path) -> None:
    """Padding, 24 of 64 values, is left out of the loss and stays zero."""
    run = train(brief().model_copy(update={"autoencoder": None}), zoo, tmp_path / "run")
    assert sorted(path.name for path in run.path.glob("*.safetensors")) == [
        "constants.safetensors",
        "denoiser.safetensors",
        "scale.safetensors",
    ]
    method = run.method()
    assert isinstance(method, PDiff)
    made = method.make(Vectors(run), DiffusionDraw(steps=20), range(3), CPU).vectors
    assert made[:, SIZE:].abs().max() < 1e-6
    assert (made[:, :SIZE] != 0).all()
    assert torch.equal(method.reconstruct(Vectors(run), made, CPU), made)


# Bytes


@pytest.mark.parametrize("stop", [("autoencoder", 15), ("denoiser", 15)])
def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, short, tmp_path, monkeypatch, stop) -> None:
    def stopping(seed: int, *path: str | int, **others: object) -> torch.Generator:
        if path == stop:
            raise KeyboardInterrupt
        return generator(seed, *path, **others)

    monkeypatch.setattr(rpg.methods.p_diff.method, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(brief(), zoo, tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / f"{stop[0]}.state.safetensors").is_file()
    assert content(train(brief(), zoo, tmp_path / "run").path) == content(short.path)


@pytest.mark.parametrize("mistaken", [False, True])
def test_a_network_is_a_function_of_its_seed_and_number(zoo, tmp_path, mistaken) -> None:
    """Also where BatchNorm mixes the networks of a group: such a group is always made whole."""
    settings = brief()
    assert settings.autoencoder
    changed = settings.autoencoder.model_copy(update={"batch_statistics": mistaken})
    run = train(settings.model_copy(update={"autoencoder": changed}), zoo, tmp_path / "run")
    few, many, other = (
        generate(run, tmp_path / f"made-{n}-{seed}", DiffusionDraw(n=n, seed=seed, steps=5))
        for n, seed in ((2, 0), (18, 0), (2, 1))
    )
    for k in range(2):
        torch.testing.assert_close(flat(few[k]), flat(many[k]), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(flat(few[k]), flat(other[k]), atol=0.01)
    assert len({flat(many[k]).sum().item() for k in range(18)}) == 18


# Before any work


def test_networks_that_are_too_large_are_refused_before_any_work(zoo, monkeypatch) -> None:
    data = TrainingSet(zoo, "train", tuple(zoo.entries))
    method = config().build()
    method.check(data, Machine(CPU))
    monkeypatch.setattr(rpg.devices.cuda, "total_memory", lambda device: 10**5)
    with pytest.raises(ValueError, match=r"networks of 40 values .* and cpu has 0\.0001 GB; set smaller .*channels"):
        method.check(data, Machine(CPU))


def test_what_cannot_be_learnt_is_refused_before_any_work(zoo) -> None:
    with pytest.raises(ValueError, match="has 1 network to learn from; expected 2 or more"):
        config().build().check(TrainingSet(zoo, "train", tuple(zoo.entries[:1])), Machine(CPU))
    data = TrainingSet(zoo, "train", tuple(zoo.entries))
    for mistaken in (False, True):  # 64 values, halved five times, are two; six times, one
        for halvings in (5, 6):
            settings = {**AUTOENCODER, "channels": (4,) * halvings, "batch_statistics": mistaken}
            method = config(settings).build()
            if halvings == 6 and mistaken:
                with pytest.raises(ValueError, match=r"6 autoencoder.channels halve .* 64 values .*statistics=false"):
                    method.check(data, Machine(CPU))
            else:
                method.check(data, Machine(CPU))


def test_a_vit_is_estimated_without_its_memory() -> None:
    """Two dense maps between a code and what the convolutions leave, which is as long as the vector: 22 billion
    parameters, more than an H200 holds.
    """
    method, request = _settings("p-diff")
    size = 86_567_656 + 24
    found = method.estimate(_one_tensor(size - 24), 50, request, DEVICES["h200"])
    assert 2 * size * 128 < found.parameters < 2.01 * size * 128
    assert found.fit_bytes > 4 * 4 * found.parameters
    assert found.figures["device"]["training_fits"] is False


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("denoiser", {"channels": (1, 4, 8, 1)}, "read the same backwards"),
        ("denoiser", {"kernel_size": 4}, "must be odd"),
        ("autoencoder", {"kernel_size": 4}, "must be odd"),
        ("autoencoder", {"channels": (1,) * 7}, "at most 6 items"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section, change, message) -> None:
    sections = {"autoencoder": AUTOENCODER, "denoiser": DENOISER}
    with pytest.raises(ValueError, match=message):
        config(**{**sections, section: {**sections[section], **change}})


@pytest.mark.parametrize(
    ("section", "autoencoder"), [("denoiser", {"code": 1}), ("autoencoder", {"channels": (4,) * 6})]
)
def test_batches_of_one_value_are_refused_before_training(zoo, section, autoencoder) -> None:
    sections = {"autoencoder": {**AUTOENCODER, **autoencoder}, "denoiser": DENOISER}
    one, two = (config(**{**sections, section: {**sections[section], "batch_size": n}}).build() for n in (1, 2))
    data, machine = TrainingSet.of(zoo, "train"), Machine(CPU)
    with pytest.raises(ValueError, match=f"has no batch statistics.*--set method.{section}.batch_size=2"):
        one.check(data, machine)
    two.check(data, machine)


def test_more_sampling_steps_than_levels_are_refused(short) -> None:
    with pytest.raises(ValueError, match="1001 sampling steps, but the schedule has 1000"):
        generate(short, Path("nowhere"), DiffusionDraw(steps=1001))


@pytest.fixture(scope="module")
def unfinished(zoo) -> Path:
    """A run that was killed in its second stage."""
    path = zoo.path.parent / "unfinished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rpg.methods.p_diff.method, "noise_error", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            train(brief(), zoo, path)
    return path


@pytest.mark.parametrize("name", ["autoencoder.safetensors", "scale.safetensors", "layout.json", "vectors.npy"])
def test_what_an_unfinished_run_has_finished_is_not_taken_changed(zoo, unfinished, tmp_path, name) -> None:
    place = shutil.copytree(unfinished, tmp_path / "run")
    data = (place / name).read_bytes()
    (place / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Corrupt, match=rf"{name} has changed .*; remove .*run and train again"):
        train(brief(), zoo, place)
    (place / name).write_bytes(data)
    assert not (train(brief(), zoo, place).path / "finished.json").exists()


def test_unfinished_runs_without_such_a_record_go_on(zoo, short, unfinished, tmp_path) -> None:
    place = shutil.copytree(unfinished, tmp_path / "run")
    (place / "finished.json").unlink()
    assert content(train(brief(), zoo, place).path) == content(short.path)
