"""One learned shift: it lowers the loss of all networks together, is the same for all, and the rest is the Gaussian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linear_gaussian import CPU, gaussian_zoo
from tokenised import digits_zoo

import rpg.methods.shift
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import DrawConfig, Machine, TrainingSet
from rpg.methods.shift import Config
from rpg.methods.vectors import Vectors
from zoo.recipe import task_of
from zoo.seeds import generator


def config(steps: int = 40, **others: Any) -> Config:
    shift = {"steps": steps, "batch_size": 4, "images": 64, "learning_rate": 0.1, "save_every": 10}
    return Config.model_validate({"name": "shift", "shift": shift, **others})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return digits_zoo(tmp_path_factory.mktemp("shift") / "zoo")


def test_a_shift_that_all_networks_share_lowers_their_loss(zoo, tmp_path) -> None:
    run = train(config(width=0.3), zoo, tmp_path / "run")
    vectors = Vectors(run)
    values = torch.stack([vectors.of(zoo.load(entry)) for entry in zoo.select("train")])
    made = generate(run, tmp_path / "made", DrawConfig(n=4))
    found = [vectors.of(made.load(entry)) for entry in made.entries]
    shift = run.method().trained(vectors, "shift", lambda: rpg.methods.shift.Common(vectors.size), CPU).shift.detach()
    assert shift.norm() > 0.1
    for k, vector in enumerate(found):  # mean and population deviation of the training networks, written out
        noise = torch.randn(vectors.size, generator=generator(0, "shift", "draw", k))
        expected = values.mean(0) + values.std(0, correction=0) * (shift + 0.3 * noise)
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-4)
    task = task_of(zoo.manifest.origin).build(None, CPU)
    network, losses = task.build(0), []
    for vector in (found[0], found[0] - values.std(0, correction=0) * shift):
        task.load(network, vectors.weights(vector, run.constants()))
        losses.append({metric.name: metric.value for metric in task.evaluate(network, "validation").metrics}["loss"])
    assert losses[0] < losses[1]


def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, tmp_path, monkeypatch) -> None:
    whole = train(config(20), zoo, tmp_path / "whole")

    def stopping(seed: int, *path: str | int, **others: Any) -> torch.Generator:
        if path == ("shift", 15):
            raise KeyboardInterrupt
        return generator(seed, *path, **others)

    monkeypatch.setattr(rpg.methods.shift, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config(20), zoo, tmp_path / "run")
    monkeypatch.undo()
    assert content(train(config(20), zoo, tmp_path / "run").path) == content(whole.path)


def test_what_cannot_work_is_refused_before_any_work(zoo, tmp_path) -> None:
    for given, words in (
        (digits_zoo(tmp_path / "toy", 4, task={}), r"do not classify images.*use --method gaussian"),
        (gaussian_zoo(tmp_path / "one", count=1), "1 network"),
    ):
        with pytest.raises(ValueError, match=words):
            config().build().check(TrainingSet.of(given, "train"), Machine(CPU))


def test_the_estimate_counts_the_shift(zoo) -> None:
    found = config().build().estimate(zoo.structure, 50, DrawConfig(), DEVICES["h200"])
    assert found.parameters == sum(spec.numel for spec in zoo.structure if spec.kind != "constant")
