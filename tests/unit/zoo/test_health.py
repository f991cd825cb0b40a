"""Whether networks work: scores beside chance, said when a zoo is made and before it is learnt."""

import logging

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from evaluators.metrics import Metric, proportion
from zoo.conditions import all_conditions
from zoo.health import health, report_health, validated, warn_of_guessers, works_from
from zoo.manifest import Origin
from zoo.recipe import load_recipe, recipe_names
from zoo.structure import Structure
from zoo.writer import ZooWriter

CHANCE = {"top1": 10.0}


@pytest.mark.parametrize(
    ("chance", "samples", "expected"),
    [(10, 10_000, 10 + 4.5 + 0.6), (50, 2500, 50 + 2.5 + 2), (0.1, 50_000, 0.1 + 0.05 + 0.028269), (0, 10, 0)],
)
def test_the_least_score_of_a_network_that_works(chance: float, samples: int, expected: float) -> None:
    assert works_from(chance, samples) == pytest.approx(expected, abs=1e-5)


def test_hardly_any_network_passes_that_was_never_trained() -> None:
    """Though they are right more often than a die, or less: by far more than their standard errors."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    rng = torch.Generator().manual_seed(0)
    scores = []
    for _ in range(400):
        hidden = torch.relu(images @ torch.randn(64, 32, generator=rng))
        scores.append(100 * float(((hidden @ torch.randn(32, 10, generator=rng)).argmax(1) == labels).float().mean()))
    least = works_from(10, len(labels))
    assert np.std(scores) > 2 * 100 * np.sqrt(0.09 / len(labels))
    assert np.mean(np.array(scores) > least) < 0.1


def made(path, accuracies, metric="top1", task=None, samples=100):
    task = {"name": "classification", "model": "cnn_digits", "data": "digits"} if task is None else task
    origin = Origin(name="toy", kind="collected", task=task, command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of({"w": torch.zeros(1)})) as writer:
        for k, accuracy in enumerate(accuracies):
            about = Metric("loss", 1.0, 100, 0.1, higher_is_better=False)
            found = proportion(metric, np.arange(samples) < accuracy * samples / 100)
            writer.add(f"n{k}", {"w": torch.ones(1)}, seed=k, split="train", metrics=(about, found))
        return writer.finish()


def test_health_is_of_the_metric_whose_chance_is_known(tmp_path) -> None:
    zoo = made(tmp_path / "zoo", [9, 12, 90, 97])
    found = health(zoo.entries, CHANCE)
    assert found
    assert (found.metric, found.mean, found.low, found.high) == ("top1", 52, 9, 97)
    assert (found.networks, found.working, found.works) == (4, 2, True)
    assert str(found) == "top1 52.00 on average (9.00 to 97.00), chance 10.00"
    unknown = health(zoo.entries, {})
    assert unknown
    assert (unknown.metric, unknown.chance, unknown.works) == ("loss", None, True)
    assert health([entry.model_copy(update={"metrics": {}}) for entry in zoo.entries], CHANCE) is None


def test_a_new_zoo_says_how_good_it_is_and_warns_of_guessers(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="zoo.health")
    report_health(made(tmp_path / "good", [90, 97]), CHANCE)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages[0].endswith("good: on validation data top1 93.50 on average (90.00 to 97.00), chance 10.00")
    caplog.clear()
    report_health(made(tmp_path / "dead", [9, 10, 12, 90]), CHANCE)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "do not work: 1 of 4 are better than guessing" in caplog.messages[1]


def test_what_few_samples_cannot_tell_is_said_so(tmp_path, caplog) -> None:
    report_health(made(tmp_path / "few", [50, 50, 60], samples=6), {"top1": 33.3})
    (message,) = caplog.messages
    assert "are better than guessing cannot be told on 6 validation samples" in message


def test_networks_without_a_mistake_are_not_called_guessers_however_few_the_samples(tmp_path) -> None:
    assert works_from(50, 1) > 100
    for accuracy, works in ((100, True), (0, False)):
        assert health(made(tmp_path / str(accuracy), [accuracy], samples=1).entries, {"top1": 50}).works == works


def test_guessers_are_warned_of_before_they_are_learnt(tmp_path, caplog) -> None:
    for name, accuracies, task, warned in (
        ("dead", [9, 11], None, True),
        ("good", [95, 11], None, False),
        ("unknown", [9, 11], {}, False),
        ("foreign", [9, 11], {"name": "nobody's"}, False),
    ):
        caplog.clear()
        warn_of_guessers(made(tmp_path / name, accuracies, task=task), "train")
        assert bool(caplog.messages) == warned, name
    assert validated(made(tmp_path / "more", [50]), "train").mean == 50


def test_every_recipe_knows_its_chance() -> None:
    expected = {"digits": {"top1": 10.0}, "resnet18": {"top1": 0.1}, "binary-cifar10-cnn": {"balanced": 50.0}}
    names = recipe_names()
    for name in names:
        task = load_recipe(name).task
        assert task.chance() == expected.get(name, task.chance())
        assert len(task.chance()) == 1
        assert all(0 <= value <= 50 for value in task.chance().values())
    assert set(expected) <= set(names)
    assert len(all_conditions()) > 1000  # the labels of binary tasks are unequal, so that top-1 has no one chance
