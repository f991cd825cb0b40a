"""Specifications by the network's class, and derived by tracing: both find the same groups, and both hold."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symmetry_cases import CASES, case
from zoo.recipe import load_recipe
from zoo.symmetry.architectures import symmetry_of, unknown_because, written
from zoo.symmetry.check import TOLERANCE, function_change
from zoo.symmetry.tracing import derive

TRACED = [name for name in CASES if name not in ("dora", "tied")]


def kinds(specification):
    return Counter((group.size, group.kind, group.within is not None) for group in specification.groups.values())


@pytest.mark.parametrize("name", TRACED)
def test_tracing_finds_the_groups_that_are_written_down(name):
    network, build, inputs = case(name)
    derived = derive(network, inputs)  # itself refuses what does not pass the function test
    assert kinds(derived) == kinds(build(network))
    assert kinds(written(network)) == kinds(derived)


def test_a_stream_without_a_norm_may_even_be_rotated_and_tied_tensors_with_it():
    network, _build, inputs = case("tied")
    derived = derive(network, inputs)
    assert kinds(derived) == Counter({(6, "rotation", False): 1, (9, "permutation", False): 1})
    assert derived.tensors["embedding.weight"].axes == derived.tensors["out.weight"].axes


class Glu(nn.Module):
    """Gate and value from one matrix, halves of a concatenation, a grouped convolution, an operation nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(6, 10)
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 3)
        self.grouped = nn.Conv1d(4, 4, 1, groups=2)
        self.unknown = nn.Linear(6, 8)
        self.out = nn.Linear(5 + 4 + 3 + 4 + 8, 2)

    def forward(self, x):
        gate, value = self.both(x).chunk(2, dim=-1)
        glu = torch.sigmoid(gate) * value
        left, right = torch.relu(self.left(x)), torch.tanh(self.right(x))
        grouped = self.grouped(left[:, :, None])[:, :, 0]
        unknown = torch.cumsum(F.relu(self.unknown(x)), 1)
        return self.out(torch.cat([glu, left, right, grouped, unknown], 1))


def test_halves_and_concatenations_are_pieces_and_what_is_unknown_stays():
    network = Glu()
    derived = derive(network, torch.randn(4, 6))
    assert sorted(group.size for group in derived.groups.values()) == [3, 5]
    gate, value = derived.tensors["both.weight"].axes[0]
    assert gate[0].group == value[0].group
    assert gate[0].group is not None
    assert [piece[0].group is None for piece in derived.tensors["out.weight"].axes[1]] == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert function_change(network, derived, torch.randn(4, 6), 5) < TOLERANCE


def test_what_cannot_be_traced_or_moved_is_told(capfd):
    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) > 0 else x

    with pytest.raises(ValueError, match="cannot be traced"):
        derive(Branches(3, 3), torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")  # torch prints the graph it could not finish
    with pytest.raises(ValueError, match="nothing"):
        derive(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.raises(ValueError, match="no specification is written for Glu"):
        written(Glu())


@pytest.mark.parametrize(
    ("recipe", "groups"),
    [
        ("cifar10-cnn-medium", 4),
        ("cifar10-cnn-small", 4),
        ("digits", 2),
        ("cifar10-resnet18", 12),
        ("cifar100-resnet18-bn", 0),  # the zoo's weights are BatchNorm's, between frozen layers
        ("resnet50", 74),
        ("cifar10-vit-mini", 17),
        ("convnext-atto", 16),
        ("cifar10-mobilenetv3", 30),
    ],
)
def test_recipes_have_their_symmetries(recipe, groups):
    task = load_recipe(recipe).task
    specification = symmetry_of(task)
    specification.check(task.structure())
    assert len(specification.groups) == groups


def test_a_network_without_a_builder_gets_a_derived_specification():
    task = load_recipe("cifar10-cnn-small", ["task.model=test_efficientnet.r160_in1k"]).task
    specification = symmetry_of(task)
    specification.check(task.structure())
    assert specification.groups
    assert not specification.diagonals


def test_other_families_have_none():
    assert symmetry_of(load_recipe("ade20k").task) is None
    assert unknown_because(load_recipe("ade20k").task) == "nothing is known of task segmentation"
