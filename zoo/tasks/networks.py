"""Small convolutional networks, and the way to all of timm's.

`cnn_small` and `cnn_medium` are CNN (s) and CNN (m) of the paper's Table 8: the networks of the Model Zoos
(Schürholt et al., 2022, https://arxiv.org/abs/2209.14764) with LeakyReLU, as in RPG's published code, whose tensor
names they keep. timm is imported here only.
"""

from __future__ import annotations

from typing import Any

import timm
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from zoo.errors import suggest
from zoo.seeds import global_seed


class ConvNet(nn.Module):
    """Convolutions, flatten, fully connected layers: (B, C, H, W) -> logits (B, classes).

    Images are first resized (bilinearly) to `input_size` pixels a side where that is given.
    """

    def __init__(self, convolutions: nn.Sequential, head: nn.Sequential, input_size: int | None = None) -> None:
        super().__init__()
        self.module = convolutions  # named as in the published checkpoints
        self.head = head
        self.input_size = input_size

    def forward(self, images: Tensor) -> Tensor:
        if self.input_size is not None:
            images = F.interpolate(images, (self.input_size, self.input_size), mode="bilinear")
        return self.head(self.module(images).flatten(1))


@register_model
def cnn_small(*, num_classes: int = 10, in_chans: int = 3, **options: Any) -> ConvNet:
    """CNN (s): 2,864 parameters for 10 classes and 3 channels; computes at 28 x 28."""
    _refuse(options)
    convolutions = nn.Sequential(
        *(nn.Conv2d(in_chans, 8, 5), nn.MaxPool2d(2), nn.LeakyReLU()),
        *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.LeakyReLU()),
        *(nn.Conv2d(6, 4, 2), nn.LeakyReLU()),
    )
    head = nn.Sequential(nn.Linear(36, 20), nn.LeakyReLU(), nn.Linear(20, num_classes))
    return ConvNet(convolutions, head, input_size=28)


@register_model
def cnn_medium(*, num_classes: int = 10, in_chans: int = 3, **options: Any) -> ConvNet:
    """CNN (m): 10,853 parameters for 10 classes and 3 channels; for images of 32 x 32."""
    _refuse(options)
    convolutions = nn.Sequential(
        *(nn.Conv2d(in_chans, 16, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
        *(nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
        *(nn.Conv2d(32, 15, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
    )
    head = nn.Sequential(nn.Linear(60, 20), nn.LeakyReLU(), nn.Linear(20, num_classes))
    return ConvNet(convolutions, head)


@register_model
def cnn_digits(*, num_classes: int = 10, in_chans: int = 1, **options: Any) -> ConvNet:
    """The demo's network, with BatchNorm: 1,010 parameters for 10 classes and 1 channel; for images of 8 x 8."""
    _refuse(options)
    convolutions = nn.Sequential(
        *(nn.Conv2d(in_chans, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2)),
    )
    return ConvNet(convolutions, nn.Sequential(nn.Linear(32, num_classes)))


def create_network(name: str, num_classes: int, in_chans: int, seed: int) -> nn.Module:
    """The network that timm knows by this name, with random weights that are a function of the seed.

    Raises ValueError for an unknown name.
    """
    if not timm.is_model(name):
        raise ValueError(f"no network named {name!r} in timm or zoo.tasks.networks{suggest(name, timm.list_models())}")
    with global_seed(seed, "build"):
        return timm.create_model(name, num_classes=num_classes, in_chans=in_chans)


def _refuse(options: dict[str, Any]) -> None:
    """Raise ValueError for any option timm passes on that is set: these networks have none, nor pretrained weights."""
    given = [name for name, value in options.items() if value]
    if given:
        raise ValueError(f"options {', '.join(given)} do not apply; expected num_classes and in_chans at most")
