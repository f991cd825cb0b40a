"""Networks that are trained together are those that are trained alone."""

from itertools import chain

import pytest
import torch
from torch import nn

from zoo.errors import Failed
from zoo.tasks.binary import BinaryTask, Config
from zoo.training import together as ensemble
from zoo.training.collect import Checkpoint, CollectConfig, JobRecord, Progress, jobs, train
from zoo.training.together import MOST, teams, train_together

CONDITIONS = ("0000011111", "0100010111", "1011101000")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return config().load_data(None)


def config(**options):
    return Config(name="binary", model="cnn_digits", data="digits", augment="flip", **options)


def settings(**changes):
    return CollectConfig(
        **{
            "init": "shared",
            "optimizer": "adamw",
            "learning_rate": 1e-2,
            "save_learning_rate": 1e-3,
            "batch_size": 200,
            "epochs": 1.25,
            "checkpoints": 2,
            "conditions": CONDITIONS,
            "head_epochs": 0.5,
            "head_learning_rate": 0.1,
            **changes,
        }
    )


def alone(config, task, done=()):
    """All events but percentages, by job."""
    found = []
    for job in jobs(config, task.conditions):
        found.append([kept(event) for event in train(config, task, job, None, done) if not isinstance(event, Progress)])
    return found


def kept(event):
    tensors = {name: tensor.clone() for name, tensor in event.tensors.items()}  # those of a state go on to change
    return (event.id, event.metrics, tensors) if isinstance(event, Checkpoint) else ("state", (), tensors)


def in_company(config, task, states=None, done=(), stacked=None):
    chosen = jobs(config, task.conditions)
    found = [[] for _ in chosen]
    for number, event in train_together(config, task, chosen, states or [None] * len(chosen), done, stacked):
        if not isinstance(event, Progress):
            found[number].append(kept(event))
    return found


def same(one, other, **tolerance):
    assert [[event[0] for event in events] for events in one] == [[event[0] for event in events] for events in other]
    for (_, metrics, tensors), (_, others, expected) in zip(chain(*one), chain(*other), strict=True):
        if not tolerance:
            assert metrics == others
        torch.testing.assert_close(tensors, expected, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "init": "independent", "head_epochs": 0}])
def test_in_turn_they_have_the_same_bytes(images, changes):
    if "head_epochs" in changes:
        changes = changes | {"head_learning_rate": None}
    task = BinaryTask(config(), images, CPU)
    same(in_company(settings(**changes), task), alone(settings(**changes), task))


def test_by_vmap_they_have_the_same_weights_and_statistics(images):
    task = BinaryTask(config(), images, CPU)
    made = settings(optimizer="sgd")  # Adam makes steps of gradients that are rounding errors
    same(in_company(made, task, stacked=True), alone(made, task), rtol=1e-4, atol=1e-5)


def test_networks_that_draw_at_random_go_in_turn(images, monkeypatch):
    class WithDropout(BinaryTask):
        def _ready(self, model):
            model.head = nn.Sequential(nn.Dropout(0.5), model.head)
            return model

    task = WithDropout(config(), images, CPU)
    made = settings(head_epochs=0, head_learning_rate=None)
    same(in_company(made, task, stacked=True), alone(made, task))


def test_those_that_are_ahead_wait_for_the_others(images):
    task, made = BinaryTask(config(), images, CPU), settings()
    whole = alone(made, task)
    first = [next(tensors for id, _, tensors in events if id == "state") for events in whole]
    states = [None, first[1], first[2]]
    found = in_company(made, task, states)
    same(found, [whole[0], whole[1][1:], whole[2][1:]])


def test_one_that_diverges_leaves_the_others_going(images):
    class Breaks(BinaryTask):
        def loss(self, model, batch):
            loss = super().loss(model, batch)
            return loss * float("nan") if self._labels.tolist() == [1, 0, 1, 1, 1, 0, 1, 0, 0, 0] else loss

    task, made = Breaks(config(), images, CPU), settings()
    found = []

    def collect_numbers():
        for number, event in train_together(made, task, jobs(made, task.conditions), [None] * 3, ()):
            found.extend([number] if isinstance(event, Checkpoint) else [])

    with pytest.raises(Failed, match="the loss of seed 0 of task 1011101000"):
        collect_numbers()
    assert sorted(found) == [0, 0, 1, 1]


def test_a_batch_is_made_once_for_all(images, monkeypatch):
    task, made = BinaryTask(config(), images, CPU), settings()
    counted, real = [], BinaryTask._batch
    monkeypatch.setattr(BinaryTask, "_batch", lambda self, *batch: counted.append(1) or real(self, *batch))
    in_company(made, task)
    steps = round(1.25 * task.steps_per_epoch(200)) + round(0.5 * task.steps_per_epoch(200)) + 2
    assert len(counted) == steps + 1  # and one to validate on, for all networks and checkpoints


class Writer:
    """As much of a writer as teams need."""

    def __init__(self, path, numel):
        self.path, self.structure = path, type("Structure", (), {"numel": numel})


@pytest.mark.parametrize(
    ("numel", "workers", "sizes"),
    [
        (1000, 1, [32, 8, 32, 8]),
        (1000, 4, [10] * 8),
        (1000, 400, [1] * 80),
        (ensemble.MOST_VALUES // 3, 1, [3] * 13 + [1] + [3] * 13 + [1]),
        (ensemble.MOST_VALUES * 2, 1, [1] * 80),
    ],
)
def test_teams_are_of_one_seed_and_leave_nobody_idle(tmp_path, numel, workers, sizes):
    assert MOST == 32
    conditions = tuple(f"{number:010b}" for number in range(1, 41))
    made = settings(regime="independent", seeds=2, conditions=conditions)
    todo = [JobRecord(made, job, Writer(tmp_path, numel)) for job in jobs(made, conditions)]
    found = teams(todo, workers)
    assert [len(team) for team in found] == sizes
    assert all(len({run.job.seed for run in team}) == 1 for team in found)
    assert {run.job.name for team in found for run in team} == {run.job.name for run in todo}
