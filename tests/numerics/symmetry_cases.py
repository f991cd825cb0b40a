"""Small networks of every kind that has a specification, with inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import timm
import torch
from timm.layers import GroupNorm
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

import zoo.networks.classifiers  # noqa: F401  # timm knows our networks after it
from zoo.seeds import generator, global_seed
from zoo.structure import Structure
from zoo.symmetry.action import parts_of, random_element
from zoo.symmetry.check import randomise
from zoo.symmetry.convolutional import chain, convnext, mobilenetv3, resnet
from zoo.symmetry.matching import Problem
from zoo.symmetry.specification import Specification
from zoo.symmetry.transformers import adapters, vit

Case = tuple[nn.Module, Callable[[nn.Module], Specification], Tensor]


class TiedTransformer(nn.Module):
    """Embedding and output are one tensor, which the stream's order has to reach at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 9)
        self.back = nn.Linear(9, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embedding(tokens.long())
        return self.out(stream + self.back(torch.relu(self.hidden(stream))))


class Adapted(nn.Module):
    """A linear layer with a DoRA adapter, under peft's names."""

    def __init__(self) -> None:
        super().__init__()
        self.base = torch.randn(7, 5)
        self.q_proj = nn.ModuleDict({"lora_A": nn.Linear(5, 3, bias=False), "lora_B": nn.Linear(3, 7, bias=False)})
        self.lora_magnitude_vector = nn.Parameter(torch.rand(7) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.to(x.dtype) + self.q_proj["lora_B"].weight @ self.q_proj["lora_A"].weight
        return x @ (self.lora_magnitude_vector[:, None] * weight / weight.norm(dim=1, keepdim=True)).mT

    def state_dict(self, *_: object, **options: bool) -> dict[str, Tensor]:  # type: ignore[override]
        state = nn.Module.state_dict(self, keep_vars=bool(options.get("keep_vars")))
        names = {"q_proj.lora_A.weight": "q.lora_A.weight", "q_proj.lora_B.weight": "q.lora_B.weight"}
        return {names.get(name, name): tensor for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        names = {"q.lora_A.weight": "q_proj.lora_A.weight", "q.lora_B.weight": "q_proj.lora_B.weight"}
        nn.Module.load_state_dict(self, {names.get(name, name): tensor for name, tensor in state.items()})


def tied(network: nn.Module) -> Specification:
    """TiedTransformer's, by hand: what the builders do not make."""
    from zoo.symmetry.builder import Builder
    from zoo.symmetry.specification import fixed

    build = Builder(network)
    stream, hidden = build.space("stream", 6), build.space("hidden", 9, "scale")
    for name in ("embedding", "out"):
        build.tensor(f"{name}.weight", fixed(11), stream.read())
    build.weights("hidden", hidden.written(), stream.read())
    build.weights("back", stream.written(), hidden.read())
    return build.done()


def perceptron(activation: type[nn.Module], *widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def gn_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 6, 3), nn.GroupNorm(1, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(24, 3)),
    )


def small_vit(**options: object) -> nn.Module:
    size = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
    return timm.create_model("vit_tiny_patch16_224", **size, **options)


def group_norm(channels: int, **options: object) -> nn.Module:
    return GroupNorm(channels, num_groups=4, **options)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Specification], tuple[int, ...]]] = {
    "relu": (partial(perceptron, nn.ReLU, 12, 9, 8, 3), chain, (5, 12)),
    "tanh": (partial(perceptron, nn.Tanh, 12, 9, 8, 3), chain, (5, 12)),
    "gelu": (partial(perceptron, nn.GELU, 12, 9, 8, 3), chain, (5, 12)),
    "cnn_small": (partial(timm.create_model, "cnn_small", num_classes=10, in_chans=3), chain, (3, 3, 32, 32)),
    "cnn_medium": (partial(timm.create_model, "cnn_medium", num_classes=10, in_chans=3), chain, (3, 3, 32, 32)),
    "cnn_digits": (partial(timm.create_model, "cnn_digits", num_classes=10, in_chans=1), chain, (5, 1, 8, 8)),
    "group_norm": (gn_cnn, chain, (3, 3, 16, 16)),
    "resnet_basic": (
        partial(ResNet, BasicBlock, (2, 1, 1, 1), num_classes=5, channels=(8, 8, 8, 16)),
        resnet,
        (3, 3, 32, 32),
    ),
    "resnet20": (partial(timm.create_model, "resnet20"), resnet, (3, 3, 8, 8)),
    "resnet_bottleneck": (
        partial(ResNet, Bottleneck, (1, 2, 1, 1), num_classes=5, channels=(4, 4, 4, 8)),
        resnet,
        (3, 3, 32, 32),
    ),
    "resnet_group_norm": (
        partial(ResNet, BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 8, 8, 16), norm_layer=group_norm),
        resnet,
        (3, 3, 32, 32),
    ),
    "vit": (partial(small_vit, init_values=0.1), vit, (3, 3, 32, 32)),
    "vit_qk_norm": (partial(small_vit, qk_norm=True), vit, (3, 3, 32, 32)),
    "vit_two_layer_head": (
        partial(timm.create_model, "vit_tiny_two_layer_head", num_classes=2, img_size=32, embed_dim=24, depth=1),
        vit,
        (3, 3, 32, 32),
    ),
    "convnext": (
        partial(timm.create_model, "convnext_atto", num_classes=5, dims=(8, 8, 16, 16), depths=(1, 2, 1, 1)),
        convnext,
        (3, 3, 32, 32),
    ),
    "mobilenetv3": (partial(timm.create_model, "mobilenetv3_small_050", num_classes=5), mobilenetv3, (3, 3, 32, 32)),
    "dora": (Adapted, lambda network: adapters(Structure.of(network.state_dict())), (5, 5)),
    "tied": (TiedTransformer, tied, (4, 6)),
}


def case(name: str) -> Case:
    """The network (fixed weights), its specification's builder, and inputs."""
    make, build, shape = CASES[name]
    with global_seed(0, "case", name):
        network = make()
        inputs = torch.randint(11, shape) if name == "tied" else torch.randn(shape)
    return network, build, inputs


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """One network in float64, all its tensors drawn: (1, *shape) each."""
    network = network.double()
    randomise(network, generator(seed, "weights"))
    return {name: tensor.detach().clone()[None] for name, tensor in network.state_dict().items()}


def copies(weights: dict[str, Tensor], n: int, noise: float, seed: int = 0) -> dict[str, Tensor]:
    """The network n times, each with noise of its own, as large as this share of each tensor's spread."""
    rng = generator(seed, "noise")
    out = {}
    for name, tensor in weights.items():
        out[name] = tensor.expand(n, *tensor.shape[1:]).clone()
        if tensor.is_floating_point() and "running" not in name and tensor.numel() > 1:
            out[name] += noise * tensor.std() * torch.randn(out[name].shape, generator=rng, dtype=torch.float64)
    return out


def problem_of(specification: Specification) -> Problem:
    """What is matched once gains are positive (zoo.symmetry.canonical.prepared)."""
    matched = specification.matched()
    return Problem(matched, tuple(part for part in parts_of(matched) if part.cost))


def values_of(problem: Problem, networks: dict[str, Tensor]) -> list[Tensor]:
    """In the solver's form, every value in units of its part's root mean square, all of norm 1."""
    values = [part.view(networks[part.name].double()).clone() for part in problem.parts]
    total = sum(part.numel for part in problem.parts)
    return [value / (value.square().mean() * total).sqrt() for value in values]


def moved_copies(specification: Specification, networks: dict[str, Tensor], seed: int = 0):
    """Each network after a random element of its own, and the elements."""
    from zoo.symmetry.action import act

    n = len(next(iter(networks.values())))
    element = random_element(specification, n, generator(seed, "element"))
    return act(specification, element, networks), element
