"""Hyper-representations, through the Python API: resumes to the same bytes, draws around codes, refuses before work."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
import torch
from tokenised import digits_zoo

import rpg.api
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.ceiling import NETWORKS
from rpg.methods.density import load_anchors
from rpg.methods.hyper_representations.method import Config, GenerateConfig, HyperRepresentations
from rpg.methods.hyper_representations.model import Autoencoder
from rpg.methods.vectors import reconstructed
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
def trained(tmp_path_factory) -> tuple[Zoo, Run]:
    place = tmp_path_factory.mktemp("hyper")
    zoo = digits_zoo(place / "zoo")
    return zoo, train(config(permutations=False, erasing=0.0, noise=0.02), zoo, place / "run")


def distances(a: dict[str, torch.Tensor], others: list[dict[str, torch.Tensor]]) -> list[float]:
    names = [name for name in a if name.endswith("weight")]
    return [sum(float((a[n] - other[n]).square().sum()) for n in names) ** 0.5 for other in others]


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
    stage = method.stage(zoo.structure, len(data.entries))
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
