"""Perturbed zoos against plain numpy over all checkpoints at once."""

import numpy as np
import pytest
import torch

from zoo.derive.perturb import PerturbConfig, perturb
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(40, 50, generator=rng) * 3 + 1
    return {
        "weight": weight,
        "tied": weight,
        "norm.running_var": torch.rand(30, generator=rng),
        "half": torch.randn(10, generator=rng).half(),
        "constant": torch.full((5,), 2.0),
        "steps": torch.tensor(100 + seed),
    }


@pytest.fixture
def zoo(tmp_path) -> Zoo:
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(6):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train")
        return writer.finish()


def made(zoo, **settings):
    return perturb(PerturbConfig(**settings), zoo, zoo.select(), ORIGIN, zoo.path.parent / "made")


def stack(name):
    return np.stack([network(seed)[name].double().numpy() for seed in range(6)])


def test_a_soup_of_all_is_their_mean(zoo):
    result = made(zoo, kind="soup", n=3)
    assert len(result.entries) == 1
    weights = result.load(result.entries[0])
    for name in ("weight", "norm.running_var", "half", "constant"):
        np.testing.assert_allclose(weights[name].double(), stack(name).mean(0), rtol=1e-3 if name == "half" else 1e-6)
    assert weights["tied"] is weights["weight"]
    assert weights["steps"] == 100
    assert result.entries[0].parents == tuple(entry.sha256 for entry in zoo.entries)
    assert result.manifest.origin.parents == (zoo.sha256,)


def test_a_soup_is_the_mean_of_its_recorded_parents(zoo):
    result = made(zoo, kind="soup", n=4, of=2)
    by_hash = {entry.sha256: seed for seed, entry in enumerate(zoo.entries)}
    chosen = [tuple(by_hash[parent] for parent in entry.parents) for entry in result.entries]
    assert all(len(set(pair)) == 2 for pair in chosen)
    assert len(set(chosen)) > 1
    for entry, pair in zip(result.entries, chosen, strict=True):
        np.testing.assert_allclose(result.load(entry)["weight"], stack("weight")[list(pair)].mean(0), rtol=1e-5)


def test_noise_has_the_asked_size_relative_to_each_tensor(zoo):
    result = made(zoo, kind="noise", n=2, sigma=0.1)
    by_hash = {entry.sha256: seed for seed, entry in enumerate(zoo.entries)}
    for entry in result.entries:
        original, noised = network(by_hash[entry.parents[0]]), result.load(entry)
        difference = (noised["weight"] - original["weight"]).double()
        expected = 0.1 * original["weight"].double().std(correction=0)
        assert difference.std() == pytest.approx(expected.item(), rel=0.05)
        log_ratio = (noised["norm.running_var"] / original["norm.running_var"]).log().double()
        expected = 0.1 * original["norm.running_var"].double().log().std(correction=0)
        assert log_ratio.std() == pytest.approx(expected.item(), rel=0.5)
        assert torch.equal(noised["steps"], network(0)["steps"])  # an integer: the first training network's


def test_gaussian_has_the_moments_of_every_value(zoo):
    result = made(zoo, kind="gaussian", n=400)
    draws = np.stack([result.load(entry)["weight"].double().numpy() for entry in result.entries])
    mean, std = stack("weight").mean(0), stack("weight").std(0, ddof=1)
    z = (draws.mean(0) - mean) / (std / 20)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1, abs=0.1)
    assert np.median(draws.std(0, ddof=1) / std) == pytest.approx(1, abs=0.02)
    assert all((result.load(entry)["norm.running_var"] >= 0).all() for entry in result.entries[:50])


def test_networks_do_not_depend_on_how_many_are_made(zoo, tmp_path):
    few = perturb(PerturbConfig(kind="noise", n=2), zoo, zoo.select(), ORIGIN, tmp_path / "few")
    many = perturb(PerturbConfig(kind="noise", n=5), zoo, zoo.select(), ORIGIN, tmp_path / "many")
    assert [entry.sha256 for entry in few.entries] == [entry.sha256 for entry in many.entries[:2]]


def test_mixing_more_networks_than_there_are_is_refused(zoo):
    with pytest.raises(ValueError, match="cannot mix 7"):
        made(zoo, kind="soup", of=7)


def test_a_gaussian_of_one_network_is_refused(zoo, tmp_path):
    with pytest.raises(ValueError, match="expected 2 or more"):
        perturb(PerturbConfig(kind="gaussian"), zoo, zoo.select()[:1], ORIGIN, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_networks_are_of_the_task_of_all_that_they_are_made_of(tmp_path):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed, condition in enumerate(("01", "01", "10")):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train", condition=condition)
        tasks = writer.finish()
    noise = perturb(PerturbConfig(kind="noise", n=4), tasks, tasks.entries, ORIGIN, tmp_path / "noise")
    known = {entry.sha256: entry.condition for entry in tasks.entries}
    assert [entry.condition for entry in noise.entries] == [known[entry.parents[0]] for entry in noise.entries]
    for entries, condition in ((tasks.entries[:2], "01"), (tasks.entries, None)):
        soup = perturb(PerturbConfig(kind="soup"), tasks, entries, ORIGIN, tmp_path / f"soup-{condition}")
        assert [entry.condition for entry in soup.entries] == [condition]


def test_settings_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="sigma = 3 is for noise, not for kind gaussian"):
        PerturbConfig(kind="gaussian", sigma=3)
    with pytest.raises(ValueError, match="of = 2 is for soups, not for kind noise"):
        PerturbConfig(kind="noise", of=2)
