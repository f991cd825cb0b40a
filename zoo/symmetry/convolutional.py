"""Specifications of convolutional networks and perceptrons: chains of layers, ResNet, MobileNetV3, ConvNeXt."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from zoo.symmetry.builder import HOMOGENEOUS, NORMS, Builder, Space, kind_of
from zoo.symmetry.specification import Specification, fixed

SILENT = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten)
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
UNITWISE = (*HOMOGENEOUS, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.Softplus, nn.Hardswish, nn.Softmax)


def chain(network: nn.Module) -> Specification:
    """A network that is its leaf modules one after the other, in the order in which it has them: a perceptron, a plain
    CNN, with BatchNorm or GroupNorm or without. Raises ValueError for modules it does not know.
    """
    build = Builder(network)
    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    layers = [i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    space: Space | None = None
    for at, end in zip(layers, [*layers[1:], len(leaves)], strict=True):
        name, layer = leaves[at]
        width, incoming = layer.weight.shape[:2]
        if getattr(layer, "groups", 1) != 1:
            raise ValueError(f"{name} is a grouped convolution, which chains do not have")
        into = fixed(incoming) if space is None else space.read(incoming // space.size)
        following = leaves[at + 1 : end]
        norm = _norm_after(name, following)
        if end == len(leaves):
            build.weights(name, fixed(width), into)
            continue
        sets = getattr(build.modules[norm], "num_groups", None) if norm else None
        space = build.space(name, width, _kind([m for n, m in following if n != norm], name), sets)
        build.normalised(name, norm, into, space)
    return build.done()


def _norm_after(name: str, following: list[tuple[str, nn.Module]]) -> str | None:
    """The normalisation right after a layer, if there is one. Raises ValueError for one behind anything that changes
    values: with an activation or a maximum between them, its signs are not the layer's.
    """
    norms = [k for k, (_, module) in enumerate(following) if isinstance(module, (*NORMS, nn.GroupNorm))]
    if not norms:
        return None
    between = following[: norms[0]]
    if len(norms) > 1 or not all(isinstance(module, nn.Dropout | nn.Dropout2d | nn.Identity) for _, module in between):
        raise ValueError(f"{following[norms[-1]][0]} does not follow {name} alone, as in chains")
    return following[norms[0]][0]


def _kind(following: list[nn.Module], name: str) -> str | None:
    """The diagonal that all modules between two layers let through."""
    kinds = set()
    for module in following:
        if isinstance(module, UNITWISE):
            kinds.add(kind_of(module))
        elif isinstance(module, MAX_POOLS):
            kinds.add("scale")  # they pass no signs
        elif not isinstance(module, SILENT + POOLS):
            raise ValueError(f"{type(module).__name__} after {name} is no module of a chain")
    return kinds.pop() if len(kinds) == 1 else None


def resnet(network: nn.Module) -> Specification:
    """timm's and torchvision's ResNet, with basic or bottleneck blocks, BatchNorm or GroupNorm, without attention.

    All that is added to a stage's stream shares its channels.
    """
    build = Builder(network)
    scale = "scale" if any(isinstance(m, HOMOGENEOUS) for m in network.modules()) else None
    stream = _stream(build, "conv1", "bn1", "stem", scale)
    build.normalised("conv1", "bn1", fixed(build.state["conv1.weight"].shape[1]), stream)
    blocks = [n.removesuffix(".conv1") for n in build.modules if n.startswith("layer") and n.endswith(".conv1")]
    for block in blocks:
        last = "3" if f"{block}.conv3.weight" in build.state else "2"
        before = stream
        shortcut = [n for n in build.modules if n.startswith(f"{block}.downsample.") and f"{n}.weight" in build.state]
        if shortcut:
            layer, norm = shortcut
            stream = _stream(build, layer, norm, block, scale)
            build.normalised(layer, norm, before.read(), stream)
        into = before.read()
        for k in range(1, int(last)):
            inner = _stream(build, f"{block}.conv{k}", f"{block}.bn{k}", f"{block}.conv{k}", scale)
            build.normalised(f"{block}.conv{k}", f"{block}.bn{k}", into, inner)
            into = inner.read()
        build.normalised(f"{block}.conv{last}", f"{block}.bn{last}", into, stream)
    head = build.state["fc.weight"]
    build.weights("fc", fixed(len(head)), stream.read())
    return build.done()


def _stream(build: Builder, layer: str, norm: str, name: str, kind: str | None) -> Space:
    sets = getattr(build.modules[norm], "num_groups", None)
    return build.space(name, len(build.state[f"{layer}.weight"]), kind, sets)


def mobilenetv3(network: nn.Module) -> Specification:
    """timm's MobileNetV3: depthwise convolutions, squeeze-and-excite, streams that blocks add to."""
    build = Builder(network)
    stream = _after(build, "bn1", "stem")
    build.normalised("conv_stem", "bn1", fixed(build.state["conv_stem.weight"].shape[1]), stream)
    for block, layer in build.modules.items():
        if not hasattr(layer, "has_skip"):
            continue
        wide, norms = stream, iter(("bn1", "bn2", "bn3"))
        if f"{block}.conv_pwl.weight" in build.state:  # widens first
            norm = f"{block}.{next(norms)}"
            wide = _after(build, norm, f"{block}.conv_pw")
            build.normalised(f"{block}.conv_pw", norm, stream.read(), wide)
        if f"{block}.conv_dw.weight" in build.state:
            norm = f"{block}.{next(norms)}"
            filtered = replace(wide, diagonal=None)
            if _kind_of_norm(build, norm):
                filtered = build.carrying(filtered, f"{block}.conv_dw", "scale")
            build.depthwise(f"{block}.conv_dw", norm, wide, filtered)
            wide = filtered
        if f"{block}.se.conv_reduce.weight" in build.state:
            _squeeze_excite(build, f"{block}.se", wide)
        last = next(f"{block}.{n}" for n in ("conv_pwl", "conv_pw", "conv") if f"{block}.{n}.weight" in build.state)
        norm = f"{block}.{next(norms)}"
        after = stream if layer.has_skip else _after(build, norm, block)
        build.normalised(last, norm, wide.read(), after)
        stream = after
    width = len(build.state["conv_head.weight"])
    wide = build.space("conv_head", width, kind_of(build.modules["act2"]))
    build.normalised("conv_head", "norm_head", stream.read(), wide)
    build.weights("classifier", fixed(len(build.state["classifier.weight"])), wide.read())
    return build.done()


def _kind_of_norm(build: Builder, norm: str) -> str | None:
    """The diagonal that the activation inside one of timm's norms lets through; without one, any scale passes."""
    activation = build.modules[f"{norm}.act"]
    return "scale" if isinstance(activation, (*HOMOGENEOUS, nn.Identity)) else None


def _after(build: Builder, norm: str, name: str) -> Space:
    return build.space(name, len(build.state[f"{norm}.weight"]), _kind_of_norm(build, norm))


def _squeeze_excite(build: Builder, name: str, space: Space) -> None:
    """Its gate multiplies the channels that it has read."""
    width = len(build.state[f"{name}.conv_reduce.weight"])
    squeezed = build.space(f"{name}.conv_reduce", width, kind_of(build.modules[f"{name}.act1"]))
    build.weights(f"{name}.conv_reduce", squeezed.written(), space.read())
    build.weights(f"{name}.conv_expand", space.along(), squeezed.read())
    build.outputs[f"{name}.conv_reduce"] = squeezed.written()


def convnext(network: nn.Module) -> Specification:
    """timm's ConvNeXt: a stream for every stage, depthwise convolutions, perceptrons, scales of layers."""
    build = Builder(network)
    stream = build.space("stem", len(build.state["stem.0.weight"]))
    build.weights("stem.0", stream.written(), fixed(build.state["stem.0.weight"].shape[1]))
    build.vectors("stem.1", stream.along())
    stages = [name for name, module in network.get_submodule("stages").named_children() if any(module.children())]
    for stage in (f"stages.{name}" for name in stages):
        if f"{stage}.downsample.1.weight" in build.state:
            build.vectors(f"{stage}.downsample.0", stream.along())
            before, stream = stream, build.space(stage, len(build.state[f"{stage}.downsample.1.weight"]))
            build.weights(f"{stage}.downsample.1", stream.written(), before.read())
        build.outputs[stage] = stream.along()
        for block in [name.removesuffix(".conv_dw") for name in build.modules if name.startswith(f"{stage}.blocks.")]:
            if f"{block}.conv_dw.weight" in build.state:
                build.depthwise(f"{block}.conv_dw", None, stream, stream)
                build.vectors(f"{block}.norm", stream.along())
                build.perceptron(f"{block}.mlp", stream, f"{block}.gamma")
    build.vectors("head.norm", stream.along())
    build.weights("head.fc", fixed(len(build.state["head.fc.weight"])), stream.read())
    return build.done()
