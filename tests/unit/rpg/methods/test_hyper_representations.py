"""Hyper-representations, through the Python API: resumes to the same bytes, draws around codes, refuses before work."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
import torch
from tokenised import digits_networks, digits_task, digits_zoo

import rpg.api
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.ceiling import NETWORKS
from rpg.methods.contrastive import nt_xent
from rpg.methods.density import load_anchors
from rpg.methods.hyper_representations.method import Config, GenerateConfig, HyperRepresentations
from rpg.methods.hyper_representations.model import Autoencoder
from rpg.methods.task_data import Behaviour
from rpg.methods.vectors import Vectors, reconstructed
from rpg.run import Run
from rpg.tokens.layers import Layers
from zoo import cuda
from zoo.errors import Corrupt
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.structure import Structure, TensorSpec

MODEL: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2, "hidden": 24, "latent": 16}
TRAINING: dict[str, Any] = {"steps": 100, "batch_size": 8, "learning_rate": 1e-2, "save_every": 10}


def config(**settings: Any) -> Config:
    given = {"name": "hyper-representations", "model": MODEL, "autoencoder": TRAINING, "contrast": 0.05, **settings}
    return Config.model_validate(given)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return digits_zoo(tmp_path_factory.mktemp("hyper") / "zoo")


@pytest.fixture(scope="module")
def trained(zoo) -> tuple[Zoo, Run]:
    return zoo, train(config(permutations=False, erasing=0.0, noise=0.02), zoo, zoo.path.parent / "run")


def distances(a: dict[str, torch.Tensor], others: list[dict[str, torch.Tensor]]) -> list[float]:
    names = [name for name in a if name.endswith("weight")]
    return [sum(float((a[n] - other[n]).square().sum()) for n in names) ** 0.5 for other in others]


# The loss


def small_model() -> Autoencoder:
    """Of networks for digits, its layers' deviations 0.5, 1, 1.5, ..."""
    model = Autoencoder(Layers(Structure.of(digits_networks(1)[0])), config().model)
    with torch.no_grad():
        model.deviations.copy_(0.5 * torch.arange(1, len(model.deviations) + 1))
    return model


def deviations_of(model: Autoencoder) -> torch.Tensor:
    """Of each value of a vector (D,), by the tensors' places in it."""
    found = torch.full((model.layers.values,), torch.nan)
    for layer, deviation in zip(model.layers.layers, model.deviations, strict=True):
        for start, width in layer.pieces:
            found[start : start + layer.rows * width] = deviation
    assert found.isfinite().all()
    return found


@torch.no_grad()
def test_the_loss_is_so_much_contrast_and_the_rest_error_in_the_layers_deviations() -> None:
    model, method = small_model(), config(contrast=0.2, temperature=0.3).build()
    seen, views = (torch.randn(6, model.layers.values) for _ in range(2))
    codes = model.encode(seen)
    projected = model.head(codes)
    contrast = nt_xent(projected[:3], projected[3:], 0.3)
    error = ((model.decode(codes) - views) / deviations_of(model)).square().sum() / views.numel()
    assert float(contrast) != pytest.approx(float(error), rel=0.2)  # or it would not matter which has which share
    assert float(method._objective(model, seen, views)) == pytest.approx(float(0.2 * contrast + 0.8 * error), rel=1e-5)


def test_noise_is_in_deviations_of_the_layers() -> None:
    model, method = small_model(), config(noise=0.3, erasing=0.0).build()
    views = torch.ones(400, model.layers.values)
    noise = method._augmented(views, deviations_of(model), torch.Generator().manual_seed(0)) - views
    for deviation in model.deviations:
        own = noise[:, deviations_of(model) == deviation]
        assert float(own.mean()) == pytest.approx(0, abs=0.05 * float(deviation))
        assert float(own.std()) == pytest.approx(0.3 * float(deviation), rel=0.05)


def test_an_erasure_is_one_run_of_2_to_33_percent_of_the_values_of_so_many_views() -> None:
    values, rng = 1000, torch.Generator().manual_seed(0)
    method = config(noise=0.0, erasing=0.6).build()
    erased = method._augmented(torch.ones(4000, values), torch.ones(values), rng) == 0
    lengths, places = erased.sum(1), torch.arange(values)
    changed = erased[lengths > 0]
    assert len(changed) / 4000 == pytest.approx(0.6, abs=0.03)
    shares = lengths[lengths > 0] / values
    assert 0.018 < shares.min() < 0.03
    assert 0.32 < shares.max() < 0.332
    assert float(shares.mean()) == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    first, last = (torch.where(changed, places, other) for other in (values, -1))
    assert torch.equal(last.amax(1) - first.amin(1) + 1, changed.sum(1))  # without a gap
    assert first.amin(1).min() < 10  # anywhere
    assert last.amax(1).max() > values - 10


def test_training_sees_two_permuted_views_of_each_network(zoo, tmp_path, monkeypatch) -> None:
    given = []
    objective = HyperRepresentations._objective

    def look(self, model, seen, views):
        given.append((seen, views))
        return objective(self, model, seen, views)

    monkeypatch.setattr(HyperRepresentations, "_objective", look)
    run = train(config(noise=0.0, erasing=0.0, autoencoder={**TRAINING, "steps": 1}), zoo, tmp_path / "run")
    seen, views = given[0]
    assert torch.equal(seen, views)
    vectors, behaviour = Vectors(run), Behaviour(digits_task(), Vectors(run).layout, {})
    images = behaviour.images(0, 0, 20)
    originals = torch.stack([vectors.of(weights) for weights in zoo])[:, : views.shape[1]]
    known = behaviour.all_logits(originals, images)
    for first, second in zip(*views.chunk(2), strict=True):
        one, other = behaviour.logits(first, images), behaviour.logits(second, images)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        (same,) = (k for k in range(len(zoo)) if torch.allclose(known[k], one, rtol=1e-3, atol=1e-3))
        assert not torch.equal(first, second)
        assert not any(torch.equal(view, originals[same]) for view in (first, second))


def test_values_are_heard_in_deviations_of_their_layer(trained) -> None:
    """Those of all training networks, of weights and biases together, at least 1e-4."""
    zoo, run = trained
    method = run.method()
    assert isinstance(method, HyperRepresentations)
    model = method._model(Vectors(run), torch.device("cpu"))
    values = torch.stack([Vectors(run).of(weights) for weights in zoo])[:, : model.layers.values]
    for deviation, layer in zip(model.deviations, model.layers.layers, strict=True):
        own = torch.cat([values[:, start : start + layer.rows * width].flatten() for start, width in layer.pieces])
        assert float(deviation) == pytest.approx(max(float(own.std(correction=0)), 1e-4), rel=1e-4)


# What is learnt and drawn


def test_it_gives_back_networks_and_draws_near_the_best_ones(trained, tmp_path):
    """The networks lie near one of two, and are told apart by what is drawn and by what is reconstructed."""
    zoo, run = trained
    originals = list(zoo)
    method = run.method()
    assert isinstance(method, HyperRepresentations)
    for k, found in enumerate(reconstructed(method, run, zoo, zoo.entries, torch.device("cpu"))):
        own, other = distances(found, [originals[k], originals[(k + 1) % 2]])
        assert own < 0.6 * other
        assert torch.equal(found["module.1.num_batches_tracked"], originals[k]["module.1.num_batches_tracked"])
    assert run.facts["anchors"] == 3
    assert 0 < float(str(run.facts["reconstruction_error"])) < 0.5  # 1: all is lost but the mean
    made = generate(run, tmp_path / "made", GenerateConfig(n=8, bandwidth=0.002))
    best = {entry.sha256: k for k, entry in enumerate(zoo.entries) if k >= 7}
    for entry, weights in zip(made.entries, made, strict=True):
        (parent,) = entry.parents
        away = distances(weights, originals[:2])
        assert away[best[parent] % 2] < away[1 - best[parent] % 2]
    independent = generate(run, tmp_path / "other", GenerateConfig(n=4, seeds="independent"))
    assert max(len(entry.parents) for entry in independent.entries) == 3


def test_a_network_is_the_same_whatever_is_drawn_beside_it(trained, tmp_path):
    run = trained[1]
    few, many = (generate(run, tmp_path / str(n), GenerateConfig(n=n, seed=4)) for n in (2, 19))
    assert [entry.sha256 for entry in few.entries] == [entry.sha256 for entry in many.entries[:2]]
    assert len({entry.sha256 for entry in many.entries}) == 19


def test_an_interrupted_training_ends_in_the_same_bytes(trained, tmp_path, monkeypatch):
    zoo = trained[0]
    short = config(autoencoder={**TRAINING, "steps": 30}, model={**MODEL, "dropout": 0.1})
    whole = train(short, zoo, tmp_path / "whole")
    encode, calls = Autoencoder.encode, []

    def stop(self, vectors):
        calls.append(1)
        if len(calls) == 26:
            raise KeyboardInterrupt
        return encode(self, vectors)

    monkeypatch.setattr(Autoencoder, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        train(short, zoo, tmp_path / "run")
    assert (tmp_path / "run" / "autoencoder.state.safetensors").is_file()
    again = train(short, zoo, tmp_path / "run")
    assert len(calls) == 26 + 10 + len(zoo) + NETWORKS  # ten steps again, all networks encoded, and some looked at
    assert content(again.path) == content(whole.path)
    assert not (again.path / "vectors.npy").exists()


def test_another_code_is_found(trained, tmp_path):
    run = trained[1]
    shutil.copytree(run.path, tmp_path / "run", copy_function=os.link)
    copy = Run(tmp_path / "run")
    with pytest.raises(Corrupt, match="does not hold the codes of training networks"):
        load_anchors(copy, (1, 99))
    codes, hashes = load_anchors(copy, (1, MODEL["latent"]))
    assert codes.shape == (3, 1, 16)
    assert hashes == [entry.sha256 for entry in trained[0].entries[7:]]


def test_what_cannot_work_is_refused_before_any_work(tmp_path):
    unscored = digits_zoo(tmp_path / "unscored", 3, scores=False)
    with pytest.raises(ValueError, match=r"no validation scores.*--set method\.best=1"):
        rpg.api.train(unscored, "hyper-representations", out=tmp_path / "run")
    unknown = digits_zoo(tmp_path / "unknown", 3, task={})
    with pytest.raises(ValueError, match=r"nobody knows which units .*--set method\.permutations=false"):
        rpg.api.train(unknown, "hyper-representations", out=tmp_path / "run")
    one = digits_zoo(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="has 1 network to learn from; expected 2 or more"):
        rpg.api.train(one, "hyper-representations", out=tmp_path / "run")
    three = digits_zoo(tmp_path / "three", 3)
    with pytest.raises(ValueError, match=r"values these settings take [\d,.e+]+ GB, and .*latent="):
        rpg.api.train(three, "hyper-representations", out=tmp_path / "run", latent=10**9)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="batch_size = 1 leaves no other network"):
        config(autoencoder={**TRAINING, "batch_size": 1})
    with pytest.raises(ValueError, match="width = 24 is no multiple of heads = 5"):
        config(model={**MODEL, "heads": 5})


def test_activations_count_when_memory_is_checked(tmp_path, monkeypatch):
    zoo, method = digits_zoo(tmp_path / "zoo", 3), config().build()
    data = TrainingSet(zoo, "train", tuple(zoo.entries))
    stage = method.stages(zoo.structure, len(data.entries))[0]
    assert stage.bytes - 1 > 4 * 4 * stage.parameters  # weights, gradients and two moments
    monkeypatch.setattr(cuda, "total_memory", lambda device: stage.bytes)
    method.check(data, Machine(torch.device("cpu")))
    monkeypatch.setattr(cuda, "total_memory", lambda device: stage.bytes - 1)
    with pytest.raises(ValueError, match=r"these settings take .* GB.*method\.model\.width=64"):
        method.check(data, Machine(torch.device("cpu")))


def test_the_estimate_counts_what_is_trained(trained):
    zoo, asked = trained[0], config()
    found = asked.build().estimate(zoo.structure, 50, GenerateConfig(), DEVICES["h200"])
    model = Autoencoder(Layers(zoo.structure), asked.model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.fit_bytes > 12 * found.parameters
    assert found.figures["device"]["training_fits"] is True


@pytest.mark.slow
def test_a_vit_base_is_out_of_memory_without_taking_any():
    specs = [TensorSpec(name=f"{k}.weight", shape=(768, 768), dtype="float32", kind="float") for k in range(145)]
    settings, request = load_method("hyper-representations")
    found = settings.build().estimate(Structure(tensors=tuple(specs)), 50, request, DEVICES["h200"])
    assert found.parameters > 5e10
    assert found.figures["device"]["training_fits"] is False
    assert "which does not hold" in found.text
