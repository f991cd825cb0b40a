"""D2NWG: its networks against plain functions, its loss against torch's distributions, what it is told, its draws
against a zoo whose distribution is known, its bytes after interruptions.
"""

from __future__ import annotations

import math

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from linear_gaussian import CPU, check_distribution, draws, flat, gaussian_zoo, values_of
from torch import Tensor

import rpg.api
import rpg.methods.d2nwg.method
from learning import content, generate, train
from rpg.conditions import frozen
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.d2nwg import dataset
from rpg.methods.d2nwg.blocks import Attention
from rpg.methods.d2nwg.config import Config
from rpg.methods.d2nwg.dataset import DatasetConfig, embeddings, kept_images, load_bank
from rpg.methods.d2nwg.method import D2NWG, bank_path
from rpg.methods.d2nwg.networks import Autoencoder, Denoiser, variational_loss
from rpg.methods.latents import DiffusionDraw, Scale, scale_path
from rpg.methods.vectors import Vectors
from rpg.run import Run
from zoo.data.images import load_images
from zoo.errors import MissingData
from zoo.recipe import load_method
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure, TensorSpec

DIGITS = {"name": "classification", "model": "cnn_digits", "data": "digits"}
STEPS = {"batch_size": 16, "learning_rate": 3e-3, "save_every": 10}
SMALL = {
    "autoencoder": {"projection": 64, "side": 8, "width": 8, "multipliers": (1, 2), "blocks": 1},
    "denoiser": {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention_from": 1, "heads": 2, "ema": 0.98},
    "dataset": {"kept": 20, "drawn": 5, "pixels": 4},
}


def config(steps: int = 12, denoiser_steps: int = 12, **others: dict) -> Config:
    sections = {
        "autoencoder": {**SMALL["autoencoder"], **STEPS, "steps": steps},
        "denoiser": {**SMALL["denoiser"], **STEPS, "steps": denoiser_steps},
        "dataset": SMALL["dataset"],
    }
    for name, changed in others.items():
        sections[name] = {**sections[name], **changed}
    return Config.model_validate({"name": "d2nwg", **sections})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return gaussian_zoo(tmp_path_factory.mktemp("d2nwg") / "zoo", **DIGITS)


@pytest.fixture(scope="module")
def short(zoo) -> Run:
    return train(config(), zoo, zoo.path.parent / "short")


def stirred(module: torch.nn.Module) -> dict[str, Tensor]:
    """Its tensors, none of which stays what initialisation made of it."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator(0, name)))
    return module.state_dict()


# The networks


class Plain:
    """The blocks of a network out of its tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, name: str, images: Tensor, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return F.conv2d(images, weight, self.tensors[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def norm(self, name: str, images: Tensor) -> Tensor:
        """In 32 groups, or as many as divide the channels."""
        weight, bias = (self.tensors[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        groups = images.view(len(images), math.gcd(32, images.shape[1]), -1)
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
        return ((groups - mean) / (variance + 1e-6).sqrt()).view(images.shape) * weight + bias

    def linear(self, name: str, values: Tensor) -> Tensor:
        return values @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def residual(self, name: str, images: Tensor, time: Tensor) -> Tensor:
        features = self.conv(f"{name}.first", F.silu(self.norm(f"{name}.first_norm", images)))
        features = self.norm(f"{name}.second_norm", features)
        scale, shift = self.linear(f"{name}.of_time", F.silu(time)).chunk(2, 1)
        features = features * (1 + scale[..., None, None]) + shift[..., None, None]
        skip = self.conv(f"{name}.skip", images) if f"{name}.skip.weight" in self.tensors else images
        return skip + self.conv(f"{name}.second", F.silu(features))

    def attention(self, name: str, images: Tensor, heads: int) -> Tensor:
        parts = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", images)).flatten(2)
        found = []
        for query, key, value in zip(*(part.chunk(heads, 1) for part in parts.chunk(3, 1)), strict=True):
            likeness = torch.einsum("ncq,nck->nqk", query, key) / query.shape[1] ** 0.5
            found.append(torch.einsum("nqk,nck->ncq", likeness.softmax(2), value))
        return images + self.conv(f"{name}.out", torch.cat(found, 1).view(images.shape))


def test_attention_is_what_plain_functions_compute() -> None:
    block = Attention(64, 4)
    images = torch.randn(2, 64, 3, 3, generator=generator(0, "x"))
    plain = Plain({f"block.{name}": tensor for name, tensor in stirred(block).items()})
    torch.testing.assert_close(block(images), plain.attention("block", images, 4), rtol=1e-4, atol=1e-4)


def test_the_denoiser_is_what_plain_functions_compute() -> None:
    model = Denoiser(64, 30, 8, (1, 2), 1, 1, 2).eval()
    plain = Plain(stirred(model))
    noisy, told = (torch.randn(3, size, generator=generator(0, "x", size)) for size in (64, 30))
    time = model.time_embedding(torch.tensor([5, 100, 900]))
    dataset = plain.linear("dataset.2", F.leaky_relu(plain.linear("dataset.0", told), 0.01))
    images = torch.stack([noisy.view(3, 8, 8), dataset.view(3, 8, 8)], 1)
    first = plain.conv("first", images)
    large = plain.residual("down.0.0", first, time)
    halved = plain.conv("halvings.0.conv", large, 2)
    low = plain.attention("down.1.1", plain.residual("down.1.0", halved, time), 2)
    features = plain.attention("middle.1", plain.residual("middle.0", low, time), 2)
    features = plain.residual("middle.2", features, time)
    for k, skip in enumerate((low, halved)):
        features = plain.residual(f"up.{k}.0", torch.cat([features, skip], 1), time)
        features = plain.attention(f"up.{k}.1", features, 2)
    features = plain.conv("doublings.0.conv", features.repeat_interleave(2, 2).repeat_interleave(2, 3))
    for k, skip in ((2, large), (3, first)):
        features = plain.residual(f"up.{k}.0", torch.cat([features, skip], 1), time)
    expected = plain.conv("last.2", F.silu(plain.norm("last.0", features))).flatten(1)
    torch.testing.assert_close(model(noisy, torch.tensor([5, 100, 900]), told), expected, rtol=1e-4, atol=1e-4)


def test_chunks_of_a_vector_go_through_one_map() -> None:
    """Each chunk by itself, the last one padded: 100 values in chunks of 32 are 4 x 48 pixels, 3 images of 8 x 8."""
    model = Autoencoder(100, 32, 48, 8, 8, (1, 2), 1).eval()
    assert (model.chunks, model.channels, model.code) == (4, 3, (4, 4, 4))
    vectors = torch.randn(2, 100, generator=generator(0, "x"))
    pixels = [F.leaky_relu(model.to_pixels(part)) for part in F.pad(vectors, (0, 28)).split(32, 1)]
    expected = model.encoder(torch.cat(pixels, 1).view(2, 3, 8, 8))
    mean, log_variance = model.encode(vectors)
    torch.testing.assert_close(torch.cat([mean, log_variance], 1), expected.flatten(1))
    parts = model.decoder(mean.view(2, 4, 4, 4)).flatten(1).split(48, 1)
    torch.testing.assert_close(model.decode(mean), torch.cat([model.from_pixels(p) for p in parts], 1)[:, :100])
    assert Autoencoder(100, 100, 70, 8, 8, (1,), 1).decode(torch.zeros(1, 256)).shape == (1, 100)


def test_the_loss_is_that_of_laplace_and_normal_distributions() -> None:
    model = Autoencoder(64, 64, 64, 8, 8, (1, 2), 1).eval()
    with torch.no_grad():
        model.log_scale.fill_(-0.7)
    vectors = torch.randn(5, 64, generator=generator(0, "x"))
    found = variational_loss(model, vectors, 0.3, 10.0, generator(0, "noise"))
    mean, log_variance = model.encode(vectors)
    noise = torch.randn(5, 64, generator=generator(0, "noise"))
    decoded = model.decode(mean + (log_variance / 2).exp() * noise)
    laplace = torch.distributions.Laplace(decoded, model.log_scale.exp())
    likelihood = -(laplace.log_prob(vectors) + torch.tensor(2.0).log()).sum() / 5  # without its constant
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).sum() / 5
    expected = likelihood + 0.3 * divergence + 10 * F.mse_loss(decoded, vectors)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_parameters_of_the_denoiser_are_those_of_the_published_one() -> None:
    """90 to 100 million, by its settings."""
    found, _ = load_method("d2nwg")
    assert isinstance(found, Config)
    with torch.device("meta"):
        denoiser = found.build()._denoiser(found.dataset.typical_size())
    assert 90e6 < sum(p.numel() for p in denoiser.parameters()) < 100e6


# What it is told


def test_an_embedding_has_the_means_of_some_images_of_every_class() -> None:
    bank = torch.randn(3, 6, 4, generator=generator(0, "bank"))
    found = embeddings(bank, 2, [generator(0, k) for k in range(200)]).view(200, 3, 4)
    pairs = [(bank[:, i] + bank[:, j]) / 2 for i in range(6) for j in range(i)]
    for label in range(3):
        errors = torch.stack([(found[:, label] - pair[label]).abs().amax(1) for pair in pairs])
        assert errors.amin(0).max() < 1e-6  # each is the mean of two different images
        assert len(errors.argmin(0).unique()) == 15  # and each pair is drawn
    torch.testing.assert_close(embeddings(bank, 6, [generator(0, 1)])[0].view(3, 4), bank.mean(1))


def test_images_are_training_images_of_their_class(zoo) -> None:
    bank = kept_images(data_of(zoo), DatasetConfig(kept=7, pixels=8), None, 0)
    assert bank.shape == (10, 7, 64)
    assert bank.mean().abs() < 1e-5
    assert bank.std().item() == pytest.approx(1)
    images = load_images("digits", None)
    flat_images = images.normalize(images.train).flatten(1)
    ours = bank.flatten(0, 1)
    scaled = (flat_images - flat_images.mean(1, keepdim=True)) / flat_images.std(1, keepdim=True)
    same = (ours - ours.mean(1, keepdim=True)) / ours.std(1, keepdim=True)
    distances = torch.cdist(same, scaled, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(1).values.max() < 1e-3
    assert torch.equal(images.train_labels[distances.argmin(1)], torch.arange(10).repeat_interleave(7))
    with pytest.raises(ValueError, match=r"class 0 has \d+ training images; expected 1000 or more"):
        kept_images(data_of(zoo), DatasetConfig(kept=1000), None, 0)


def test_what_is_drawn_depends_on_the_images(short) -> None:
    method, vectors = short.method(), Vectors(short)
    assert isinstance(method, D2NWG)
    denoiser = method.trained(vectors, "denoiser", lambda: method._denoiser(10 * 16), CPU)
    codes = torch.randn(1, 64, generator=generator(0, "x"))
    one, other = (denoiser(codes, torch.tensor([500]), torch.full((1, 160), value)) for value in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-4


def noted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple]:
    """What the method gives this function, call by call."""
    calls: list[tuple] = []
    real = getattr(rpg.methods.d2nwg.method, name)

    def look(*given: object, **named: object) -> object:
        calls.append(given)
        return real(*given, **named)

    monkeypatch.setattr(rpg.methods.d2nwg.method, name, look)
    return calls


def test_the_denoiser_is_told_the_data_set_in_training_and_in_drawing(zoo, tmp_path, monkeypatch) -> None:
    """Of all images that are kept the mean is no matter of chance."""
    losses, samples = noted(monkeypatch, "noise_error"), noted(monkeypatch, "sample_latents")
    run = train(config(1, 2, dataset={"kept": 3, "drawn": 3}), zoo, tmp_path / "run")
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, D2NWG)
    means = load_bank(bank_path(run)).mean(1).flatten()
    assert means.std() > 0.1
    for *_, told in losses[-2:]:  # the first ones are of the estimate
        torch.testing.assert_close(told, means.expand(len(told), -1))
    method.make(vectors, DiffusionDraw(steps=2), range(3), CPU)
    denoiser = method.trained(vectors, "denoiser", lambda: method._denoiser(10 * 16), CPU)
    ((_, _, _, told, _),) = samples
    torch.testing.assert_close(told, denoiser.dataset(means).detach().expand(3, -1))
    assert told.std() > 1e-3


def test_what_is_diffused_are_codes_with_the_noise_of_their_encoder(tmp_path, monkeypatch) -> None:
    """Of a zoo of one network the mean and the variance of each value are known."""
    losses = noted(monkeypatch, "noise_error")
    alone = gaussian_zoo(tmp_path / "zoo", 0, 1, **DIGITS)
    run = train(config(1, 1, denoiser={"batch_size": 400}), alone, tmp_path / "run")
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, D2NWG)
    model = method._trained_autoencoder(vectors, CPU)
    mean, log_variance = model.encode(vectors.of(alone[0])[None])
    scale = Scale.load(scale_path(run), mean.shape[1])
    noise = (scale.restore(losses[-1][2]) - mean) / (log_variance / 2).exp()
    assert noise.shape == (400, 64)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    torch.testing.assert_close(noise.std(0), torch.ones(64), rtol=0, atol=0.2)
    assert len({code.sum().item() for code in noise}) == 400


def data_of(zoo: Zoo) -> TrainingSet:
    return TrainingSet(zoo, "train", tuple(zoo.entries))


# What is learnt


@pytest.mark.slow
def test_draws_have_the_distribution_of_the_zoo(zoo) -> None:
    run = train(config(400, 900, denoiser={"learning_rate": 1e-3, "ema": 0.99}), zoo, zoo.path.parent / "long")
    # A tenth of the diffusion's steps takes another tenth of the variance, of which this short training lacks a fifth.
    check_distribution(draws(run, DiffusionDraw(n=300, steps=1000)), values_of(zoo))
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, D2NWG)
    others = gaussian_zoo(zoo.path.parent / "new", 1000, 20)
    new = torch.stack([vectors.of(others.load(entry)) for entry in others.entries])
    assert (method.reconstruct(vectors, new, CPU) - new).norm() < 0.2 * (new - new.mean(0)).norm()


@pytest.mark.slow
def test_the_autoencoder_learns(zoo, tmp_path) -> None:
    """After 100 steps a round trip leaves most of what networks differ in."""
    run = train(config(100, 2), zoo, tmp_path / "run")
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, D2NWG)
    given = torch.stack([vectors.of(zoo.load(entry)) for entry in zoo.entries])
    found = method.reconstruct(vectors, given, CPU)
    assert (found - given).norm() < 0.4 * (given - given.mean(0)).norm()
    assert run.facts["autoencoder_error"] == pytest.approx((found - given).square().sum().item() / 4000, rel=1e-3)


# Bytes


@pytest.mark.parametrize("stop", [("autoencoder", 11), ("denoiser", 11)])
def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, short, tmp_path, monkeypatch, stop) -> None:
    def stopping(seed: int, *path: str | int) -> torch.Generator:
        if path == stop:
            raise KeyboardInterrupt
        return generator(seed, *path)

    monkeypatch.setattr(rpg.methods.d2nwg.method, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config(), zoo, tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / f"{stop[0]}.state.safetensors").is_file()
    assert content(train(config(), zoo, tmp_path / "run").path) == content(short.path)


def test_a_network_is_a_function_of_its_seed_and_number(short, tmp_path) -> None:
    few, many, other = (
        generate(short, tmp_path / f"made-{n}-{seed}", DiffusionDraw(n=n, seed=seed, steps=4))
        for n, seed in ((2, 0), (18, 0), (2, 1))
    )
    for k in range(2):
        torch.testing.assert_close(flat(few[k]), flat(many[k]), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(flat(few[k]), flat(other[k]), atol=0.01)
    assert len({flat(many[k]).sum().item() for k in range(18)}) == 18


# Before any work


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "binary", "data": "digits"}, "have labels of their own each; expected a zoo of one data set"),
        ({"name": "classification", "data": "imagenet"}, "is told labelled images, .* such as p-diff$"),
    ],
)
def test_a_zoo_without_labelled_images_is_refused_in_a_line(tmp_path, task, message) -> None:
    other = gaussian_zoo(tmp_path / "zoo", 0, 2, model="cnn_digits", **task)
    with pytest.raises(ValueError, match=message):
        config().build().check(data_of(other), Machine(CPU))


def test_a_zoo_that_suits_is_not_refused(zoo) -> None:
    config().build().check(data_of(zoo), Machine(CPU))


def test_missing_images_stop_before_anything_is_trained(tmp_path, monkeypatch) -> None:
    cifar = gaussian_zoo(tmp_path / "zoo", 0, 2, name="classification", model="cnn_small", data="cifar10")
    data, method, place = data_of(cifar), config().build(), Run(tmp_path / "run")
    with pytest.raises(MissingData, match=r"no (test|train)-\*\.parquet"):
        method.fit(data, place, Machine(CPU, data_root=tmp_path))
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"no (test|train)-\*\.parquet"):
        rpg.api.train(cifar, "d2nwg-small", out=place.path)
    assert not place.path.exists()


def test_a_vit_is_estimated_without_its_memory() -> None:
    """As one chunk, a dense map of it on 1,024 values and back."""
    found, _ = load_method("d2nwg-small")
    assert isinstance(found, Config)
    values = 86_567_656
    structure = Structure(tensors=(TensorSpec(name="weights", shape=(values,), dtype="float32", kind="float"),))
    autoencoder = found.build().stages(structure, 50)[0]
    assert 2 * values * 1024 < autoencoder.parameters < 2.01 * values * 1024
    assert autoencoder.bytes > 4 * 4 * autoencoder.parameters > 5 * DEVICES["h200"].memory


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("autoencoder", {"side": 9}, "side = 9 cannot be halved 1 times"),
        ("denoiser", {"multipliers": (1, 1, 1, 1, 1)}, "images of 8 pixels a side, which cannot be halved 4 times"),
        ("denoiser", {"width": 15}, "width = 15 times 1 does not divide among 2 heads"),
        ("dataset", {"drawn": 21}, "drawn = 21 exceeds dataset.kept = 20"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        config(**{section: change})


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"autoencoder": {"side": 4}}, 32),  # codes are images of 4 pixels a side, halved twice
        ({"autoencoder": {"side": 2}, "denoiser": {"multipliers": (1,)}}, 8),
    ],
)
def test_levels_of_which_normalisation_leaves_nothing_are_refused_before_training(zoo, changes, channels) -> None:
    settings = {"denoiser": {"multipliers": (1, 2, 2)}, **changes}
    with pytest.raises(ValueError, match=f"a level of 1 x 1 pixels has {channels} channels, .*multipliers fewer"):
        config(**settings).build().check(TrainingSet.of(zoo, "train"), Machine(torch.device("cpu")))
    settings = {**settings, "denoiser": {**settings["denoiser"], "width": 64}, "autoencoder": {"side": 4, "width": 64}}
    config(**settings).build().check(TrainingSet.of(zoo, "train"), Machine(torch.device("cpu")))


def test_images_may_be_seen_by_a_frozen_encoder(tmp_path, monkeypatch) -> None:
    """Of every class as many unit vectors of CLIP's as images are kept, before they are brought to mean 0, deviation 1
    together.
    """
    tiny_clip.save(tmp_path / "clip")
    zoo = gaussian_zoo(tmp_path / "zoo", 0, 2, **DIGITS)
    settings = DatasetConfig(kept=3, drawn=2, pixels=None, encoder=str(tmp_path / "clip"))
    found = kept_images(TrainingSet.of(zoo, "train"), settings, None, seed=0)
    assert found.shape == (10, 3, tiny_clip.WIDTH)
    torch.testing.assert_close(found.std(), torch.tensor(1.0))
    seen: list[torch.Tensor] = []

    def look(encoder: str, images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return frozen.image_features(encoder, images)

    monkeypatch.setattr(dataset, "image_features", look)
    torch.testing.assert_close(kept_images(TrainingSet.of(zoo, "train"), settings, None, seed=0), found)
    assert len(seen) == 10
    assert seen[0].shape == (3, 3, 8, 8)
    assert 0 <= seen[0].min() < seen[0].max() <= 1
    with pytest.raises(ValueError, match="set one of them, the other to null"):
        DatasetConfig(encoder="clip")
