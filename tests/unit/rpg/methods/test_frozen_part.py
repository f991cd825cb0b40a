"""Methods of whole networks on a zoo whose `task.trainable` trains some tensors alone: the rest stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenised import TASK, digits_networks

from evaluators.metrics import Metric
from learning import generate, train
from zoo.checkpoint import save_tensors
from zoo.manifest import Origin
from zoo.recipe import load_method
from zoo.store import FROZEN, Zoo
from zoo.tasks.classification import Config
from zoo.writer import ZooWriter

BRIEF = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
TRAINED = ("module.4.weight", "module.5.*", "head.*")
WHOLE: dict[str, Any] = {"token_size": 40, "width": 8, "layers": 1, "heads": 2, "latent": 4, "window": 64, "halo": 0}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "p-diff": (
        {"autoencoder": {"channels": (2, 2), "code": 4} | BRIEF, "denoiser": {"channels": (1, 2, 1)} | BRIEF},
        {"steps": 2},
    ),
    "hyper-representations": (
        {"model": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "latent": 4}, "autoencoder": BRIEF},
        {},
    ),
    "sane": (
        {"model": WHOLE, "autoencoder": BRIEF, "behaviour": 0.5, "queries": 8},
        {"candidates": 3, "kept": 2, "batchnorm_passes": 1},
    ),
    "d2nwg": (
        {
            "autoencoder": {"projection": 64, "side": 8, "width": 8, "multipliers": (1, 2), "blocks": 1} | BRIEF,
            "denoiser": {"width": 8, "multipliers": (1, 2), "blocks": 1} | BRIEF,
        },
        {"steps": 2},
    ),
    "flow": ({"velocity": {"hidden": (8,)} | BRIEF}, {"steps": 2}),
}


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> tuple[Zoo, Config, dict[str, torch.Tensor]]:
    """A zoo of parts of networks, its task, and the network that they all start from."""
    place: Path = tmp_path_factory.mktemp("part")
    start, *networks = digits_networks(6)
    save_tensors(place / "start.safetensors", start)
    task = TASK | {"pretrained": str(place / "start.safetensors"), "trainable": TRAINED}
    config = Config.model_validate(task)
    said = task | {"trainable": list(TRAINED)}
    origin = Origin(name="part", kind="collected", task=said, command=("x",), versions={})
    with ZooWriter(place / "zoo", origin, config.structure(), config.frozen()) as writer:
        for k, network in enumerate(networks):
            weights = {name: network[name] for name in config.chosen(network)}
            writer.add(f"net-{k}", weights, seed=k, split="train", metrics=[Metric("top1", 50.0 + k, 100, 1.0)])
        return writer.finish(), config, start


@pytest.mark.parametrize("name", METHODS)
def test_frozen_tensors_are_those_of_the_zoo(part, tmp_path, name) -> None:
    """Byte for byte; networks that are loaded are whole, and a selection is by what whole ones score."""
    zoo, config, start = part
    settings, asked = METHODS[name]
    kind, draw = (type(found) for found in load_method(name))
    run = train(kind.model_validate({"name": name, **settings}), zoo, tmp_path / "run")
    made = generate(run, tmp_path / "made", draw.model_validate({"n": 2, **asked}))
    assert (made.path / FROZEN).read_bytes() == (zoo.path / FROZEN).read_bytes()
    frozen = made.frozen()
    assert sorted(frozen) == sorted(set(start) - set(config.chosen(start))) != []
    assert all(torch.equal(tensor, start[tensor_name]) for tensor_name, tensor in frozen.items())
    assert [spec.name for spec in made.structure] == config.chosen(start)
    task = config.build(None, torch.device("cpu"))
    network = task.build(5)
    for entry, weights in zip(made.entries, made, strict=True):  # whole ones
        assert sorted(weights) == sorted(start)
        assert all(torch.equal(weights[kept], start[kept]) for kept in frozen)
        assert not torch.equal(weights["head.0.bias"], start["head.0.bias"])
        task.load(network, weights)
        if entry.metrics:
            (score,) = (m.value for m in task.evaluate(network, "validation").metrics if m.name == "top1")
            assert entry.metrics["top1"].value == score
    assert bool(made.entries[0].metrics) is (name == "sane")
