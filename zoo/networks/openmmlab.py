"""Wraps mmsegmentation, mmcv and mmengine: UperNet with a ViT backbone, its loss, slide inference, and how images are
prepared for it. The only module that imports them.

Two distributions have these modules: the maintained fork (onedl-mmsegmentation with onedl-mmcv and onedl-mmengine,
which extra [seg] installs) and the original (mmsegmentation 1.2.2 with mmcv-lite 2.1.0 and mmengine). Neither needs
mmcv's compiled operators here. The settings are those of mmsegmentation's config
`mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512`.

Shape suffixes: B images of a batch, H rows and W columns of an image.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.segmentation import IGNORE
from zoo.errors import MissingExtra, brief
from zoo.networks.meta import without_memory
from zoo.seeds import library_seed

PATCH = 16
INDEX = "relative_position_index"  # buffers that are functions of the crop alone

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3), blue first: as mmcv reads them."""
Labels: TypeAlias = NDArray[np.uint8]
"""(H, W); IGNORE where there is none."""
Transform: TypeAlias = Callable[[Image, Labels], tuple[Image, Labels]]


@dataclass(frozen=True)
class Size:
    """`width`, `layers` and `heads` of the backbone, the layers after which its features are taken, channels of the two
    segmentation heads.
    """

    width: int
    layers: int
    heads: int
    taps: tuple[int, int, int, int]
    channels: int
    auxiliary: int


SIZES = {
    "base": Size(768, 12, 12, (3, 5, 7, 11), 768, 256),
    "tiny": Size(48, 4, 3, (0, 1, 2, 3), 32, 16),
    "mini": Size(24, 4, 3, (0, 1, 2, 3), 16, 8),
}


def network(size: str, crop: int, classes: int, seed: int) -> nn.Module:
    """A freshly initialised UperNet for crops of `crop` pixels a side, on the CPU. Raises MissingExtra."""
    with library_seed(seed, "build"):
        model = _built(size, crop, classes)
        model.init_weights()  # type: ignore[operator]
    return model


def empty_network(size: str, crop: int, classes: int) -> nn.Module:
    """The same on the meta device: names, shapes and dtypes. Raises MissingExtra."""
    with without_memory():
        return _built(size, crop, classes)


def _built(size: str, crop: int, classes: int) -> nn.Module:
    registry = _mmseg("registry")
    _mmseg("models")
    from mmengine.config import ConfigDict
    from mmengine.logging import MMLogger

    if not MMLogger.check_instance_created("rpg-zoo"):  # as the current one; mmengine's own would write to stdout
        MMLogger.get_instance("rpg-zoo", log_level="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own deprecated names
        model: nn.Module = registry.MODELS.build(ConfigDict(settings(size, crop, classes)))
    return model


def position_index(crop: int) -> Tensor:
    """`relative_position_index` of every layer: int64 (P + 1, P + 1) for crops of P patches."""
    side = crop // PATCH
    attention = _mmseg("models.backbones.mae").MAEAttention(
        embed_dims=1, num_heads=1, window_size=(side, side), bias=True
    )
    index: Tensor = attention.relative_position_index
    return index


def settings(size: str, crop: int, classes: int) -> dict[str, Any]:
    """The `model` of an mmsegmentation config. BatchNorm is not synchronised between processes: there is one."""
    s = SIZES[size]
    head = {
        "dropout_ratio": 0.1,
        "num_classes": classes,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": False,
    }
    return {
        "_scope_": "mmseg",  # where names of its parts are looked up
        "type": "EncoderDecoder",
        "data_preprocessor": preparation(crop),
        "pretrained": None,
        "backbone": {
            "type": "MAE",
            "img_size": (crop, crop),
            "patch_size": PATCH,
            "in_channels": 3,
            "embed_dims": s.width,
            "num_layers": s.layers,
            "num_heads": s.heads,
            "mlp_ratio": 4,
            "out_indices": list(s.taps),
            "attn_drop_rate": 0.0,
            "drop_path_rate": 0.1,
            "norm_cfg": {"type": "LN", "eps": 1e-6},
            "act_cfg": {"type": "GELU"},
            "norm_eval": False,
            "init_values": 1.0,
        },
        "neck": {"type": "Feature2Pyramid", "embed_dim": s.width, "rescales": [4, 2, 1, 0.5]},
        "decode_head": {
            **head,
            "type": "UPerHead",
            "in_channels": [s.width] * 4,
            "in_index": [0, 1, 2, 3],
            "pool_scales": (1, 2, 3, 6),
            "channels": s.channels,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        },
        "auxiliary_head": {
            **head,
            "type": "FCNHead",
            "in_channels": s.width,
            "in_index": 2,
            "channels": s.auxiliary,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "slide", "crop_size": (crop, crop), "stride": (stride(crop), stride(crop))},
    }


def stride(crop: int) -> int:
    """Pixels between crops of slide inference: they overlap by a third; 341 for 512."""
    return 2 * crop // 3


def preparation(crop: int) -> dict[str, Any]:
    """The `data_preprocessor` of a config. Unlike mmsegmentation's, it enlarges test images that are lower or narrower
    than a crop (by zeros, which are taken away again): its backbone cannot take them.
    """
    return {
        "type": "SegDataPreProcessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
        "size": (crop, crop),
        "test_cfg": {"size": (crop, crop)},
    }


def ade20k() -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """The names of ADE20K's 150 classes in the order of their labels, and their colours."""
    known = _mmseg("datasets").ADE20KDataset.METAINFO
    return tuple(known["classes"]), tuple(tuple(colour) for colour in known["palette"])


def read_image(path: Path) -> Image:
    """Raises ValueError or OSError if it cannot be decoded."""
    import mmcv

    data = path.read_bytes()
    if not data:
        raise ValueError("it is empty")
    try:
        image: Image | None = mmcv.imfrombytes(data, flag="color", backend="cv2")
    except Exception as error:  # OpenCV's own, which is no kind of ValueError
        raise ValueError(brief(error, 120)) from error
    if image is None:
        raise ValueError("no image that OpenCV knows")
    return image


def training_transform(crop: int) -> Transform:
    """Resized at random, cropped to at most `crop` pixels a side, flipped, colours distorted: draws from the global
    generators of numpy, `random` and torch.
    """
    from mmcv.transforms import Compose, RandomFlip, RandomResize

    ours = _mmseg("datasets.transforms")
    steps = [
        RandomResize(scale=(4 * crop, crop), ratio_range=(0.5, 2.0), keep_ratio=True),
        ours.RandomCrop(crop_size=(crop, crop), cat_max_ratio=0.75),
        RandomFlip(prob=0.5),
        ours.PhotoMetricDistortion(),
    ]
    return _Transform(Compose(steps))


def test_transform(crop: int) -> Transform:
    """The image resized to `crop` pixels on its shorter side, unless the other would be more than four times as long;
    labels as they are.
    """
    from mmcv.transforms import Resize

    return _Transform(Resize(scale=(4 * crop, crop), keep_ratio=True), whole_labels=True)


@dataclass(frozen=True)
class _Transform:
    """Steps of mmcv as a function; with `whole_labels` the labels stay as they are."""

    steps: Callable[[dict[str, Any]], dict[str, Any]]
    whole_labels: bool = False

    def __call__(self, image: Image, labels: Labels) -> tuple[Image, Labels]:
        shape = image.shape[:2]
        given = {"img": image, "img_shape": shape, "ori_shape": shape, "seg_fields": ["gt_seg_map"]}
        done = self.steps(given | ({} if self.whole_labels else {"gt_seg_map": labels}))
        return done["img"], labels if self.whole_labels else done["gt_seg_map"]


class Preprocessor:
    """mmsegmentation's own preparation of training batches, on a device."""

    def __init__(self, crop: int, device: torch.device) -> None:
        self._module = _mmseg("registry").MODELS.build(preparation(crop)).to(device)

    def __call__(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images uint8 (3, H, W) and labels uint8 (H, W), up to the size of a crop -> float32 (B, 3, crop, crop),
        standardised, and int64 (B, crop, crop), both padded.
        """
        given = {"inputs": list(images), "data_samples": [_sample(map) for map in labels]}
        done = self._module(given, training=True)
        return done["inputs"], torch.stack([sample.gt_sem_seg.data[0] for sample in done["data_samples"]])


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The sum of both heads' losses, a scalar: images float32 (B, 3, H, W), labels int64 (B, H, W)."""
    segmentor: Any = model
    total, _ = segmentor.parse_losses(segmentor.loss(images, [_sample(map) for map in labels]))
    return torch.as_tensor(total)


def _sample(labels: Tensor) -> Any:
    from mmengine.structures import PixelData

    return _mmseg("structures").SegDataSample(gt_sem_seg=PixelData(data=labels[None].long()))


def predict(model: nn.Module, image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Classes int64 (H, W) of an image uint8 (3, h, w) that was resized from shape (H, W), by slide inference."""
    segmentor: Any = model
    sample = _mmseg("structures").SegDataSample(metainfo={"ori_shape": shape, "img_shape": tuple(image.shape[1:])})
    (done,) = segmentor.test_step({"inputs": [image], "data_samples": [sample]})
    found: Tensor = done.pred_sem_seg.data[0]
    return found


def load_backbone(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put pretrained weights into the backbone, in place; position embeddings are interpolated where sizes differ, as
    mmsegmentation does. What MAE's pretraining lacks keeps its constant start: layer scales, relative positions.

    Raises ValueError if they are another network's.
    """
    backbone: Any = model.backbone
    try:
        state = backbone.resize_abs_pos_embed(backbone.resize_rel_pos_embed(dict(weights)))
        result = backbone.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"they do not fit: {brief(error)}") from error
    if missing := [name for name in result.missing_keys if not _starts_constant(name)]:
        raise ValueError(f"they have no {missing[0]} (and {len(missing) - 1} more are missing)")
    if deeper := [name for name in result.unexpected_keys if name.startswith("layers.")]:
        raise ValueError(f"they also have {deeper[0]} (and {len(deeper) - 1} more): a network with other layers")


def _starts_constant(name: str) -> bool:
    return name.rpartition(".")[2] in (INDEX, "relative_position_bias_table", "gamma_1", "gamma_2")


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """The factor of every parameter's learning rate by its name: `decay` to the power of how many layers it lies below
    the heads. Source: mmsegmentation's LearningRateDecayOptimizerConstructor, layer_wise, for BEiT and MAE.
    """
    backbone: Any = model.backbone
    top = len(backbone.layers) + 1

    def depth(name: str) -> int:
        if name.startswith("backbone.layers."):
            return int(name.split(".")[2]) + 1
        return 0 if name.startswith(("backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.")) else top

    return {name: decay ** (top - depth(name)) for name, _ in model.named_parameters()}


def _mmseg(name: str) -> ModuleType:
    """A module of mmseg. Raises MissingExtra when it or what it needs is not installed."""
    if (known := sys.modules.get(f"mmseg.{name}")) is not None:
        return known
    try:
        # It warns of its own deprecated names and prints what it lacks.
        with _stubbed_operators(), warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            return import_module(f"mmseg.{name}")
    except (ImportError, AssertionError) as error:  # mmseg asserts the versions of mmcv that it takes
        raise MissingExtra(
            f"mmsegmentation cannot be imported ({brief(error)}); install it with pip install 'rpg-zoo[seg]', or "
            "mmsegmentation==1.2.2 with mmcv-lite==2.1.0"
        ) from error


@contextmanager
def _stubbed_operators() -> Iterator[None]:
    """Where mmcv has no compiled operators, some networks of mmseg that are not used here cannot be imported: inside
    the block they get operators that do not work. OpenCV's threads are switched off, as mmengine does: they do not
    survive a fork.
    """
    import cv2

    cv2.setNumThreads(0)
    name = "mmcv._ext"
    if name in sys.modules or find_spec(name) is not None:
        yield
        return
    stub = ModuleType(name)
    stub.__getattr__ = _operator  # type: ignore[method-assign]
    sys.modules[name] = stub
    try:
        yield
    finally:
        del sys.modules[name]  # whoever asks whether there are operators gets the right answer


def _operator(name: str) -> Callable[..., Any]:
    if name.startswith("__"):  # what modules are asked for, such as __file__
        raise AttributeError(name)
    return _no_operator


def _no_operator(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("mmcv was installed without its compiled operators")
