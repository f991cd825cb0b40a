"""Binary tasks: labels, loss and metrics against closed forms; all tasks share one set of images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from evaluators.classification import balanced_accuracy
from zoo.checkpoint import save_tensors
from zoo.conditions import bits, flipped
from zoo.tasks.binary import BinaryTask, Config, focal_loss

CONDITION = "0100010111"


@pytest.fixture(scope="module")
def task() -> BinaryTask:
    return Config(name="binary", model="cnn_digits", data="digits").build(None, torch.device("cpu"))


class Oracle(nn.Module):
    """Answers the label of the image's class, which it knows the images by."""

    def __init__(self, task: BinaryTask, condition: str) -> None:
        super().__init__()
        images = task._prepared(task.images.test)  # type: ignore[union-attr]
        pairs = zip(images, task.images.test_labels, strict=True)
        self.known = {tuple(image.flatten().tolist()): int(k) for image, k in pairs}
        self.labels = bits(condition)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        classes = [self.known[tuple(image.flatten().tolist())] for image in images]
        return torch.stack([1 - self.labels[classes], self.labels[classes]], dim=1)


def test_an_oracle_is_right_and_its_complement_wrong(task: BinaryTask) -> None:
    oracle = Oracle(task, CONDITION)
    for condition, expected in ((CONDITION, 100), (flipped(CONDITION), 0)):
        found = {metric.name: metric.value for metric in task.for_condition(condition).evaluate(oracle, "test").metrics}
        assert found["top1"] == found["balanced"] == expected
    one_off = {m.name: m.value for m in task.for_condition("0100010110").evaluate(oracle, "test").metrics}
    nines = float((task.images.test_labels == 9).float().mean())
    assert one_off["top1"] == pytest.approx(100 * (1 - nines))


def test_tasks_share_images_and_batches(task: BinaryTask) -> None:
    one, other = task.for_condition(CONDITION), task.for_condition(flipped(CONDITION))
    assert one.images is other.images is task.images
    (images, classes), (same, same_classes) = next(one.batches(3, 0, 50)), next(other.batches(3, 0, 50))
    assert torch.equal(images, same)
    assert torch.equal(classes, same_classes)
    assert one.protocol == other.protocol
    assert torch.equal(one.labels(classes), 1 - other.labels(classes))


def test_a_task_must_be_named(task: BinaryTask) -> None:
    with pytest.raises(ValueError, match="expected entries of a zoo"):
        task.evaluate(task.build(0), "test")
    with pytest.raises(ValueError, match="expected 10 digits"):
        task.for_condition("01")


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_focal_loss_is_its_definition(exponent: float) -> None:
    logits = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.arange(20) % 2
    p = logits.softmax(1)[torch.arange(20), labels]
    expected = (-((1 - p) ** exponent) * p.log()).mean()
    found = focal_loss(logits, labels, exponent)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, expected)))


def test_focal_loss_of_sure_answers_has_a_gradient() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(200, rel=1e-4)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert F.cross_entropy(logits, torch.tensor([0, 0])).item() == pytest.approx(loss.item())


def test_balanced_accuracy_is_the_mean_recall() -> None:
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    found = balanced_accuracy(labels == answers, labels)
    assert found.value == pytest.approx(100 * balanced_accuracy_score(labels, answers))
    constant = balanced_accuracy(labels == 0, labels)
    assert constant.value == pytest.approx(100 / 3)
    assert constant.stderr == 0
    half = balanced_accuracy(np.array([True, False, True, True]), np.array([0, 0, 1, 1]))
    assert half.stderr == pytest.approx(100 * math.sqrt(0.25 / 2) / 2)


def test_statistics_that_are_frozen_stay_in_training(tmp_path) -> None:
    """What is kept of a network are the trained tensors: it has to be what was trained."""
    plain = Config(name="binary", model="cnn_digits", data="digits")
    save_tensors(tmp_path / "start.safetensors", plain.network(3, pretrained=False).state_dict())
    settings = plain.model_copy(update={"pretrained": str(tmp_path / "start.safetensors"), "trainable": ("head.*",)})
    task = settings.build(None, torch.device("cpu")).for_condition(CONDITION)
    model = task.start(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task.loss(model, next(task.batches(0, 0, 50))).backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
