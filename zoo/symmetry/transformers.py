"""Specifications of vision transformers and of adapters of language models."""

from __future__ import annotations

from torch import nn

from zoo.structure import Structure
from zoo.symmetry.builder import Builder
from zoo.symmetry.specification import Axis, Factor, Group, Specification, TensorAxes, fixed


def vit(network: nn.Module) -> Specification:
    """timm's VisionTransformer. One stream for all layers; in every layer heads, in every head a rotation of queries
    and keys and another of values and outputs; where queries and keys are normalised, an order instead of a rotation.
    """
    build = Builder(network)
    stream = build.space("stream", len(build.state["patch_embed.proj.weight"]))
    build.weights("patch_embed.proj", stream.written(), fixed(build.state["patch_embed.proj.weight"].shape[1]))
    for name in ("cls_token", "reg_token", "pos_embed", "dist_token"):
        if name in build.state:
            shape = build.state[name].shape
            build.tensor(name, *map(fixed, shape[:-1]), stream.along())
    for block in [name for name in build.modules if name.startswith("blocks.") and name.count(".") == 1]:
        build.vectors(f"{block}.norm1", stream.along())
        build.vectors(f"{block}.norm2", stream.along())
        added = build.layer_scaled(f"{block}.ls1.gamma", stream)
        _attention(build, f"{block}.attn", stream.read(), added)
        build.perceptron(f"{block}.mlp", stream, f"{block}.ls2.gamma")
        build.outputs[block] = stream.along()
    for name in ("norm_pre", "norm", "fc_norm"):
        build.vectors(name, stream.along())
    if "head.0.weight" in build.state:  # a head of two layers
        inner = build.space("head.0", len(build.state["head.0.weight"]))
        build.weights("head.0", inner.written(), stream.read())
        build.weights("head.2", fixed(len(build.state["head.2.weight"])), inner.read())
    elif "head.weight" in build.state:
        build.weights("head", fixed(len(build.state["head.weight"])), stream.read())
    return build.done()


def _attention(build: Builder, name: str, into: Axis, added: Axis) -> None:
    heads = int(build.modules[name].num_heads)
    width = build.state[f"{name}.proj.weight"].shape[1]
    size = width // heads
    normalised = f"{name}.q_norm.weight" in build.state
    rotation = Group(size=size, kind="rotation", within=f"{name}.heads")
    build.groups[f"{name}.heads"] = Group(size=heads)
    build.groups[f"{name}.qk"] = Group(size=size) if normalised else rotation
    build.groups[f"{name}.vo"] = rotation
    head = Factor(size=heads, group=f"{name}.heads")
    qk, vo = Factor(size=size, group=f"{name}.qk"), Factor(size=size, group=f"{name}.vo")
    qkv: Axis = ((head, qk), (head, qk), (head, vo))
    build.weights(f"{name}.qkv", qkv, into)
    build.outputs[f"{name}.qkv"] = qkv
    for norm in ("q_norm", "k_norm"):  # shared by all heads
        build.vectors(f"{name}.{norm}", ((qk,),))
    build.weights(f"{name}.proj", added, ((head, vo),))


def adapters(structure: Structure) -> Specification:
    """LoRA and DoRA: B A = (B R) (R^-1 A) for every invertible R. What else they have, DoRA's magnitudes, is fixed.

    Raises ValueError when there is no adapter among the tensors.
    """
    shapes = {spec.name: spec.shape for spec in structure}
    groups: dict[str, Group] = {}
    tensors: dict[str, TensorAxes] = {}
    for name, shape in shapes.items():
        stem, _, end = name.partition(".lora_A.")
        other = f"{stem}.lora_B.{end}"
        if end and other in shapes:
            groups[stem] = Group(size=shape[0], kind="linear")
            inner, dual = (Factor(size=shape[0], group=stem, powers={stem: power}) for power in (1, -1))
            tensors[name] = TensorAxes(axes=(((inner,),), fixed(shape[1])))
            tensors[other] = TensorAxes(axes=(fixed(shapes[other][0]), ((dual,),)))
    if not groups:
        raise ValueError("no tensors named lora_A and lora_B; expected those of an adapter")
    fixed_axes = {
        name: TensorAxes(axes=tuple(map(fixed, shape))) for name, shape in shapes.items() if name not in tensors
    }
    return Specification(groups=groups, tensors={name: (tensors | fixed_axes)[name] for name in shapes})
