"""What networks do as a term of RPG's loss: it is theirs, it is learnt from, and a killed training goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zoo
from learning import content, generate, train
from rpg.methods.rpg.behaviour import ReadOutBehaviour
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.methods.rpg.learnt import Learnt
from rpg.methods.task_data import Behaviour, task_with_data
from rpg.run import Run
from zoo.conditions import bits
from zoo.errors import Failed
from zoo.recipe import load_recipe
from zoo.seeds import generator
from zoo.store import Zoo

BINARY = Path(__file__).parents[4] / "integration" / "binary.yaml"
CPU = torch.device("cpu")


def config(*overrides: str) -> RPGConfig:
    supervised = ("prediction=sample", "prototype_loss=1", "generator.statistics=value")
    found = load_recipe(str(BINARY), [f"method.{item}" for item in (*supervised, *overrides)]).method
    assert isinstance(found, RPGConfig)
    return found


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return zoo.collect(str(BINARY), out=tmp_path_factory.mktemp("binary") / "zoo")


def of_run(run: Run, networks: Zoo, settings: RPGConfig) -> ReadOutBehaviour:
    learnt = Learnt(run)
    layout, conditions = learnt.layout(), learnt.record().conditions
    known = Behaviour(task_with_data(networks.manifest.origin, CPU, "", None, told=True), layout, networks.frozen())
    cond = torch.stack([bits(condition) for condition in conditions])
    return ReadOutBehaviour(settings, known, layout, cond, conditions, learnt.values(layout))


def test_it_is_the_cross_entropy_of_the_networks_that_are_read_out(networks: Zoo, tmp_path: Path) -> None:
    """Drawn by `generate --sampler readout`, built, and scored with the labels of their tasks, network by network."""
    settings = config("train.steps=20", "behaviour=0.5", "behaviour_networks=3", "behaviour_images=40")
    run = train(settings, networks, tmp_path / "run")
    term = of_run(run, networks, settings)
    found = term.loss(Learnt(run).generator(CPU), 7)
    images, classes = term.behaviour.batch(settings.train.seed, 7, 40)
    rows = torch.randint(len(term.cond), (3,), generator=generator(settings.train.seed, "behaviour", 7)).tolist()
    expected = []
    for row in rows:
        condition = term.conditions[row]
        asked = GenerateConfig(n=1, sampler="readout", conditions=(condition,))
        made = generate(run, tmp_path / f"made-{condition}", asked)
        model = term.behaviour.task.build(0).eval()
        term.behaviour.task.load(model, made.load(made.entries[0]))
        expected.append(F.cross_entropy(model(images), bits(condition).long()[classes]))
    assert found.item() == pytest.approx(0.5 * torch.stack(expected).mean().item(), rel=1e-4)


def test_networks_do_better_for_it(networks: Zoo, tmp_path: Path) -> None:
    losses = {}
    for weight in (0, 5):
        settings = config("train.steps=60", f"behaviour={weight}")
        run = train(settings, networks, tmp_path / f"run-{weight}")
        term = of_run(run, networks, config("behaviour=1", "behaviour_networks=16", "behaviour_images=200"))
        losses[weight] = term.loss(Learnt(run).generator(CPU), 1000).item()
    assert losses[5] < 0.9 * losses[0]


def test_an_interrupted_training_goes_on_to_the_same_bytes(
    networks: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("train.steps=30", "behaviour=1")
    whole = train(settings, networks, tmp_path / "whole")
    honest = ReadOutBehaviour.loss

    def stop(term: Any, model: Any, step: int) -> torch.Tensor:
        if step == 25:
            raise Failed("stopped")
        return honest(term, model, step)

    monkeypatch.setattr(ReadOutBehaviour, "loss", stop)
    with pytest.raises(Failed, match="stopped"):
        train(settings, networks, tmp_path / "stopped")
    monkeypatch.undo()
    assert content(train(settings, networks, tmp_path / "stopped").path) == content(whole.path)


def test_what_cannot_be_learnt_from_is_refused(networks: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"behaviour = 1 is of networks read out .* set method\.prototype_loss to 1"):
        config("prototype_loss=0", "behaviour=1")
    with pytest.raises(ValueError, match=r"behaviour_images = 32 says how .* behaviour = 0; leave it out, or set"):
        config("behaviour_images=32")
    monkeypatch.setattr("rpg.methods.rpg.behaviour.world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"in one process, not in 2; use --set method\.behaviour=0"):
        train(config("behaviour=1", "train.steps=10"), networks, tmp_path / "run")
