"""Specifications and elements: nothing that a specification allows changes what a network computes."""

import pytest
import torch
from torch import nn

from symmetry_cases import CASES, case, random_weights
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.symmetry.action import act, compose, identity, inverse, random_element
from zoo.symmetry.builder import Builder
from zoo.symmetry.check import TOLERANCE, function_change, holds
from zoo.symmetry.convolutional import chain
from zoo.symmetry.specification import Diagonal, Factor, Group, Specification, TensorAxes, fixed


@pytest.mark.parametrize("name", CASES)
def test_random_elements_change_nothing_in_training_and_in_evaluation(name):
    network, build, inputs = case(name)
    specification = build(network)
    specification.check(Structure.of(network.state_dict(keep_vars=True)))
    assert max(function_change(network, specification, inputs, seed) for seed in range(3)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_every_group_and_diagonal_alone_moves_weights_and_changes_nothing(name):
    network, build, inputs = case(name)
    specification = build(network)
    weights = random_weights(network)
    kinds = {}  # one of each kind is enough for networks with dozens
    for symbol, group in specification.groups.items():
        kinds.setdefault((group.kind, group.within is None, symbol.rpartition(".")[2]), symbol)
    for symbol, diagonal in specification.diagonals.items():
        kinds.setdefault((diagonal.kind, True, ""), symbol)
    for symbol in kinds.values():
        assert function_change(network, specification, inputs, 1, only=[symbol]) < TOLERANCE, symbol
        element = identity(specification, 1)
        element[symbol] = random_element(specification, 1, generator(0, "alone"))[symbol]
        changed = act(specification, element, weights)
        size = specification.groups[symbol].size if symbol in specification.groups else 2
        assert size == 1 or any(not torch.equal(changed[n], weights[n]) for n in weights), symbol


@pytest.mark.parametrize("name", CASES)
def test_elements_compose_and_invert(name):
    network, build, _ = case(name)
    specification, weights = build(network), random_weights(network)
    one, two = (random_element(specification, 1, generator(k, "x")) for k in range(2))
    twice = act(specification, two, act(specification, one, weights))
    at_once = act(specification, compose(specification, two, one), weights)
    back = act(specification, inverse(specification, one), act(specification, one, weights))
    nothing = compose(specification, inverse(specification, one), one)
    for tensor in weights:
        torch.testing.assert_close(twice[tensor], at_once[tensor], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(back[tensor], weights[tensor], rtol=1e-9, atol=1e-10)
    for symbol, tensor in identity(specification, 1).items():
        torch.testing.assert_close(nothing[symbol], tensor, rtol=1e-9, atol=1e-9)


def test_a_partial_second_element_leaves_the_other_groups():
    network, build, _ = case("vit")
    specification, weights = build(network), random_weights(network)
    one, other = (random_element(specification, 1, generator(k, "x")) for k in range(2))
    part = {name: other[name] for name in ("blocks.0.attn.heads", "stream")}
    whole = act(specification, compose(specification, part, one), weights)
    twice = act(specification, part, act(specification, one, weights))
    for tensor in weights:
        torch.testing.assert_close(whole[tensor], twice[tensor], rtol=1e-9, atol=1e-10)


def test_a_wrong_specification_does_not_pass():
    network, _, inputs = case("resnet_basic")
    specification = CASES["resnet_basic"][1](network)
    assert holds(network, specification, inputs)
    inner = specification.tensors["layer2.0.conv1.weight"].axes[0]
    wrong = {
        "layer1.0.bn2.weight": fixed(8),  # does not move with its stream
        "layer1.0.bn1.running_mean": fixed(8),  # a buffer left behind
        "layer2.0.downsample.0.weight": inner,  # written in the order of other units
    }
    for name, axis in wrong.items():
        old = specification.tensors[name]
        changed = TensorAxes(axes=(axis, *old.axes[1:]), cost=old.cost)
        broken = specification.model_copy(update={"tensors": specification.tensors | {name: changed}})
        assert changed.shape == old.shape
        assert not holds(network, broken, inputs), name


class Root(nn.Module):
    """NaN whatever it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * (self.weight - 9).sqrt()


def test_outputs_that_are_not_numbers_pass_no_test():
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    specification = chain(network)
    rooted = nn.Sequential(*network, Root())
    tensors = specification.tensors | {"3.weight": TensorAxes(axes=(fixed(2),))}
    rooted_too = specification.model_copy(update={"tensors": tensors})
    assert function_change(rooted, rooted_too, torch.randn(7, 5)) == float("inf")
    assert not holds(rooted, rooted_too, torch.randn(7, 5))


def test_a_norm_that_learns_nothing_has_no_scale_to_take():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    with pytest.raises(ValueError, match=r"^1 has no weight and bias"):
        chain(network)


def test_tanh_before_a_max_pool_has_no_sign():
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2))
    inputs = torch.randn(3, 1, 8, 8)
    assert not chain(pooled).diagonals
    assert [d.kind for d in chain(plain).diagonals.values()] == ["sign"]
    assert holds(pooled, chain(pooled), inputs)
    assert holds(plain, chain(plain), inputs)


@pytest.mark.parametrize(
    "between", [[nn.ReLU()], [nn.ReLU(), nn.MaxPool2d(2)], [nn.MaxPool2d(2)], [nn.BatchNorm2d(6)], [nn.AvgPool2d(2)]]
)
def test_a_norm_behind_more_than_its_layer_is_none_of_a_chain(between: list[nn.Module]) -> None:
    """Between the two the layer's signs are lost; tracing may know what is left."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3), *between, nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match=rf"^{len(between) + 1} does not follow 0 alone"):
        chain(network)


def test_a_norm_behind_what_changes_nothing_is_its_layers() -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.Identity(), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    random_weights(network, 0)
    assert {diagonal.kind for diagonal in chain(network).diagonals.values()} == {"scale", "sign"}
    assert holds(network, chain(network), torch.randn(7, 5))


def test_a_specification_goes_through_json():
    for name in ("cnn_digits", "vit", "dora"):
        network, build, _ = case(name)
        specification = build(network)
        assert Specification.from_json(specification.to_json()) == specification


def test_groups_that_touch_frozen_tensors_are_dropped():
    network, build, inputs = case("cnn_digits")
    specification = build(network)
    trained = [name for name in specification.tensors if name.startswith("head")]
    assert not specification.restricted(trained).groups
    first = [name for name in specification.tensors if not name.startswith("head")]
    kept = specification.restricted(first)
    assert list(kept.groups) == ["module.0"]
    assert set(kept.tensors) == set(first)
    assert set(kept.diagonals) == {"module.0.scale", "module.1.sign"}
    weights = random_weights(network)
    moved = act(kept, random_element(kept, 1, generator(0, "x")), {n: weights[n] for n in first})
    network.load_state_dict({name: (moved.get(name, tensor))[0] for name, tensor in weights.items()})
    after = network.eval()(inputs.double())
    network.load_state_dict({name: tensor[0] for name, tensor in weights.items()})
    torch.testing.assert_close(after, network.eval()(inputs.double()), rtol=1e-9, atol=1e-10)


def test_mistakes_in_a_specification_are_told():
    unit = ((Factor(size=3, group="a"),),)
    with pytest.raises(ValueError, match="has no such size"):
        Specification(groups={"a": Group(size=4)}, tensors={"w": TensorAxes(axes=(unit,))})
    with pytest.raises(ValueError, match="right behind"):
        Specification(
            groups={"h": Group(size=2), "a": Group(size=3, within="h")}, tensors={"w": TensorAxes(axes=(unit,))}
        )
    broken = ((Factor(size=3, group="a", powers={"other": 1}),),)
    with pytest.raises(ValueError, match="do not belong"):
        Specification(groups={"a": Group(size=3)}, tensors={"w": TensorAxes(axes=(broken,))})
    with pytest.raises(ValueError, match="no such vector"):
        Specification(
            groups={"a": Group(size=3)},
            diagonals={"s": Diagonal(on="a", kind="sign", gain="w")},
            tensors={"w": TensorAxes(axes=(unit,))},
        )
    good = Specification(groups={"a": Group(size=3)}, tensors={"w": TensorAxes(axes=(unit,))})
    with pytest.raises(ValueError, match="w has shape"):
        good.check(Structure.of({"w": torch.zeros(4)}))
    network = nn.Sequential(nn.Linear(3, 3))
    network[0].register_buffer("extra", torch.zeros(3))
    build = Builder(network)
    build.weights("0", fixed(3), fixed(3))
    with pytest.raises(ValueError, match=r"0\.extra"):
        build.done()


def test_tied_tensors_have_one_description_and_stay_tied():
    network, build, _ = case("tied")
    specification = build(network)
    structure = Structure.of(network.state_dict(keep_vars=True))
    assert any(spec.tied_to for spec in structure)
    weights = random_weights(network)
    moved = act(specification, random_element(specification, 1, generator(0, "x")), weights)
    assert torch.equal(moved["out.weight"], moved["embedding.weight"])
    loose = specification.tensors | {"out.weight": TensorAxes(axes=(fixed(11), fixed(6)))}
    with pytest.raises(ValueError, match="tied"):
        specification.model_copy(update={"tensors": loose}).check(structure)
