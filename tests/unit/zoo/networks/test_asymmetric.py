"""Networks with constants among their weights: the same for all seeds, out of training's reach, kept once."""

import pytest
import torch
from torch import nn

import zoo
from zoo.networks.asymmetric import CONSTANT, Asymmetry, break_symmetries, held, is_constant
from zoo.recipe import load_recipe, task_of
from zoo.structure import Structure
from zoo.training.collect import CollectConfig, Job, train

ASYMMETRIC = ["task.asymmetry.share=0.5", "task.asymmetry.width=2"]


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6))


def constants(network):
    return {name: tensor for name, tensor in network.state_dict().items() if is_constant(name)}


def test_every_unit_has_its_share_of_constants_of_the_width_asked_for():
    network = break_symmetries(perceptron(), Asymmetry(share=0.25, width=3))
    found = constants(network)
    assert list(found) == [f"0.{CONSTANT}", f"2.{CONSTANT}"]  # none in the depthwise convolution
    for tensor, incoming in zip(found.values(), (20, 36), strict=True):
        assert ((tensor != 0).flatten(1).sum(1) == incoming // 4).all()
    wide = constants(break_symmetries(nn.Sequential(nn.Linear(400, 400)), Asymmetry(share=0.5, width=3)))[
        f"0.{CONSTANT}"
    ]
    assert float(wide[wide != 0].std()) == pytest.approx(3 / 20, rel=0.02)
    rows = (wide != 0).float()
    assert len(rows.unique(dim=0)) == 400  # every unit has other places, so that none can take another's


def test_seeds_share_the_constants_and_nothing_else():
    one, other = (break_symmetries(perceptron(seed), Asymmetry(share=0.5)) for seed in (0, 1))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]) == is_constant(name), name
    third = constants(break_symmetries(perceptron(), Asymmetry(share=0.5, seed=1)))
    assert not any(torch.equal(tensor, third[name]) for name, tensor in constants(one).items())


def test_seeds_can_start_from_the_constants_alone():
    one, other = (break_symmetries(perceptron(seed), Asymmetry(share=0.5, start="constants")) for seed in (0, 1))
    as_ever = constants(break_symmetries(perceptron(), Asymmetry(share=0.5)))
    for name, tensor in constants(one).items():
        assert torch.equal(tensor, as_ever[name])
    for layer, twin in ((one[0], other[0]), (one[2], other[2])):
        assert not layer.weight.any()
        assert torch.equal(held(layer.weight, layer.weight_constant), held(twin.weight, twin.weight_constant))
        assert not torch.equal(layer.bias, twin.bias)
    assert one[3].weight.all()  # a depthwise convolution stays as it is
    one[0](torch.randn(2, 20)).square().sum().backward()
    free = one[0].weight_constant == 0
    assert (one[0].weight.grad[free] != 0).all()


def test_it_computes_with_the_constants_and_their_weights_have_no_gradient():
    network = break_symmetries(perceptron(), Asymmetry(share=0.5))
    layer = network[0]
    x = torch.randn(5, 20)
    whole = layer.weight + layer.weight_constant  # which is 0 where the other is not
    torch.testing.assert_close(layer(x), x @ whole.mT + layer.bias)
    torch.testing.assert_close(held(layer.weight, layer.weight_constant), whole)
    images = torch.randn(2, 4, 8, 8)
    convolution = network[2]
    expected = nn.functional.conv2d(images, convolution.weight + convolution.weight_constant, convolution.bias)
    torch.testing.assert_close(convolution(images), expected)
    (layer(x).square().sum() + convolution(images).square().sum()).backward()
    for module in (layer, convolution):
        frozen = module.weight_constant != 0
        assert (module.weight.grad[frozen] == 0).all()
        assert (module.weight.grad[~frozen] != 0).all()


def test_the_structure_is_known_without_memory():
    config = load_recipe("digits", ASYMMETRIC).task
    task = config.build(None, torch.device("cpu"))
    assert Structure.of(task.weights(task.build(0))) == config.structure()
    assert all(is_constant(name) for name in config.frozen())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_leaves_zeros_below_the_constants(optimizer):
    task = load_recipe("digits", ASYMMETRIC).task.build(None, torch.device("cpu"))
    config = CollectConfig(
        optimizer=optimizer,
        learning_rate=0.01,
        save_learning_rate=0.01,
        weight_decay=0.1,
        batch_size=50,
        epochs=0,
        checkpoints=1,
        save_every=5,
    )
    *_, checkpoint, _ = train(config, task, Job(0, "train", 0), None, ())
    start, frozen = task.weights(task.build(0)), task.frozen(task.build(0))
    assert len(frozen) == 3
    for name, constant in frozen.items():
        weight = checkpoint.tensors[name.removesuffix("_constant")]
        assert (weight[constant != 0] == 0).all()
        assert (weight != start[name.removesuffix("_constant")])[constant == 0].all()


def test_a_zoo_keeps_the_constants_once_and_says_how_its_networks_are(tmp_path):
    overrides = [*ASYMMETRIC, "zoo.regime=independent", "zoo.seeds=2", "zoo.checkpoints=1", "zoo.epochs=1"]
    made = zoo.collect("digits", out=tmp_path / "zoo", overrides=overrides)
    assert not any(is_constant(spec.name) for spec in made.structure)
    assert set(made.frozen()) == {name for name in made[0] if is_constant(name)}
    task = task_of(made.manifest.origin).build(None, torch.device("cpu"))
    model = task.build(7)  # of any seed
    task.load(model, made.load(made.entries[1]))
    validated = {m.name: m.value for m in task.evaluate(model, "validation").metrics}
    assert validated["top1"] == made.entries[1].metrics["top1"].value
    with pytest.raises(ValueError, match="no symmetries"):
        zoo.align(made, out=tmp_path / "aligned", measure=False)


def test_where_it_does_not_fit_it_is_refused():
    with pytest.raises(ValueError, match=r"less than 1, got 1\.5"):
        load_recipe("digits", ["task.asymmetry.share=1.5"])
    with pytest.raises(ValueError, match="leave asymmetry or pretrained out"):
        load_recipe("digits", [*ASYMMETRIC, "task.pretrained=weights.pth"])
    with pytest.raises(ValueError, match="no layer of Sequential"):
        break_symmetries(nn.Sequential(nn.BatchNorm1d(3)), Asymmetry(share=0.5))
    with pytest.raises(ValueError, match="a larger share"):
        break_symmetries(nn.Linear(2, 3), Asymmetry(share=0.1))

    class Own(nn.Linear):
        pass

    with pytest.raises(ValueError, match="is a Own; expected plain layers"):
        break_symmetries(nn.Sequential(Own(3, 3)), Asymmetry(share=0.5))
