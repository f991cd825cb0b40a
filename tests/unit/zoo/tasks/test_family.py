"""What the task families share, on a toy: which tensors are the weights, what is held out, which batches there are."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zoo.structure import Structure
from zoo.tasks.base import TaskConfig
from zoo.tasks.family import TaskBase, split_off


class ToyConfig(TaskConfig):
    library = "timm"
    frozen_layer: str = "first"

    def build(self, data_root, device):
        return ToyTask(self, device)

    def structure(self):
        return Structure.of({})

    def library_config(self):
        return {}

    def chosen(self, names):
        return [name for name in names if not name.startswith(self.frozen_layer)]


class ToyTask(TaskBase):
    samples = "pebbles"

    def _split(self):
        return split_off(10 * torch.arange(20), round(self.config.validation * 20))


def task(**options):
    return ToyConfig(**{"name": "toy", "validation": 0.25, **options}).build(None, torch.device("cpu"))


def network():
    """Three layers, the last two of which share one matrix."""
    model = nn.Sequential()
    for name in ("first", "second", "third"):
        model.add_module(name, nn.Linear(4, 4))
    model.third.weight = model.second.weight
    return model


def test_weights_and_frozen_tensors_are_the_whole_network_in_its_order():
    model, toy = network(), task()
    weights, frozen = toy.weights(model), toy.frozen(model)
    assert list(weights) == ["second.weight", "second.bias", "third.weight", "third.bias"]
    assert list(frozen) == ["first.weight", "first.bias"]
    for name, tensor in (weights | frozen).items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert not tensor.requires_grad
    assert weights["third.weight"] is weights["second.weight"]
    with torch.no_grad():
        model.second.bias.zero_()
    assert weights["second.bias"].any()  # a copy


def test_all_tensors_are_weights_unless_the_family_says_otherwise():
    model, toy = network(), task(frozen_layer="none")
    assert (list(toy.weights(model)), toy.frozen(model)) == (list(model.state_dict()), {})
    assert TaskConfig.chosen(toy.config, model.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("whole", [False, True])
def test_load_is_the_inverse_of_weights(whole):
    toy, source, target = task(), network(), network()
    before = toy.frozen(target)
    toy.load(target, toy.weights(source) | (toy.frozen(source) if whole else {}))
    assert all(torch.equal(t, source.state_dict()[name]) for name, t in toy.weights(target).items())
    expected = toy.frozen(source) if whole else before
    assert all(torch.equal(t, expected[name]) for name, t in toy.frozen(target).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("third.bias"), "missing: third.bias"),
        (lambda w: w.update({"fourth.bias": torch.zeros(4)}), r"structure: unexpected: fourth.bias float32\[4\]$"),
        (lambda w: w.update({"third.bias": torch.zeros(5)}), r"expected third.bias float32\[4\], found .*\[5\]"),
        (lambda w: w.update({"first.bias": torch.zeros(4)}), "missing: first.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    toy, model = task(), network()
    weights = {name: tensor + 1 for name, tensor in toy.weights(model).items()}
    change(weights)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        toy.load(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=60), st.integers(0, 60))
def test_what_is_held_out_and_the_rest_are_all_samples_once(samples, count):
    index = torch.tensor(sorted(samples))
    rest, held = split_off(index, count)
    assert len(held) == min(count, len(index))
    assert sorted([*rest.tolist(), *held.tolist()]) == index.tolist()
    assert (rest.tolist(), held.tolist()) == (sorted(rest.tolist()), sorted(held.tolist()))
    assert all(torch.equal(a, b) for a, b in zip((rest, held), split_off(index, count), strict=True))


def test_batches_take_the_samples_that_are_trained_on():
    toy = task()
    assert set(toy.train_index.tolist()) | set(toy.validation_index.tolist()) == set(range(0, 200, 10))
    assert len(toy.validation_index) == 5
    assert [toy.steps_per_epoch(size) for size in (4, 7, 15, 99)] == [4, 3, 1, 1]
    epoch = [part.tolist() for _, _, part in islice(toy._plan(3, 0, 4), 4)]
    assert sorted(i for part in epoch for i in part) == toy.train_index.tolist()
    assert [part.tolist() for _, _, part in islice(toy._plan(3, 2, 4), 2)] == epoch[2:]


@pytest.mark.parametrize(("share", "left", "held"), [(0.01, 20, 0), (0.99, 0, 20)])
def test_a_split_without_either_part_is_refused(share, left, held):
    message = f"task.validation {share} of 20 pebbles leaves {left} to train on and {held} to validate on; expected"
    with pytest.raises(ValueError, match=message):
        task(validation=share).steps_per_epoch(4)


def test_what_a_family_does_not_have_is_refused_in_one_line():
    toy, model = task(), network()
    with pytest.raises(ValueError, match="task toy has no conditions, got '0101010101'; use a recipe of binary tasks"):
        toy.for_condition("0101010101")
    with pytest.raises(ValueError, match=r"layer_decay 0\.9 is not for task toy"):
        toy.groups(model, 0.9)
    model.first.requires_grad_(False)
    (group,) = toy.groups(model, 1.0)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
