"""Networks: the parameter counts and feature maps of the reference, deterministic construction, clear errors."""

import pytest
import timm
import torch
from torch import nn

from zoo.networks.classifiers import ConvNet, cnn_digits, cnn_medium, cnn_small, create_network, resnet20

# Model, input, parameters of each layer, side of the feature map after each convolution and pooling.
REFERENCE = [
    ("cnn_small", (3, 32, 32), [608, 1206, 100, 740, 210], [24, 12, 8, 4, 3]),
    ("cnn_medium", (3, 32, 32), [448, 4640, 4335, 1220, 210], [30, 15, 13, 6, 4, 2]),
    ("cnn_digits", (1, 8, 8), [72, 16, 576, 16, 330], [8, 4, 4, 2]),
]


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "shape", "per_layer", "sides"), REFERENCE)
def test_counts_and_feature_maps_are_those_of_the_reference(name, shape, per_layer, sides):
    network = timm.create_model(name)
    assert isinstance(network, ConvNet)
    assert [n for n in map(parameters_of, [*network.module, *network.head]) if n] == per_layer

    seen: list[int] = []
    for layer in network.module:
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[-1]))
    assert network(torch.rand(2, *shape)).shape == (2, 10)
    assert seen == sides


def test_the_totals_are_the_papers():
    assert parameters_of(cnn_small()) == 2864
    assert parameters_of(cnn_medium()) == 10_853
    wide = create_network("cnn_medium", 10, 3, seed=0, options={"width": 2})
    assert [module.out_channels for module in wide.module if isinstance(module, nn.Conv2d)] == [32, 64, 30]
    assert wide(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert parameters_of(create_network("cnn_medium", 10, 3, seed=0, options={"width": 0.25})) == 1250
    with pytest.raises(ValueError, match="expected width above 0, got 0"):
        create_network("cnn_medium", 10, 3, seed=0, options={"width": 0})
    assert parameters_of(cnn_digits()) == 1010
    assert parameters_of(cnn_small(in_chans=1)) == 2464  # the Model Zoos' MNIST variant
    assert parameters_of(resnet20()) == 269_722 + 2_752  # He et al.'s 0.27 million, and two shortcuts


def test_resnet20_is_nineteen_convolutions_and_a_layer_at_three_sizes():
    network, sides = resnet20(), []
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    for layer in convolutions:
        layer.register_forward_hook(lambda _module, _inputs, output: sides.append(tuple(output.shape[1:3])))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [(16, 32)] * 7 + [(32, 16)] * 6 + [(64, 8)] * 6


def test_tensor_names_are_those_of_the_published_checkpoints():
    layers = ["module.0", "module.3", "module.6", "head.0", "head.2"]
    expected = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(cnn_small().state_dict()) == expected
    assert list(cnn_medium().state_dict()) == expected


def test_cnn_small_is_the_layers_applied_to_the_resized_image():
    network, images = cnn_small(), torch.rand(2, 3, 32, 32)
    resized = nn.functional.interpolate(images, (28, 28), mode="bilinear", align_corners=False)
    expected = resized
    for layer in network.module:
        expected = layer(expected)
    expected = network.head(expected.reshape(2, 36))
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network(resized), expected)  # resizing to the same size changes nothing


def test_equal_seeds_give_equal_networks_whatever_was_drawn_before():
    first = create_network("cnn_digits", 10, 1, seed=3).state_dict()
    torch.rand(7)
    again, other = (create_network("cnn_digits", 10, 1, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    create_network("cnn_small", 7, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_number_of_classes_reaches_the_head_of_any_timm_network():
    assert create_network("cnn_medium", 7, 3, seed=0)(torch.rand(1, 3, 32, 32)).shape == (1, 7)
    assert create_network("resnet10t", 7, 3, seed=0).get_classifier().out_features == 7


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"'cnn_smal'.*did you mean cnn_small"):
        create_network("cnn_smal", 10, 3, seed=0)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"cannot make cnn_digits with .*depth=3.*unexpected keyword"):
        create_network("cnn_digits", 10, 1, seed=0, options={"depth": 3})
    with pytest.raises(ValueError, match="nobody has published weights of cnn_small"):
        create_network("cnn_small", 10, 3, seed=0, pretrained=True)
