"""Which specification a network has: by its class, or derived by tracing it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from zoo.networks.own import is_own
from zoo.symmetry.convolutional import chain, convnext, mobilenetv3, resnet
from zoo.symmetry.specification import Specification
from zoo.symmetry.tracing import derive
from zoo.symmetry.transformers import adapters, vit
from zoo.tasks.base import TaskConfig

BUILDERS: dict[str, Callable[[nn.Module], Specification]] = {
    "ConvNet": chain,
    "Sequential": chain,
    "ResNet": resnet,
    "ResNet20": resnet,
    "MobileNetV3": mobilenetv3,
    "ConvNeXt": convnext,
    "VisionTransformer": vit,
}
"""By the name of a class, since its library is imported elsewhere."""


def written(network: nn.Module) -> Specification:
    """The specification of a network of a class we know, on any device, meta included.

    Raises ValueError for other classes, and for variants of these that their builder does not describe.
    """
    names = [cls.__name__ for cls in type(network).__mro__]
    for name in names:
        if name in BUILDERS:
            try:
                return BUILDERS[name](network)
            except (KeyError, AttributeError, TypeError, StopIteration) as error:
                raise ValueError(f"this variant of {names[0]} is not described by its builder: {error!r}") from error
    raise ValueError(f"no specification is written for {names[0]}; known: {', '.join(BUILDERS)}")


def symmetry_of(config: TaskConfig) -> Specification | None:
    """The symmetries of the networks of a `task:` section: of the tensors that are the zoo's weights, without data.

    None where we know none (`unknown_because`): other families, and networks that neither a builder nor tracing
    describes (to be traced, a network is built, which takes its memory and some seconds). Raises what building the
    network raises.
    """
    try:
        return _symmetry_of(config)
    except _Unknown:
        return None


def unknown_because(config: TaskConfig) -> str:
    """Why `symmetry_of` gives None, if it does."""
    try:
        return "" if _symmetry_of(config) else f"nothing is known of task {config.name}"
    except _Unknown as unknown:
        return str(unknown)


class _Unknown(Exception):
    """Why nobody knows the symmetries of a network."""


def _symmetry_of(config: TaskConfig) -> Specification | None:
    from zoo.tasks import classification, commonsense

    if isinstance(config, commonsense.Config):
        return adapters(config.structure())
    if not isinstance(config, classification.ImagesConfig):
        return None
    if config.asymmetry is not None:  # constants have their place
        plain = _symmetry_of(config.model_copy(update={"asymmetry": None}))
        return plain and plain.without(plain.groups)
    with torch.device("meta"):
        network = config.network(seed=0, pretrained=False)
    names = config.chosen(network.state_dict())
    try:
        if is_own(config.model):  # whose class may have any name
            raise ValueError(f"no specification is written for {config.model}")
        found = written(network)
    except ValueError:
        network = config.network(seed=0, pretrained=False)
        inputs = torch.rand(3, *config.preparation()["input_size"])
        try:
            found = derive(network, inputs)
        except ValueError as error:
            raise _Unknown(str(error)) from error
    return found.restricted(names)
