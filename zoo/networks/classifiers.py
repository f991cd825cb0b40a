"""Networks of our own, and the way to all of timm's and their pretrained weights.

`cnn_small` and `cnn_medium` are CNN (s) and CNN (m) of the paper's Table 8: the networks of the Model Zoos
(Schürholt et al., 2022, https://arxiv.org/abs/2209.14764) with LeakyReLU, as in RPG's published code, whose tensor
names they keep. `resnet20` is that of He et al. (2016, section 4.2, https://arxiv.org/abs/1512.03385). After
`import zoo.networks.classifiers` timm knows them by name, and loads what `rpg-zoo export` wrote. timm is imported here
only, but for its readers and transforms (zoo.data.imagenet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from timm.models import PretrainedCfg, build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, downsample_conv
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from zoo.errors import MissingData, brief, suggest
from zoo.formats.weights import Fitted, fitted, in_directory, log_notes, plain, read
from zoo.seeds import global_seed
from zoo.structure import Structure
from zoo.tasks.base import Option

Options = Mapping[str, Option]
NOT_OPTIONS = ("checkpoint_path", "cache_dir", "features_only", "scriptable", "exportable", "no_jit", "kwargs_filter")
"""Settings of timm's own: with some, a recipe from anyone would have it read files. So do those about `pretrained`."""

# What timm has to know of our networks beside their constructor.
CIFAR = {"input_size": (3, 32, 32), "num_classes": 10, "first_conv": "module.0", "classifier": "head.2"}
default_cfgs = {
    "cnn_small": CIFAR,
    "cnn_medium": CIFAR,
    "cnn_medium_on_classes": CIFAR | {"classifier": "head.4"},
    "resnet20": CIFAR | {"first_conv": "conv1", "classifier": "fc"},
    "cnn_digits": CIFAR | {"input_size": (1, 8, 8), "classifier": "head.0"},
    # Starts from the weights of ViT-Tiny; only the head is new.
    "vit_tiny_two_layer_head": {
        "hf_hub_id": "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "fixed_input_size": True,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 0.9,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    },
}


class ConvNet(nn.Module):
    """Convolutions, flatten, fully connected layers: (B, C, H, W) -> logits (B, classes).

    Images are first resized (bilinearly) to `input_size` pixels a side where that is given.
    """

    def __init__(self, convolutions: nn.Sequential, head: nn.Sequential, input_size: int | None = None) -> None:
        super().__init__()
        self.module = convolutions  # named as in the published checkpoints
        self.head = head
        self.input_size = input_size
        self.register_load_state_dict_pre_hook(_restore_names)

    def forward(self, images: Tensor) -> Tensor:
        # With channels last a CPU trains in half of the time: it is pooling and resizing that gain.
        images = images.contiguous(memory_format=torch.channels_last)
        if self.input_size is not None:
            images = F.interpolate(images, (self.input_size, self.input_size), mode="bilinear")
        return self.head(self.module(images).flatten(1))

    def get_classifier(self) -> nn.Module:
        """The last layer, or the head of two, as timm's networks name it."""
        return self.head[-1]


@register_model
def cnn_small(pretrained: bool = False, **options: Any) -> ConvNet:
    """CNN (s): 2,864 parameters for 10 classes and 3 channels; computes at 28 x 28."""

    def network(num_classes: int, in_chans: int) -> ConvNet:
        convolutions = nn.Sequential(
            *(nn.Conv2d(in_chans, 8, 5), nn.MaxPool2d(2), nn.LeakyReLU()),
            *(nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.LeakyReLU()),
            *(nn.Conv2d(6, 4, 2), nn.LeakyReLU()),
        )
        head = nn.Sequential(nn.Linear(36, 20), nn.LeakyReLU(), nn.Linear(20, num_classes))
        return ConvNet(convolutions, head, input_size=28)

    return build_model_with_cfg(network, "cnn_small", pretrained, **options)


@register_model
def cnn_medium(pretrained: bool = False, **options: Any) -> ConvNet:
    """CNN (m): 10,853 parameters for 10 classes and 3 channels; for images of 32 x 32. Its convolutions have `width`
    times the channels, rounded: with 2 it has 39,332 parameters, with 0.25 a tenth of them, 1,250.
    """

    def network(num_classes: int, in_chans: int, width: float = 1) -> ConvNet:
        if width <= 0:
            raise ValueError(f"expected width above 0, got {width}")
        first, second, third = (max(1, round(channels * width)) for channels in (16, 32, 15))
        convolutions = nn.Sequential(
            *(nn.Conv2d(in_chans, first, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
            *(nn.Conv2d(first, second, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
            *(nn.Conv2d(second, third, 3), nn.MaxPool2d(2), nn.LeakyReLU()),
        )
        head = nn.Sequential(nn.Linear(4 * third, 20), nn.LeakyReLU(), nn.Linear(20, num_classes))
        return ConvNet(convolutions, head)

    return build_model_with_cfg(network, "cnn_medium", pretrained, **options)


@register_model
def cnn_medium_on_classes(pretrained: bool = False, **options: Any) -> ConvNet:
    """CNN (m) for ten classes with a head of two layers on their probabilities: 14,181 parameters for two answers, of
    which the head has 3,328. It starts from the weights of a CNN (m), for binary tasks on the ten classes; only the
    head is new.
    """

    def network(num_classes: int, in_chans: int) -> ConvNet:
        medium = cnn_medium(num_classes=10, in_chans=in_chans)
        head = nn.Sequential(nn.Linear(10, 256), nn.SiLU(), nn.Linear(256, num_classes, bias=False))
        return ConvNet(medium.module, nn.Sequential(*medium.head, nn.Softmax(1), head))

    return build_model_with_cfg(network, "cnn_medium_on_classes", pretrained, **options)


@register_model
def cnn_digits(pretrained: bool = False, **options: Any) -> ConvNet:
    """The demo's network, with BatchNorm: 1,010 parameters for 10 classes and 1 channel; for images of 8 x 8."""

    def network(num_classes: int, in_chans: int) -> ConvNet:
        convolutions = nn.Sequential(
            *(nn.Conv2d(in_chans, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2)),
        )
        return ConvNet(convolutions, nn.Sequential(nn.Linear(32, num_classes)))

    return build_model_with_cfg(network, "cnn_digits", pretrained, **options)


class ResNet20(nn.Module):
    """Nine blocks of two convolutions at 32, 16 and 8 pixels with 16, 32 and 64 channels. Where these change, timm's
    shortcut is a convolution of one pixel (He et al. pad with zeros), of 2,752 parameters.
    """

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = self._stage(16, 16)
        self.layer2 = self._stage(16, 32)
        self.layer3 = self._stage(32, 64)
        self.fc = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Sequential:
        shrink = before != after
        shortcut = downsample_conv(before, after, 1, stride=2) if shrink else None
        first = BasicBlock(before, after, 2 if shrink else 1, shortcut)
        return nn.Sequential(first, BasicBlock(after, after), BasicBlock(after, after))

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as in ConvNet
        stages = self.layer3(self.layer2(self.layer1(self.act1(self.bn1(self.conv1(images))))))
        return self.fc(stages.mean((2, 3)))

    def get_classifier(self) -> nn.Module:
        """The last layer, as timm's networks name it."""
        return self.fc


@register_model
def resnet20(pretrained: bool = False, **options: Any) -> ResNet20:
    """ResNet-20: 272,474 parameters for 10 classes and 3 channels; for images of 32 x 32."""

    def network(num_classes: int, in_chans: int) -> ResNet20:
        return ResNet20(num_classes, in_chans)

    return build_model_with_cfg(network, "resnet20", pretrained, **options)


class TwoLayerHead(VisionTransformer):
    """A vision transformer with a head of two layers, the network of the paper's binary tasks (section 4.1)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        width = self.num_features
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, self.num_classes, bias=False))


@register_model
def vit_tiny_two_layer_head(pretrained: bool = False, **options: Any) -> TwoLayerHead:
    """ViT-Tiny with two layers in the head: 37,440 parameters of 5,561,856 there for 2 classes, as in RPG's code."""
    size = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3} | options
    return build_model_with_cfg(
        TwoLayerHead, "vit_tiny_two_layer_head", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **size
    )


def _restore_names(_module: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Undo what timm does to state dicts it reads: it drops `module.`, thinking of DistributedDataParallel."""
    for name in [name for name in state_dict if name[0].isdigit()]:
        state_dict[f"module.{name}"] = state_dict.pop(name)


def is_known(name: str) -> bool:
    """Whether timm knows the network, with or without a tag of weights."""
    return timm.is_model(name)


def check_network(name: str) -> None:
    """Raise ValueError unless timm knows this name, and the weights' tag after its dot where there is one."""
    if not is_known(name):
        known = timm.list_models()
        raise ValueError(
            f"no network named {name!r} in timm or zoo.networks.classifiers{suggest(name, known)} (one of your own is "
            "module:Class, as in my_net:MyNet, with --import)"
        )
    architecture, _, tag = name.partition(".")
    if tag and name not in (tags := timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"timm has no weights {tag!r} of {architecture}{suggest(name, tags)}")


def create_network(
    name: str,
    num_classes: int,
    in_chans: int,
    seed: int,
    *,
    image_size: int | None = None,
    options: Options | None = None,
    pretrained: bool | str = False,
) -> nn.Module:
    """The network that timm knows by this name, with random weights that are a function of the seed.

    A network whose shape depends on the size of its images (a vision transformer) is made for `image_size` pixels a
    side. `options` go to its constructor. `pretrained`: weights from the Hugging Face Hub, or from a file, or a
    directory as `rpg-zoo export --format timm` writes it; a head for other classes starts at random.

    Raises ValueError for an unknown name, option or size, MissingData when the weights are not there, Corrupt when
    their file is damaged.
    """
    check_network(name)
    for option in options or {}:
        if option in NOT_OPTIONS or option.startswith("pretrained"):
            raise ValueError(f"task.options.{option} is no option of a network; for weights there is task.pretrained")
    config = _config(name)
    given: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, **(options or {})}
    if image_size is not None and config.fixed_input_size:
        given["img_size"] = image_size
    if pretrained is True and not config.has_weights:
        raise ValueError(f"nobody has published weights of {name}; expected task.pretrained=false, or a file")
    network = _created(name, seed, pretrained is True, given)
    if isinstance(pretrained, str):
        _load_file(network, Path(pretrained.removeprefix("local-dir:")), name, given)
    return network


def _created(name: str, seed: int, pretrained: bool, given: Mapping[str, Any]) -> nn.Module:
    """timm's network, with its errors as ours."""
    config = _config(name)
    try:
        with global_seed(seed, "build"):
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **given)
    except OSError as error:
        raise MissingData(
            f"cannot get the weights {name} from the Hugging Face Hub ({brief(error)}); without network, put "
            f"config.json and model.safetensors of https://huggingface.co/{config.hf_hub_id} into a directory and give "
            "--set task.pretrained=DIR, or train from scratch with --set task.pretrained=false"
        ) from error
    except (RuntimeError, TypeError, AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"cannot make {name} with {_listed(given)}: {brief(error)}") from error
    return network


def data_config(name: str) -> dict[str, Any]:
    """How the weights of this name want their images: `mean`, `std`, `crop_pct`, `crop_mode` and `interpolation`."""
    check_network(name)
    config = _config(name).to_dict()
    return {key: config[key] for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")}


def timm_config(name: str, options: Options, num_classes: int, images: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` beside exported weights, with which `timm.create_model("local-dir:DIR", pretrained=True)` makes
    the network that `create_network` made.

    `images` says how its images are prepared: `input_size` (channels, rows, columns), `mean`, `std`, `crop_pct`,
    `crop_mode` and `interpolation`. Raises ValueError where timm would make another network of it.
    """
    config = _config(name).to_dict()
    kept = {key: config[key] for key in ("first_conv", "classifier", "license", "fixed_input_size") if key in config}
    channels, side, _ = images["input_size"]
    # Some of timm's entries set a size of their own, which only an argument overrides.
    size = {"img_size": side} if config.get("fixed_input_size") else {}
    found: dict[str, Any] = {
        "architecture": name.partition(".")[0],
        "num_classes": num_classes,
        "model_args": {"num_classes": num_classes, "in_chans": channels, **size, **options},
        "pretrained_cfg": {"num_classes": num_classes, **images, **kept},
    }
    with torch.device("meta"):
        mine = create_network(name, num_classes, channels, 0, image_size=side, options=options)
        theirs = timm.create_model(found["architecture"], pretrained_cfg=found["pretrained_cfg"], **found["model_args"])
    lines = Structure.of(mine.state_dict(keep_vars=True)).diff(Structure.of(theirs.state_dict(keep_vars=True)))
    if lines:
        raise ValueError(f"timm would make another network of this configuration of {name}: {lines[0]}")
    return found


def _config(name: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _load_file(network: nn.Module, place: Path, name: str, given: Mapping[str, Any]) -> None:
    """Load pretrained weights from this file or directory, all of them; but a head of another size stays as it is.

    Raises MissingData when they are not there, ValueError, in one line, when they are not those of this network.
    """
    file = in_directory(place) if place.is_dir() else place
    if not file.is_file():
        raise MissingData(
            f"no weights at {file}; expected a .safetensors or .pth file, or a directory with model.safetensors as "
            "`rpg-zoo export ZOO ID --format timm` writes it"
        )
    weights = read(file)
    structure = Structure.of(network.state_dict(keep_vars=True))
    classifier = _config(name).classifier or ()
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        found = fitted(weights.tensors, structure, str(file), head=head)
    except ValueError as error:  # it may have another image size, or the names of who published the network
        if (converted := _converted(weights.tensors, structure, head, name, given)) is None:
            raise ValueError(f"{error}; task.pretrained should be weights of {name}") from error
        found = converted
    log_notes(file, weights, found)
    network.load_state_dict(found.tensors, strict=False)  # of which nothing but the head can be missing


def _converted(
    tensors: Mapping[str, Tensor], structure: Structure, head: Sequence[str], name: str, given: Mapping[str, Any]
) -> Fitted | None:
    """The weights as timm converts them for this network, if they then are all there and fit."""
    caught: list[dict[str, Tensor]] = []

    def catch(_network: nn.Module, state_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> Any:
        caught.append(dict(state_dict))
        return nn.modules.module._IncompatibleKeys([], [])

    overlay = {"state_dict": plain(tensors), "custom_load": False, "num_classes": given["num_classes"]}
    try:
        # timm converts and loads in one go, and says only in its log what did not fit. So it converts a network of its
        # own, of which loading is caught.
        with patch.object(nn.Module, "load_state_dict", catch):
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **given)
        return fitted(caught[-1], structure, name, head=head)
    except Exception:  # whatever conversions of another network stumble over: the caller says what does not fit
        return None


def _listed(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in given.items() if key != "pretrained_cfg_overlay")
