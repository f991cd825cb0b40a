"""Polishing: the task's own training from given weights, step for step; resumable; its source stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from killing import check_kills, content
from zoo.api import collect
from zoo.derive import polish as polish_module
from zoo.derive.perturb import PerturbConfig, perturb
from zoo.derive.polish import PolishConfig, Polishing, origin_of
from zoo.errors import Failed
from zoo.manifest import Entry, settings_of
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.tasks.base import Task

CONFIG = PolishConfig(steps=3, learning_rate=1e-2, batch_size=64)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    """Three seeds of handwritten digits after a twentieth of an epoch, one of them held out."""
    settings = ["zoo.regime=independent", "zoo.seeds=3", "zoo.heldout=0.3334", "zoo.checkpoints=1", "zoo.epochs=0.05"]
    return collect("digits", out=tmp_path_factory.mktemp("digits") / "zoo", overrides=settings, device="cpu")


@pytest.fixture(scope="module")
def task(zoo) -> Task:
    return task_of(zoo.manifest.origin).build(None, torch.device("cpu"))


def polish(config: PolishConfig, zoo: Zoo, entries: Sequence[Entry], task: Task, path: Path) -> Zoo:
    origin = origin_of(config, zoo, entries, ("rpg", "polish"))
    return Polishing(zoo, config, entries, task, origin, path).carry_out()


def test_it_is_the_tasks_training_step_for_step(zoo, task, tmp_path):
    made = polish(CONFIG, zoo, zoo.select("train"), task, tmp_path / "made")
    for entry, source in zip(made.entries, zoo.select("train"), strict=True):
        model = task.build(0)
        task.load(model, zoo.load(source))
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
        batches = task.batches(0, 0, 64)
        for rate in (1e-2, (1e-2 + 1e-4) / 2, 1e-4):  # half a cosine over two steps, and the one that saves
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            task.loss(model, next(batches)).backward()
            optimizer.step()
        torch.testing.assert_close(made.load(entry), task.weights(model), rtol=1e-6, atol=1e-7)
        assert (entry.id, entry.parents, entry.step) == (source.id, (source.sha256,), 3)
        assert entry.metrics["top1"].value == task.evaluate(model, "validation").metrics[0].value
    assert made.manifest.origin.settings["polish"]["steps"] == 3
    assert made.manifest.origin.source.zoo == zoo.sha256


def test_more_steps_score_more(zoo, task, tmp_path):
    entries = zoo.select("train")
    config = PolishConfig(steps=60, learning_rate=1e-2, batch_size=64)
    made = polish(config, zoo, entries, task, tmp_path / "made")
    for before, after in zip(entries, made.entries, strict=True):
        assert after.metrics["top1"].value > before.metrics["top1"].value + 20


def test_it_is_killed_anywhere_and_continued_to_the_same_bytes(zoo, task, tmp_path, monkeypatch):
    """Whoever shares the batches: a network alone, or with others, is trained the same."""
    before, entries = content(zoo.path), zoo.select("train")

    def work(path):
        polish(CONFIG, zoo, entries, task, path)

    work(tmp_path / "whole")
    monkeypatch.setattr(polish_module, "MOST", 1)
    check_kills(work, tmp_path / "kills", content(tmp_path / "whole"))
    assert content(zoo.path) == before


def test_another_number_of_steps_in_the_same_place_is_refused(zoo, task, tmp_path):
    entries = zoo.select("train")
    polish(CONFIG, zoo, entries, task, tmp_path / "made")
    with pytest.raises(ValueError, match=r"holds another zoo: .*polish.steps 3 -> 4"):
        polish(CONFIG.model_copy(update={"steps": 4}), zoo, entries, task, tmp_path / "made")


def test_what_was_derived_from_a_zoo_stays_so(zoo, task, tmp_path):
    noisy = perturb(PerturbConfig(kind="noise", n=2), zoo, zoo.select("train"), zoo.manifest.origin, tmp_path / "noisy")
    made = polish(CONFIG, noisy, noisy.entries, task, tmp_path / "made")
    found = made.manifest.origin
    assert (found.kind, found.source) == ("derived", noisy.manifest.origin.source)
    assert found.parents == (*noisy.manifest.origin.parents, noisy.sha256)  # what made them first
    assert found.settings == {**noisy.manifest.origin.settings, "split": "noise", "polish": settings_of(CONFIG)}
    twice = origin_of(CONFIG, made, made.entries, ("rpg", "polish")).settings["polish"]
    assert twice == settings_of(CONFIG) | {"after": settings_of(CONFIG)}


def test_a_single_step_is_made_at_the_learning_rate_itself(zoo, task, tmp_path):
    made = polish(CONFIG.model_copy(update={"steps": 1}), zoo, zoo.select("train")[:1], task, tmp_path / "made")
    (entry,) = made.entries
    model = task.build(0)
    task.load(model, zoo.load(zoo.select("train")[0]))
    model.train()
    task.loss(model, next(task.batches(0, 0, 64))).backward()
    torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate, weight_decay=0.0).step()
    torch.testing.assert_close(made.load(entry), task.weights(model), rtol=1e-6, atol=1e-7)


def test_a_polish_that_diverges_names_the_network_and_its_own_option(zoo, task, tmp_path):
    config = PolishConfig(steps=30, learning_rate=1e30)
    with pytest.raises(
        Failed, match=r"^\S+ of .* diverged: its loss or weights are not finite; lower --learning-rate$"
    ):
        polish(config, zoo, zoo.entries, task, tmp_path / "made")
