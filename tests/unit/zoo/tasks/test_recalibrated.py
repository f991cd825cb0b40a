"""Scores with BatchNorm's statistics of training images, the same for all networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.recipe import load_recipe
from zoo.tasks.recalibrated import images_for, recalibrate, recalibrated

CPU = torch.device("cpu")


def test_only_weights_decide_a_score() -> None:
    """Networks that differ in their statistics alone score alike, and as one does with those of training images."""
    task = load_recipe("digits").task.build(None, CPU)
    again, weights = recalibrated(task), task.weights(task.build(1))
    wrong = {name: tensor + 3 if "running_mean" in name else tensor for name, tensor in weights.items()}
    scores = []
    for given in (weights, wrong):
        model = again.build(0)
        again.load(model, given)
        scores.append(again.evaluate(model, "test").correct)
    assert (scores[0] == scores[1]).all()
    own = task.build(0)
    task.load(own, weights)
    recalibrate(own, images_for(task, 0))
    assert (task.evaluate(own, "test").correct == scores[0]).all()
    assert again.protocol == f"{task.protocol}, BatchNorm of 980 training images"
    assert again.main_metric == task.main_metric


def test_tasks_of_a_task_do_so_too() -> None:
    task = recalibrated(load_recipe("digits-binary").task.build(None, CPU))
    assert "BatchNorm of 980 training images" in task.for_condition("0000011111").protocol


def test_nothing_is_drawn_while_statistics_are_measured() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    batches = [torch.randn(50, 3) for _ in range(2)]
    recalibrate(model, batches)
    torch.testing.assert_close(model[1].running_mean, torch.stack([batch.mean(0) for batch in batches]).mean(0))


def test_networks_without_statistics_or_of_another_kind(caplog) -> None:
    task = load_recipe("digits-vit").task.build(None, CPU)
    assert recalibrated(task) is task
    assert "eval.recalibrate is ignored: these networks have no BatchNorm" in caplog.text
    with pytest.raises(ValueError, match=r"eval\.recalibrate is for image classifiers"):
        recalibrated(object())  # type: ignore[arg-type]
