"""What collecting trains, saves and splits, with a task whose training can be computed by hand."""

import math

import pytest
import torch
from torch import nn

from evaluators.classification import Evaluation
from evaluators.metrics import Metric
from zoo.collect import Checkpoint, CollectConfig, State, _learning_rate, collect, jobs, train
from zoo.manifest import Origin

ORIGIN = Origin(
    name="toy", kind="collected", task="toy", recipe="task: {}\n", recipe_sha256="0" * 64, command=("x",), versions={}
)
SETTINGS = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "save_learning_rate": 0.01,
    "batch_size": 5,
    "epochs": 2,
    "checkpoints": 3,
    "save_every": 2,
}


class Point(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.place = nn.Parameter(torch.tensor([float(start)]))


class PointTask:
    """One weight, pulled to the batch's number; batch k of seed s is the number s + k."""

    evaluator, protocol, headline = "point/1", "point", "top1"

    def __init__(self):
        self.evaluated = []

    def build(self, seed):
        return Point(seed)

    def weights(self, model):
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def load(self, model, weights):
        model.load_state_dict(weights)

    def steps_per_epoch(self, batch_size):
        return 4

    def batches(self, seed, first_step, batch_size):
        step = first_step
        while True:
            yield float(seed + step)
            step += 1

    def loss(self, model, batch):
        return 0.5 * (model.place - batch).square().sum()

    def evaluate(self, model, split):
        self.evaluated.append(split)
        return Evaluation((Metric("top1", model.place.item(), 1, 0.0),), None)


def by_hand(seed):
    """SGD with momentum 0.9 on a cosine, written out; the weight after every step."""
    place, speed, places = float(seed), 0.0, []
    for step in range(8 + 6):
        rate = 0.01 if step >= 8 else 0.01 + 0.09 * (1 + math.cos(math.pi * step / 8)) / 2
        speed = 0.9 * speed + (place - (seed + step))
        place -= rate * speed
        places.append(place)
    return places


def test_consecutive_saves_along_one_run(tmp_path):
    task = PointTask()
    zoo = collect(CollectConfig(**SETTINGS, seed=3), task, ORIGIN, tmp_path / "zoo")
    expected = by_hand(3)
    assert [(e.seed, e.step, e.split) for e in zoo.entries] == [(3, step, "train") for step in (10, 12, 14)]
    for entry in zoo.entries:
        assert zoo.load(entry)["place"].item() == pytest.approx(expected[entry.step - 1], rel=1e-5)
        assert entry.metrics["top1"].value == pytest.approx(expected[entry.step - 1], rel=1e-5)
    assert set(task.evaluated) == {"validation"}


def test_independent_seeds_train_apart_and_the_last_are_held_out(tmp_path):
    config = CollectConfig(**SETTINGS | {"checkpoints": 1}, regime="independent", seeds=5, seed=10, heldout=0.4)
    zoo = collect(config, PointTask(), ORIGIN, tmp_path / "zoo")
    assert [(e.seed, e.split) for e in zoo.entries] == [
        (10, "train"),
        (11, "train"),
        (12, "train"),
        (13, "heldout"),
        (14, "heldout"),
    ]
    for entry in zoo.entries:
        assert zoo.load(entry)["place"].item() == pytest.approx(by_hand(entry.seed)[9], rel=1e-5)


def test_the_learning_rate_ends_the_cosine_where_saving_goes_on():
    config = CollectConfig(**SETTINGS)
    rates = [_learning_rate(config, step, 8) for step in range(12)]
    assert rates[0] == 0.1
    assert rates[4] == pytest.approx(0.055)
    assert rates[8:] == [0.01] * 4
    assert rates == sorted(rates, reverse=True)


def test_without_training_epochs_every_step_is_in_the_save_phase(tmp_path):
    zoo = collect(CollectConfig(**SETTINGS | {"epochs": 0}), PointTask(), ORIGIN, tmp_path / "zoo")
    assert [entry.step for entry in zoo.entries] == [2, 4, 6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 2}, "regime: independent"),
        ({"heldout": 0.5}, "regime: independent"),
        ({"regime": "independent", "seeds": 3, "heldout": 0.1}, "is 0; expected some"),
        ({"regime": "independent", "seeds": 3, "heldout": 0.9}, "is 3; expected some"),
    ],
)
def test_regimes_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        CollectConfig(**SETTINGS | changes)


def test_jobs_count_the_heldout_seeds_from_the_end():
    config = CollectConfig(**SETTINGS, regime="independent", seeds=10, heldout=0.25)
    assert [job.split for job in jobs(config)] == ["train"] * 8 + ["heldout"] * 2


def test_what_was_recorded_is_not_made_again_and_a_state_gives_the_rest():
    config, job = CollectConfig(**SETTINGS, seed=3), jobs(CollectConfig(**SETTINGS, seed=3))[0]
    events = list(train(config, PointTask(), job, None, ()))
    made = {event.id: event for event in events if isinstance(event, Checkpoint)}
    states = [
        {name: tensor.clone() for name, tensor in event.tensors.items()}
        for event in train(config, PointTask(), job, None, ())
        if isinstance(event, State)
    ]
    assert [int(state["step"]) for state in states] == [4, 8, 12]
    for state in states:
        task = PointTask()
        rest = [e for e in train(config, task, job, state, {"seed00003-0001"}) if isinstance(e, Checkpoint)]
        expected = [e for e in made.values() if e.step > int(state["step"]) and e.id != "seed00003-0001"]
        assert [(e.id, e.tensors, e.metrics) for e in rest] == [(e.id, e.tensors, e.metrics) for e in expected]
        assert len(task.evaluated) == len(expected)


def test_bfloat16_computes_in_it_and_keeps_the_weights_in_float32():
    class MatrixTask(PointTask):
        def build(self, seed):
            torch.manual_seed(seed)
            return nn.Linear(3, 2)

        def loss(self, model, batch):
            seen.append(model(torch.ones(1, 3)))
            return seen[-1].float().square().sum()

        def evaluate(self, model, split):
            seen.append(model(torch.ones(1, 3)))
            return Evaluation((), None)

    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen: list[torch.Tensor] = []
        config = CollectConfig(**SETTINGS | {"epochs": 0, "checkpoints": 1}, precision=precision)
        [made] = [e for e in train(config, MatrixTask(), jobs(config)[0], None, ()) if isinstance(e, Checkpoint)]
        assert [output.dtype for output in seen] == [dtype, dtype, torch.float32]  # 2 steps, 1 evaluation
        assert {tensor.dtype for tensor in made.tensors.values()} == {torch.float32}
