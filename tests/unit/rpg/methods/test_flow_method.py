"""Flow matching through its door: copies where it must copy, resumable to the same bytes, refusals, estimates."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import rpg.methods.flow
from killing import check_kills
from learning import content, generate, train
from rpg.api import estimate_recipe
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.flow import COMPONENTS, Config, FlowDrawConfig, flow_loss
from rpg.methods.vectors import Codec, Vectors, reconstructed
from zoo import cuda
from zoo.checkpoint import load_tensors, save_tensors
from zoo.errors import Corrupt
from zoo.manifest import Origin
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
CPU = torch.device("cpu")
COUNT = 6


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=rng),
        "norm.running_var": torch.rand(4, generator=rng) + 0.5,
        "steps": torch.tensor(seed),
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Zoo:
    with ZooWriter(tmp_path_factory.mktemp("flow") / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(COUNT):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train")
        return writer.finish()


def config(steps: int = 30, velocity: dict[str, object] | None = None, **settings: object) -> Config:
    section = {"steps": steps, "batch_size": 8, "learning_rate": 2e-3, "hidden": (64, 64), "dropout": 0.0}
    section |= velocity or {}
    return Config.model_validate({"name": "flow", "velocity": section, **settings}, strict=False)


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights["weight"].flatten(), weights["norm.running_var"]])


@pytest.mark.parametrize("settings", [{"codes": "pca", "unit_codes": True}, {"codes": "networks", "source": "fresh"}])
def test_trained_long_on_few_networks_it_copies_them(toy, tmp_path, settings) -> None:
    """The exact minimiser of the loss is a flow to the training networks alone."""
    made = config(500, {"learning_rate": 5e-3}, statistics="tensor", **settings)
    run = train(made, toy, tmp_path / "run")
    assert run.facts["velocity"] == pytest.approx(1, abs=0.1)
    found = generate(run, tmp_path / "made", FlowDrawConfig(n=8, steps=30))
    originals = torch.stack([flat(weights) for weights in toy.checkpoints(toy.entries)])
    new = torch.stack([flat(weights) for weights in found.checkpoints(found.entries)])
    between = torch.pdist(originals).min()
    assert float(torch.cdist(new, originals).min(1).values.median()) < 0.35 * between


def losses_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, ...]]:
    """What the loss is given beside the velocity, call by call: source, clean, times, noise."""
    calls: list[tuple[torch.Tensor, ...]] = []

    def look(velocity, *given):
        calls.append(given)
        return flow_loss(velocity, *given)

    monkeypatch.setattr(rpg.methods.flow, "flow_loss", look)
    return calls


def test_the_loss_is_the_error_of_the_velocity_at_noised_points_of_lines() -> None:
    source, clean, noise = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    times, total = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]), 0.0
    for a, b, t, e in zip(source, clean, times, noise, strict=True):
        total += float(((a + t * (b - a) + e) * 2 + t - (b - a)).square().sum())

    class Doubling(torch.nn.Module):
        def forward(self, points: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return 2 * points + at[:, None]

    assert float(flow_loss(Doubling(), source, clean, times, noise)) == pytest.approx(total / 20, rel=1e-5)


@pytest.mark.parametrize("source", ["once", "fresh"])
def test_training_knows_as_many_samples_of_the_source_as_there_are_networks_or_ever_new_ones(
    toy, tmp_path, monkeypatch, source
) -> None:
    calls, steps, batch = losses_of(monkeypatch), 40, 16
    train(config(steps, {"batch_size": batch}, source=source, source_sigma=0.3), toy, tmp_path / "run")
    sources = torch.cat([given[0] for given in calls[-steps:]])
    assert len(sources.unique(dim=0)) == (COUNT if source == "once" else steps * batch)
    if source == "fresh":
        assert float(sources.std()) == pytest.approx(0.3, rel=0.05)


def test_points_of_paths_have_the_noise_that_is_asked_for(toy, tmp_path, monkeypatch) -> None:
    """By default that of the paper, 0.001."""
    calls = losses_of(monkeypatch)
    for asked, expected in [({}, 0.001), ({"path_noise": 0.2}, 0.2)]:
        train(config(1, {"batch_size": 400}, **asked), toy, tmp_path / str(expected))
        noise = calls[-1][3]
        assert float(noise.std()) == pytest.approx(expected, rel=0.1)
        assert len(noise.unique(dim=0)) == 400


def test_killed_anywhere_training_ends_in_the_same_bytes(toy, tmp_path) -> None:
    made = config(20, {"save_every": 10, "dropout": 0.1, "ema": 0.9, "hidden": (8,)})

    def work(path: Path) -> None:
        train(made, toy, path)

    work(tmp_path / "whole")
    assert check_kills(work, tmp_path, content(tmp_path / "whole"), content) > 10


def test_a_network_depends_on_seed_and_number_alone(toy, tmp_path) -> None:
    run = train(config(5), toy, tmp_path / "run")
    many = generate(run, tmp_path / "many", FlowDrawConfig(n=18, steps=2, sampler="euler"))
    few = generate(run, tmp_path / "few", FlowDrawConfig(n=17, steps=2, sampler="euler"))
    torch.testing.assert_close(flat(many[16]), flat(few[16]))  # of groups of two networks and of one
    assert not torch.equal(flat(many[0]), flat(many[1]))
    other = generate(run, tmp_path / "other", FlowDrawConfig(n=1, steps=2, seed=1))
    assert not torch.equal(flat(many[0]), flat(other[0]))


def test_the_codec_gives_back_what_its_components_span(toy, tmp_path) -> None:
    ranks = (None, 1)
    runs = [train(config(1, rank=rank), toy, tmp_path / f"run-{rank}") for rank in ranks]
    originals = [flat(weights) for weights in toy.checkpoints(toy.entries)]
    for run, rank in zip(runs, ranks, strict=True):
        method = run.method()
        assert isinstance(method, Codec)
        back = [flat(weights) for weights in reconstructed(method, run, toy, toy.entries, CPU)]
        errors = [float((a - b).norm()) for a, b in zip(originals, back, strict=True)]
        assert max(errors) < 1e-4 if rank is None else min(errors) > 0.1
    assert not isinstance(config(codes="networks").build(), Codec)


def test_whole_networks_are_not_kept_beside_the_field(toy, tmp_path) -> None:
    run = train(config(1, codes="networks"), toy, tmp_path / "run")
    assert not Vectors(run).vectors_path.exists()
    run = train(config(1), toy, tmp_path / "pca")
    assert Vectors(run).vectors_path.name in run.files


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 6}, "use --set method.rank=5 or fewer"), ({"codes": "networks", "rank": 3}, "belong to codes: pca")],
)
def test_what_cannot_work_is_refused_before_any_work(toy, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings).build().check(TrainingSet(toy, "train", tuple(toy.entries)), Machine(CPU))


@pytest.mark.parametrize("codes", ["pca", "networks"])
def test_one_network_and_settings_beyond_the_memory_are_refused_before_any_work(toy, codes, monkeypatch) -> None:
    method, data = config(codes=codes).build(), TrainingSet(toy, "train", tuple(toy.entries))
    with pytest.raises(ValueError, match=r"has 1 network to learn from.*expected 2 or more"):
        method.check(TrainingSet(toy, "train", tuple(toy.entries[:1])), Machine(CPU))
    method.check(data, Machine(CPU))
    monkeypatch.setattr(cuda, "total_memory", lambda device: 10**4)
    with pytest.raises(ValueError, match=r"networks of 16 values .* and cpu has 1e-05 GB; use --set method.codes=pca"):
        method.check(data, Machine(CPU))


@pytest.mark.parametrize("damage", ["missing", "shape", "infinite"])
def test_damaged_components_are_corrupt(toy, tmp_path, damage) -> None:
    run = train(config(1), toy, tmp_path / "run")
    path = run.path / COMPONENTS
    found = load_tensors(path)
    if damage == "missing":
        del found["codes"]
    elif damage == "shape":
        found["codes"] = found["codes"][:-1]
    else:
        found["variances"][0] = torch.inf
    save_tensors(path, found)
    with pytest.raises(Corrupt, match="no components of 6 networks"):
        run.method().make(Vectors(run), FlowDrawConfig(n=1), [0], CPU)


def test_what_86_million_values_cost_is_known_in_seconds() -> None:
    begun = time.process_time()
    _, whole = estimate_recipe("flow", None, ["method.codes=networks"], DEVICES["rtx3090"], 86_000_000)
    _, codes = estimate_recipe("flow", None, [], DEVICES["rtx3090"], 86_000_000)
    assert time.process_time() - begun < 5
    assert whole.parameters == pytest.approx(2 * 86e6 * 512, rel=0.01)
    assert whole.fit_bytes > 4 * 4 * whole.parameters  # weights, gradients, two moments: 1.4 TB
    assert whole.figures["device"]["training_fits"] is False
    # The first and the last layer, each forward and twice backward, two FLOPs for a value of a batch of 8.
    assert whole.fit_flops == pytest.approx(30_000 * 8 * 2 * 3 * 2 * 86e6 * 512, rel=0.01)
    assert codes.parameters < 10**6
    assert codes.fit_bytes < 10**8
    assert codes.figures["device"]["training_fits"] is True


@pytest.mark.parametrize("name", ["flow", "flow-small"])
def test_its_settings_come_with_the_package(name) -> None:
    found, draw = load_method(name)
    assert isinstance(found, Config)
    assert isinstance(draw, FlowDrawConfig)
    assert draw.n == 10
