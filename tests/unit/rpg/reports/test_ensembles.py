"""Ensembles against the mean of probabilities that is computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from tokenised import TASK, digits_networks, digits_task

from rpg.reports import ensembles as module
from rpg.reports.ensembles import SIZE, ensemble_accuracy
from zoo.manifest import Origin
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks.base import Task
from zoo.tasks.recalibrated import Recalibrated
from zoo.tasks.wrapped import with_changes
from zoo.writer import ZooWriter

NETWORKS = 20


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    networks = digits_networks(NETWORKS)
    origin = Origin(name="digits", kind="collected", task=TASK, command=("x",), versions={})
    with ZooWriter(tmp_path_factory.mktemp("ensemble") / "zoo", origin, Structure.of(networks[0])) as writer:
        for k, weights in enumerate(networks):
            writer.add(f"net-{k:03d}", weights, seed=k, split="train")
        return writer.finish()


def by_hand(zoo: Zoo, chosen: list[int]) -> float:
    task = digits_task()
    model, sums, labels = task.build(0), [], torch.tensor([])
    batches = list(task._evaluation("test"))
    labels = torch.cat([labels for _, labels in batches])
    for k in chosen:
        task.load(model, zoo.load(zoo.entries[k]))
        with torch.no_grad():
            sums.append(torch.cat([model.eval()(images) for images, _ in batches]).softmax(1))
    return 100 * float((sum(sums).argmax(1) == labels).double().mean())  # type: ignore[union-attr]


def test_an_ensemble_answers_by_the_mean_of_probabilities_and_is_scored_once(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ensemble_accuracy([(zoo, zoo.entries)], digits_task(), tmp_path)
    assert found == pytest.approx(by_hand(zoo, [k * NETWORKS // SIZE for k in range(SIZE)]))
    lines = (tmp_path / "scores.jsonl").read_bytes()
    monkeypatch.setattr(module, "Ensemble", None)  # what is known is not scored again
    halves = [(zoo, zoo.entries[:9]), (zoo, zoo.entries[9:])]
    assert ensemble_accuracy(halves, digits_task(), tmp_path) == found
    assert (tmp_path / "scores.jsonl").read_bytes() == lines


def test_other_settings_of_the_task_leave_it_one_that_classifies(zoo: Zoo, tmp_path: Path) -> None:
    own = task_of(zoo.manifest.origin)
    changed = with_changes(digits_task(), own, own.model_copy(update={"options": {"width": 2}}))
    assert "width" in changed.protocol
    expected = ensemble_accuracy([(zoo, zoo.entries)], digits_task(), tmp_path / "own")
    assert ensemble_accuracy([(zoo, zoo.entries)], changed, tmp_path / "changed") == expected
    anew = cast("Task", Recalibrated(changed, []))  # of networks without BatchNorm, which are as they were
    assert ensemble_accuracy([(zoo, zoo.entries)], anew, tmp_path / "anew") == expected


def test_there_is_none_of_few_networks_and_of_those_that_do_not_classify(zoo: Zoo, tmp_path: Path) -> None:
    class Segmenting(Task):
        pass

    assert ensemble_accuracy([(zoo, zoo.entries[: SIZE - 1])], digits_task(), tmp_path) is None
    assert ensemble_accuracy([(zoo, zoo.entries)], Segmenting.__new__(Segmenting), tmp_path) is None
    assert not list(tmp_path.iterdir())
