"""What methods that train on vectors share, through a method of two stages that is small enough to know by heart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rpg.methods.training
import rpg.run
from killing import Killed, check_kills
from learning import content, generate, train
from rpg.methods.base import About, DrawConfig, Machine, MethodConfig, TrainingSet
from rpg.methods.measured import stage_cost
from rpg.methods.training import EMA, Optimisation, Trainer
from rpg.methods.vectors import Codec, Drawn, VectorMethod, Vectors, module_path, reconstructed
from rpg.run import Run
from rpg.tokens.files import open_tokens
from zoo.errors import Corrupt, Failed
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
COUNT = 5
STAGE = Optimisation(steps=5, batch_size=3, learning_rate=1e-2, save_every=2, warmup=1)


class ToyConfig(MethodConfig):
    name: Literal["toy"]
    codec: Optimisation = STAGE
    prior: Optimisation = Optimisation(steps=3, batch_size=2, learning_rate=0.1, save_every=2, ema=0.5)

    def build(self) -> Toy:
        return Toy(self)


class Toy(VectorMethod, Codec):
    """A linear autoencoder, and then the mean of its codes as a parameter: draws are that mean plus noise, decoded."""

    about: ClassVar[About] = About(what="a toy", source="this test", suits="five networks", trained=True)
    group: ClassVar[int] = 2

    def __init__(self, config: ToyConfig) -> None:
        self.config = config

    def refuse(self, data: TrainingSet) -> None:
        if len(data.entries) < 2:
            raise ValueError("too few")

    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict:
        given = vectors.open()

        def batch(step: int) -> Tensor:
            rows = torch.randint(len(given), (3,), generator=generator(0, "toy", step))
            return torch.from_numpy(given[rows.numpy()])

        torch.manual_seed(0)
        codec = trainer.train("codec", autoencoder(vectors.size), self.config.codec, lambda m, s: error(m, batch(s)))
        prior = trainer.train(
            "prior", Mean(), self.config.prior, lambda m, s: (m.mean - codec[0](batch(s)).detach()).square().mean()
        )
        return {"mean": prior.mean.tolist()}

    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        mean = torch.tensor(vectors.run.facts["mean"])
        codes = [mean + torch.randn(2, generator=generator(request.seed, "toy", k)) for k in numbers]
        return Drawn(self.decoder(vectors)(torch.stack(codes)).detach(), [()] * len(codes))

    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        codec = autoencoder(vectors.size)
        rpg.methods.training.load_module(codec, module_path(vectors.run, "codec"))
        return codec(given).detach()

    def decoder(self, vectors: Vectors) -> nn.Module:
        codec = autoencoder(vectors.size)
        rpg.methods.training.load_module(codec, module_path(vectors.run, "codec"))
        return codec[1]

    about_memory = "take a smaller toy"

    def stages(self, structure, checkpoints):
        return [stage_cost("codec", lambda: autoencoder(128), lambda model: error(model, torch.zeros(3, 128)), STAGE)]

    def estimate(self, *args, **kwargs):
        raise NotImplementedError


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))


TOY = ToyConfig(name="toy")


def autoencoder(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 2), nn.Linear(2, size))


def error(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch).square().mean()


def network(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "weight": 3 + torch.randn(5, 7, generator=rng),
        "norm.running_var": torch.rand(40, generator=rng) + 1,
        "steps": torch.tensor(seed),
    }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    with ZooWriter(tmp_path_factory.mktemp("toy") / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(COUNT):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train")
        return writer.finish()


@pytest.fixture(autouse=True)
def lines(monkeypatch) -> None:
    """A line every second step, and a run that can say which method it is of."""
    monkeypatch.setattr(rpg.methods.training, "LOG_EVERY", 2)
    known = rpg.run.method_schema
    monkeypatch.setattr(rpg.run, "method_schema", lambda name: ToyConfig if name == "toy" else known(name))


def records(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_vectors_are_the_standardised_values_and_give_the_networks_back(zoo, tmp_path):
    run = train(TOY, zoo, tmp_path / "run")
    vectors = Vectors(run)
    assert (vectors.size, vectors.values) == (128, 75)
    first, constants = network(0), run.constants()
    vector = vectors.of(first)
    every = np.stack([network(seed)["weight"].numpy().ravel() for seed in range(COUNT)]).astype(float)
    np.testing.assert_allclose(vector[:35], (first["weight"].numpy().ravel() - every.mean()) / every.std(), rtol=1e-5)
    assert not vector[75:].any()
    back = vectors.weights(vector, constants)
    assert back["steps"] == constants["steps"]
    for name in ("weight", "norm.running_var"):
        torch.testing.assert_close(back[name], first[name])


def test_stages_are_killed_anywhere_and_continued_to_the_same_bytes(zoo, tmp_path):
    """Every disk operation of training and of drawing, in both stages."""

    def work(path: Path) -> None:
        generate(train(TOY, zoo, path / "run"), path / "made", DrawConfig(n=3))

    whole = tmp_path / "whole"
    work(whole)
    assert check_kills(work, tmp_path, content(whole), content) > 20
    assert {path.name for path in (whole / "run").iterdir()} == {
        "run.json", "constants.safetensors", "layout.json", "metrics.jsonl", "codec.safetensors", "prior.safetensors",
        "trained.json",
    }  # fmt: skip


def test_the_curve_names_stages_and_counts_their_steps_on(zoo, tmp_path):
    lines = records(train(TOY, zoo, tmp_path / "run"))
    assert [(line["step"], line["stage"]) for line in lines] == [
        (2, "codec"), (4, "codec"), (5, "codec"), (7, "prior"), (8, "prior"),
    ]  # fmt: skip


def test_the_second_stage_is_the_average_of_its_steps(zoo, tmp_path):
    """AdamW's first steps have the size of the learning rate, so that three of them and their average are known."""
    run = train(TOY, zoo, tmp_path / "run")
    parameter = torch.zeros(2, requires_grad=True)
    model = Mean()
    model.mean = nn.Parameter(parameter)
    average, optimizer = EMA(model, 0.5), torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.0)
    codec, given = autoencoder(128), np.stack([Vectors(run).of(network(seed)).numpy() for seed in range(COUNT)])
    rpg.methods.training.load_module(codec, module_path(run, "codec"))
    for step in range(3):
        rows = torch.randint(COUNT, (3,), generator=generator(0, "toy", step))
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * step / 3)) / 2
        optimizer.zero_grad()
        (model.mean - codec[0](torch.from_numpy(given[rows.numpy()])).detach()).square().mean().backward()
        optimizer.step()
        average.update(model)
    torch.testing.assert_close(torch.tensor(run.facts["mean"]), average.values["mean"])


def test_network_k_depends_on_its_seed_and_number_alone(zoo, tmp_path):
    run = train(TOY, zoo, tmp_path / "run")
    one, five = (generate(run, tmp_path / str(n), DrawConfig(n=n)) for n in (3, 5))
    for left, right in zip(one.entries, five.entries, strict=False):
        torch.testing.assert_close(one.load(left), five.load(right))


def test_reconstruction_is_what_the_codec_leaves(zoo, tmp_path):
    run = train(TOY, zoo, tmp_path / "run")
    method, vectors = Toy(TOY), Vectors(run)
    (found,) = reconstructed(method, run, zoo, zoo.entries[1:2], torch.device("cpu"))
    codec = autoencoder(128)
    rpg.methods.training.load_module(codec, module_path(run, "codec"))
    expected = vectors.weights(codec(vectors.of(network(1))).detach(), run.constants())
    torch.testing.assert_close(found, expected)


def test_a_loss_that_is_not_finite_names_the_stage_and_keeps_the_state(zoo, tmp_path):
    broken = ToyConfig(name="toy", prior=Optimisation(steps=30, batch_size=2, learning_rate=1e38, save_every=2))
    with pytest.raises(Failed, match=r"loss is (inf|nan) at step \d+; lower method.prior.learning_rate"):
        train(broken, zoo, tmp_path / "run")
    assert module_path(Run(tmp_path / "run"), "codec").is_file()


def test_a_module_that_was_changed_is_corrupt(zoo, tmp_path):
    run = train(TOY, zoo, tmp_path / "run")
    module_path(run, "codec").write_bytes(module_path(run, "prior").read_bytes())
    with pytest.raises(Corrupt, match="not the module of this run's settings"):
        Toy(TOY).decoder(Vectors(run))


def test_values_that_are_not_finite_are_refused_before_training(zoo, tmp_path):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(2):
            broken = network(seed) | ({"weight": torch.full((5, 7), float("nan"))} if seed else {})
            writer.add(f"net-{seed}", broken, seed=seed, split="train")
        made = writer.finish()
    with pytest.raises(ValueError, match=r"weight of net-1 of .* NaN"):
        train(TOY, made, tmp_path / "run")


def test_several_processes_are_refused(zoo, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = TrainingSet(zoo, "train", tuple(zoo.select("train")))
    with pytest.raises(ValueError, match="one process; run it without `accelerate launch`"):
        Toy(TOY).check(data, Machine(torch.device("cpu")))


def test_without_statistics_values_are_as_they_are_and_variances_their_logarithms(tmp_path):
    rng = torch.Generator().manual_seed(0)
    networks = [
        {"w": torch.randn(6, generator=rng) + 3, "norm.running_var": torch.rand(2, generator=rng) + 1} for _ in range(4)
    ]
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(networks[0])) as writer:
        for seed, weights in enumerate(networks):
            writer.add(f"net-{seed}", weights, seed=seed, split="train")
        zoo = writer.finish()
    (tmp_path / "run").mkdir()
    vectors = Vectors(Run(tmp_path / "run"))
    vectors.prepare(TrainingSet(zoo, "train", tuple(zoo.entries)), "none")
    assert {(tensor.mean, tensor.std) for tensor in vectors.layout.tensors} == {(0.0, 1.0)}
    values = open_tokens(vectors.vectors_path, vectors.layout, 4)[:, vectors.layout.mask().numpy()]
    np.testing.assert_allclose(values[:, :6], torch.stack([weights["w"] for weights in networks]), rtol=1e-6)
    logs = torch.stack([weights["norm.running_var"] for weights in networks]).log()
    np.testing.assert_allclose(np.ptp(values[:, 6:], 0), np.ptp(logs.numpy(), 0), rtol=0.1)


def test_what_kills_left_half_written_goes_when_a_training_is_continued(zoo, tmp_path, monkeypatch):
    """At once, should it be killed again; and of files that are written after the last step, when it ends."""
    names = {".tmpAbC123", ".codec.state.safetensors.tmp"}
    path = tmp_path / "run"

    def leave() -> None:
        path.mkdir(exist_ok=True)
        for name in names:
            (path / name).write_bytes(b"half")

    def left() -> set[str]:
        return names & {file.name for file in path.iterdir()}

    leave()
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "learn", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(TOY, zoo, path)
    assert left() == names  # nobody holds the directory yet
    with monkeypatch.context() as patch:
        patch.setattr(rpg.methods.training, "cosine", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(TOY, zoo, path)
    assert left() == set()
    train(TOY, zoo, path)
    leave()
    train(TOY, zoo, path)
    assert left() == set()
