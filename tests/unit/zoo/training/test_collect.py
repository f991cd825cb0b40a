"""What collecting trains, saves and splits, with a task whose training can be computed by hand."""

import math

import pytest
import torch
from torch import nn

from evaluators.metrics import Evaluation, Metric
from zoo.checkpoint import save_tensors
from zoo.derive.alignment import runs
from zoo.derive.take import taken
from zoo.errors import Corrupt
from zoo.manifest import Origin
from zoo.training import collect as collect_module
from zoo.training.collect import Checkpoint, CollectConfig, State, _learning_rate, early_steps, jobs, train
from zoo.training.together import collect

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
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

    conditions = ()
    evaluator, protocol, main_metric = "point/1", "point", "top1"
    chance = {}  # noqa: RUF012

    def __init__(self):
        self.evaluated = []

    def build(self, seed):
        return Point(seed)

    def start(self, seed):
        return self.build(seed)

    def frozen(self, model):
        return {}

    def weights(self, model):
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def load(self, model, weights):
        model.load_state_dict(weights)

    def groups(self, model, layer_decay):
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]

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


class TwoPoints(Point):
    """A place, and a head that is pulled to it as well."""

    def __init__(self, start):
        super().__init__(start)
        self.head = nn.Parameter(torch.tensor([0.0]))


class HeadTask(PointTask):
    def build(self, seed):
        return TwoPoints(seed)

    def head(self, model):
        return [model.head]

    def loss(self, model, batch):
        return 0.5 * ((model.place - batch).square() + (model.head - batch).square()).sum()


def test_the_head_is_trained_alone_first_at_its_own_rate_without_decay_then_all_with_a_new_optimiser(tmp_path):
    config = CollectConfig(
        **SETTINGS | {"epochs": 1, "weight_decay": 0.5}, head_epochs=1, head_learning_rate=0.2, seed=3
    )
    zoo = collect(config, HeadTask(), ORIGIN, tmp_path / "zoo")
    place, head = 3.0, 0.0
    speeds = {"place": 0.0, "head": 0.0}
    at = {}
    for step in range(4 + 4 + 6):
        batch = 3 + step
        if step == 4:
            speeds = {"place": 0.0, "head": 0.0}
        if step < 4:
            speeds["head"] = 0.9 * speeds["head"] + (head - batch)
            head -= 0.2 * speeds["head"]
        else:
            rate = 0.01 if step >= 8 else 0.01 + 0.09 * (1 + math.cos(math.pi * (step - 4) / 4)) / 2
            speeds["head"] = 0.9 * speeds["head"] + (head - batch) + 0.5 * head
            speeds["place"] = 0.9 * speeds["place"] + (place - batch) + 0.5 * place
            head, place = head - rate * speeds["head"], place - rate * speeds["place"]
        at[step + 1] = (place, head)
    assert [entry.step for entry in zoo.entries] == [10, 12, 14]
    for entry in zoo.entries:
        weights = zoo.load(entry)
        assert (weights["place"].item(), weights["head"].item()) == pytest.approx(at[entry.step], rel=1e-4)


def test_groups_of_a_task_have_their_own_rates_and_decay(tmp_path):
    class Decayed(HeadTask):
        def groups(self, model, layer_decay):
            return [{"params": [model.place], "lr_scale": layer_decay}, {"params": [model.head], "weight_decay": 0.0}]

    changes = {"optimizer": "sgd", "epochs": 0, "checkpoints": 1, "save_every": 1, "weight_decay": 0.5, "seed": 3}
    config = CollectConfig(**SETTINGS | changes, layer_decay=0.25)
    zoo = collect(config, Decayed(), ORIGIN, tmp_path / "zoo")
    weights = zoo.load(zoo.entries[0])
    assert weights["place"].item() == pytest.approx(3 - 0.25 * 0.01 * 0.5 * 3)  # it lies on the batch, 3
    assert weights["head"].item() == pytest.approx(0.01 * 3)


class Stops(HeadTask):
    """Interrupted at a batch."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def loss(self, model, batch):
        if batch == self.stop:
            raise KeyboardInterrupt
        return super().loss(model, batch)


@pytest.mark.parametrize("stop", [2, 4, 5, 8, 9, 11])
def test_a_run_stopped_anywhere_goes_on_to_the_same_weights(stop, tmp_path):
    """Steps 4 and 8 end the epoch of the head and the one of everything."""
    config = CollectConfig(**SETTINGS | {"epochs": 1}, head_epochs=1, head_learning_rate=0.2)
    whole = collect(config, HeadTask(), ORIGIN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        collect(config, Stops(stop), ORIGIN, tmp_path / "zoo")
    again = collect(config, HeadTask(), ORIGIN, tmp_path / "zoo")
    assert again.sha256 == whole.sha256


def test_head_epochs_and_their_rate_go_together():
    for settings in ({"head_epochs": 1}, {"head_learning_rate": 0.1}):
        with pytest.raises(ValueError, match="head_epochs and head_learning_rate go together"):
            CollectConfig(**SETTINGS, **settings)


class PartTask(HeadTask):
    """Only the place is the weights; the head is frozen."""

    def __init__(self, head=5.0):
        super().__init__()
        self.value = head

    def start(self, seed):
        model = self.build(seed)
        model.head.requires_grad_(False).fill_(self.value)
        return model

    def weights(self, model):
        return {"place": model.place.detach().clone()}

    def frozen(self, model):
        return {"head": model.head.detach().clone()}


def test_frozen_tensors_are_kept_once_and_checked(tmp_path):
    zoo = collect(CollectConfig(**SETTINGS), PartTask(), ORIGIN, tmp_path / "zoo")
    assert zoo.frozen() == {"head": torch.tensor([5.0])}
    assert [spec.name for spec in zoo.structure] == ["place"]
    assert list(zoo.problems()) == []
    with pytest.raises(ValueError, match="its networks have other frozen tensors"):
        collect(CollectConfig(**SETTINGS), PartTask(head=6.0), ORIGIN, tmp_path / "zoo")
    save_tensors(zoo.path / "frozen.safetensors", {"head": torch.tensor([7.0])})
    with pytest.raises(Corrupt, match=r"frozen\.safetensors is not that of the manifest"):
        zoo.frozen()
    assert len(list(zoo.problems())) == 1


def test_frozen_tensors_survive_an_interruption(tmp_path):
    class Stops(PartTask):
        def loss(self, model, batch):
            if batch == 11:
                raise KeyboardInterrupt
            return super().loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        collect(CollectConfig(**SETTINGS), Stops(), ORIGIN, tmp_path / "zoo")
    with pytest.raises(ValueError, match="its networks have other frozen tensors"):
        collect(CollectConfig(**SETTINGS), PartTask(head=6.0), ORIGIN, tmp_path / "zoo")
    (tmp_path / "zoo" / "frozen.safetensors").unlink()
    zoo = collect(CollectConfig(**SETTINGS), PartTask(), ORIGIN, tmp_path / "zoo")
    assert zoo.frozen() == {"head": torch.tensor([5.0])}
    assert zoo.sha256 == collect(CollectConfig(**SETTINGS), PartTask(), ORIGIN, tmp_path / "whole").sha256


@pytest.mark.parametrize("stop", [2, 4, 7, 10])
def test_in_long_epochs_little_is_lost(stop, tmp_path, monkeypatch):
    """The paper's ImageNet zoos are made within one epoch, of hours."""
    monkeypatch.setattr(collect_module, "STATE_SECONDS", 0.0)
    steps = []

    class Counts(HeadTask):
        def loss(self, model, batch):
            steps.append(batch)
            return super().loss(model, batch)

    config = CollectConfig(**SETTINGS | {"epochs": 1}, head_epochs=1, head_learning_rate=0.2)
    whole = collect(config, HeadTask(), ORIGIN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        collect(config, Stops(stop), ORIGIN, tmp_path / "zoo")
    assert collect(config, Counts(), ORIGIN, tmp_path / "zoo").sha256 == whole.sha256
    assert steps == list(range(stop, 14))  # batch k of seed 0 is the number k: nothing was done twice


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


AVERAGED = SETTINGS | {"checkpoints": 1, "save_every": 1, "average": 1.5}


def test_a_checkpoint_may_be_the_mean_of_the_last_epochs_and_is_scored_as_such(tmp_path):
    """An epoch has 4 steps: the mean is over the last 6 of 9, and training itself goes on as without it."""
    task = PointTask()
    zoo = collect(CollectConfig(**AVERAGED, seed=3), task, ORIGIN, tmp_path / "zoo")
    places = by_hand(3)[:9]
    [entry] = zoo.entries
    assert zoo.load(entry)["place"].item() == pytest.approx(sum(places[-6:]) / 6, rel=1e-5)
    assert entry.metrics["top1"].value == pytest.approx(sum(places[-6:]) / 6, rel=1e-5)


def test_a_tensor_of_two_names_has_one_mean(tmp_path):
    class Tied(PointTask):
        def build(self, seed):
            model = super().build(seed)
            model.other = model.place
            return model

        def load(self, model, weights):
            super().load(model, {"place": weights["place"]})

        def weights(self, model):
            return dict(model.state_dict())

    (plain,) = collect(CollectConfig(**AVERAGED, seed=3), PointTask(), ORIGIN, tmp_path / "plain")
    (tied,) = collect(CollectConfig(**AVERAGED, seed=3), Tied(), ORIGIN, tmp_path / "tied")
    assert tied["place"].item() == tied["other"].item() == plain["place"].item()


@pytest.mark.parametrize("stop", [2, 4, 5, 8])
def test_a_mean_of_a_run_stopped_anywhere_is_the_same(stop, tmp_path):
    config = CollectConfig(**AVERAGED)
    whole = collect(config, HeadTask(), ORIGIN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        collect(config, Stops(stop), ORIGIN, tmp_path / "zoo")
    assert collect(config, HeadTask(), ORIGIN, tmp_path / "zoo").sha256 == whole.sha256


def test_means_that_cannot_be_are_refused():
    for changes, words in (({"checkpoints": 2}, "one checkpoint of a training, not 2"), ({"average": 3}, "of 2; exp")):
        with pytest.raises(ValueError, match=words):
            CollectConfig(**AVERAGED | changes)


def test_seeds_beyond_what_a_manifest_holds_are_refused():
    for changes in ({"seed": 2**63 - 1, "seeds": 2}, {"seeds": 10**9}, {"epochs": 1e308}):
        with pytest.raises(ValueError, match=r"beyond 2\*\*63 - 1|less than or equal to"):
            CollectConfig(**SETTINGS | {"regime": "independent"} | changes)


ALONG = {"save": {"along": 4}}


def test_early_checkpoints_lie_at_the_squares_of_a_training_and_change_nothing_else(tmp_path):
    """Of 8 steps 4 checkpoints: before any, and after 1 (an own step for each), 2 and 4 of them, with their scores."""
    plain = collect(CollectConfig(**SETTINGS, seed=3), PointTask(), ORIGIN, tmp_path / "plain")
    task = PointTask()
    zoo = collect(CollectConfig(**SETTINGS, **ALONG, seed=3), task, ORIGIN, tmp_path / "zoo")
    places, early = [3.0, *by_hand(3)], zoo.select("early")
    assert [(entry.id, entry.step) for entry in early] == [
        (f"seed00003-early-{k:04d}", step) for k, step in enumerate((0, 1, 2, 4))
    ]
    for entry in early:
        assert zoo.load(entry)["place"].item() == pytest.approx(places[entry.step], rel=1e-5)
        assert entry.metrics["top1"].value == pytest.approx(places[entry.step], rel=1e-5)
    assert [entry.sha256 for entry in zoo.select("train")] == [entry.sha256 for entry in plain.entries]
    assert list(zoo.trained) == zoo.select("train")
    assert set(task.evaluated) == {"validation"}


@pytest.mark.parametrize("along", [1, 5, 8])
def test_early_steps_are_different_and_before_the_last_checkpoints(along):
    steps = early_steps(CollectConfig(**SETTINGS, save={"along": along}), 4)
    assert len(set(steps)) == along
    assert steps[0] == 0
    assert list(steps) == sorted(steps)
    assert steps[-1] < 8


def test_more_early_checkpoints_than_steps_are_refused_before_anything_is_written(tmp_path):
    config = CollectConfig(**SETTINGS, save={"along": 9})
    with pytest.raises(ValueError, match=r"zoo\.save\.along = 9 .* takes 8 steps"):
        collect(config, PointTask(), ORIGIN, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 9])
def test_a_run_with_early_checkpoints_stopped_anywhere_goes_on_to_the_same_zoo(stop, tmp_path):
    config = CollectConfig(**SETTINGS | {"epochs": 1}, head_epochs=1, head_learning_rate=0.2, **ALONG)
    whole = collect(config, HeadTask(), ORIGIN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        collect(config, Stops(stop), ORIGIN, tmp_path / "zoo")
    assert collect(config, HeadTask(), ORIGIN, tmp_path / "zoo").sha256 == whole.sha256


def test_early_checkpoints_stay_with_their_run(tmp_path):
    """They are aligned with its last one, and go with its seed."""
    config = CollectConfig(**SETTINGS, **ALONG, regime="independent", seeds=3, heldout=0.34)
    zoo = collect(config, PointTask(), ORIGIN, tmp_path / "zoo")
    assert len(zoo.entries) == 3 * config.saved == 21
    together = runs(zoo.entries)
    assert [[entry.step for entry in members] for members in together] == [[0, 1, 2, 4, 10, 12, 14]] * 3
    assert [members[-1].split for members in together] == ["train", "train", "heldout"]
    assert {entry.seed for entry in taken(zoo, 1)} == {0, 2}
    assert len(taken(zoo, 1)) == 14
