"""Wraps detectron2: ViTDet (Li et al., 2022, https://arxiv.org/abs/2203.16527) with Mask R-CNN's heads, its data
preparation and its learning rates. The only module that imports it, inside functions: it is not on PyPI.

The networks are those of detectron2's `configs/common/models/mask_rcnn_vitdet.py`, built in Python, since its installed
package lacks the configuration of their training (`projects/ViTDet`), whose values are here. No compiled operation of
detectron2's is used: RoIAlign and NMS are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.data.coco import Annotated, Json
from zoo.errors import Corrupt, Failed, MissingExtra, brief
from zoo.networks.meta import without_memory
from zoo.seeds import library_seed

COMMIT = "02b5c4e2"
INSTALL = (
    "pip install 'rpg-zoo[det]' 'setuptools<81' && pip install --no-build-isolation "
    f"'git+https://github.com/facebookresearch/detectron2@{COMMIT}'"
)
"""Tested with this commit of detectron2."""

# ImageNet's, for pixels of 0 to 255. Like the anchors these are constants of the network, in no checkpoint.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PYRAMID = ["p2", "p3", "p4", "p5"]


@dataclass(frozen=True)
class Size:
    """What differs between the networks. Blocks other than those of `window_blocks` attend to the whole image."""

    width: int
    depth: int
    heads: int
    window: int
    window_blocks: tuple[int, ...]
    drop_path: float
    channels: int  # of the pyramid and of the heads' convolutions
    hidden: int  # of the box head
    anchors: tuple[int, ...]  # sizes in pixels, one for each level of the pyramid
    score: float = 0.05  # below, detections are not reported
    proposals: tuple[int, int] = (2000, 1000)  # kept of an image, in training before and after suppression
    regions: int = 512  # of an image, that the heads are trained on
    detections: int = 100  # of an image, that are reported at most


SIZES = {
    "vitdet-base": Size(
        768, 12, 12, 14, (0, 1, 3, 4, 6, 7, 9, 10), 0.1, channels=256, hidden=1024, anchors=(32, 64, 128, 256, 512)
    ),
    "vitdet-tiny": Size(48, 4, 3, 2, (0, 2), 0.0, channels=32, hidden=64, anchors=(8, 16, 24, 32, 48), score=0.0),
    "vitdet-mini": Size(
        24,
        2,
        2,
        2,
        (0,),
        0.0,
        channels=16,
        hidden=32,
        anchors=(8, 16, 24, 32, 48),
        proposals=(200, 100),
        regions=64,
        detections=10,
    ),
}
"""ViTDet-B, of 110,895,792 values, and networks for 64 pixels: for tests, and one of some ten thousand values."""


def require() -> None:
    """Raise MissingExtra, with the line to type, unless detectron2 can be used."""
    for name in ("detectron2.modeling", "detectron2.data", "pycocotools.mask", "shapely.geometry"):
        try:
            import_module(name)
        except ImportError as error:
            raise MissingExtra(f"this task needs detectron2 ({error}); `{INSTALL}`") from error


def build(model: str, classes: int, image_size: int) -> nn.Module:
    """A network that starts at random, from torch's global generator. Raises MissingExtra."""
    require()
    from detectron2.modeling.meta_arch import GeneralizedRCNN

    size = SIZES[model]
    backbone = _backbone(size, image_size)
    network: nn.Module = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=_proposals(size),
        roi_heads=_heads(size, classes),
        pixel_mean=MEAN,
        pixel_std=STD,
        input_format="RGB",
    )
    return network


def build_without_memory(model: str, classes: int, image_size: int) -> nn.Module:
    """The same network on the meta device. Raises MissingExtra."""
    with without_memory():
        return build(model, classes, image_size)


def _backbone(size: Size, image_size: int) -> nn.Module:
    from detectron2.modeling import SimpleFeaturePyramid, ViT
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    vit = ViT(
        img_size=image_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        drop_path_rate=size.drop_path,
        window_size=size.window,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        window_block_indexes=size.window_blocks,
        use_rel_pos=True,
    )
    pyramid: nn.Module = SimpleFeaturePyramid(
        net=vit,
        in_feature="last_feat",
        out_channels=size.channels,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=image_size,
    )
    return pyramid


def _proposals(size: Size) -> nn.Module:
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead

    proposals: nn.Module = RPN(
        in_features=[*PYRAMID, "p6"],
        head=StandardRPNHead(in_channels=size.channels, num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[side] for side in size.anchors],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=Matcher(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(size.proposals[0], size.proposals[1]),
        post_nms_topk=(size.proposals[1], size.proposals[1]),
        nms_thresh=0.7,
    )
    return proposals


def _heads(size: Size, classes: int) -> nn.Module:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.roi_heads import (
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        MaskRCNNConvUpsampleHead,
        StandardROIHeads,
    )

    heads: nn.Module = StandardROIHeads(
        num_classes=classes,
        batch_size_per_image=size.regions,
        positive_fraction=0.25,
        proposal_matcher=Matcher(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=PYRAMID,
        box_pooler=_pooler(7),
        box_head=FastRCNNConvFCHead(
            input_shape=ShapeSpec(channels=size.channels, height=7, width=7),
            conv_dims=[size.channels] * 4,
            fc_dims=[size.hidden],
            conv_norm="LN",
        ),
        box_predictor=FastRCNNOutputLayers(
            input_shape=ShapeSpec(channels=size.hidden),
            test_score_thresh=size.score,
            test_topk_per_image=size.detections,
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=classes,
        ),
        mask_in_features=PYRAMID,
        mask_pooler=_pooler(14),
        mask_head=MaskRCNNConvUpsampleHead(
            input_shape=ShapeSpec(channels=size.channels, width=14, height=14),
            num_classes=classes,
            conv_dims=[size.channels] * 5,
            conv_norm="LN",
        ),
    )
    return heads


def _pooler(side: int) -> nn.Module:
    from detectron2.modeling.poolers import ROIPooler

    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    pooler: nn.Module = ROIPooler(output_size=side, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")
    return pooler


def without_constants(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the constants of networks that some of detectron2's files hold, too: anchors, and the mean
    and standard deviation of pixels. Raises ValueError for other pixels than these networks see.
    """
    for name, expected in (("pixel_mean", MEAN), ("pixel_std", STD)):
        if name in tensors and not torch.allclose(tensors[name].flatten().float(), torch.tensor(expected), atol=1e-2):
            found = tensors[name].flatten().tolist()
            raise ValueError(f"its {name} is {found[:3]}, expected {expected}: they were trained on other pixels")
    constant = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(constant)}


def parameter_groups(network: nn.Module, depth: int, layer_decay: float) -> list[dict[str, Any]]:
    """The trained parameters as an optimiser's groups: the learning rate falls by `layer_decay` from a block of the
    backbone to the one before it; norms and the position embedding do not decay.
    """
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
    from detectron2.solver.build import get_default_optimizer_params

    groups: list[dict[str, Any]] = get_default_optimizer_params(
        network,
        base_lr=1.0,
        weight_decay_norm=0.0,
        lr_factor_func=partial(get_vit_lr_decay_rate, num_layers=depth, lr_decay_rate=layer_decay),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    for group in groups:
        group["lr_scale"] = group.pop("lr")
    return groups


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Json]):
    """Item (epoch, i) is image i in detectron2's form, uint8 (3, rows, columns) with what the networks need to know of
    it. With `seed` it is augmented (flip, scale, crop: large scale jittering) by draws that depend on (seed, epoch, i)
    alone, and has its objects; without, it is only resized.
    """

    data: Annotated
    image_size: int
    seed: int | None = None
    mapper: Callable[[Json], Json] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mapper", _mapper(self.image_size, train=self.seed is not None))

    def __getitem__(self, key: tuple[int, int]) -> Json:
        epoch, i = key
        record = self._record(i)
        try:
            with library_seed(self.seed or 0, "augment", epoch, i):
                return self.mapper(record)
        except Exception as error:  # detectron2 has no class of its own for what is wrong with a file
            raise Corrupt(f"{record['file_name']} or its annotations cannot be read: {brief(error)}") from error

    def _record(self, i: int) -> Json:
        from detectron2.structures import BoxMode

        image = self.data.images[i]
        record = {"file_name": str(self.data.folder / image["file_name"]), "image_id": image["id"]}
        record |= {"height": image["height"], "width": image["width"]}
        if self.seed is None:
            return record
        number = {id: k for k, id in enumerate(self.data.classes)}
        objects = [
            {
                "bbox": one["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": number[one["category_id"]],
                "segmentation": [polygon for polygon in one["segmentation"] if len(polygon) >= 6],
            }
            for one in self.data.objects[image["id"]]
            if not one["iscrowd"]
        ]
        return record | {"annotations": [one for one in objects if one["segmentation"]]}


def _mapper(side: int, train: bool) -> Callable[[Json], Json]:
    """detectron2's, as in its `coco_loader_lsj.py`."""
    import detectron2.data.transforms as transforms
    from detectron2.data import DatasetMapper

    if train:
        augmentations = [
            transforms.RandomFlip(horizontal=True),
            transforms.ResizeScale(min_scale=0.1, max_scale=2.0, target_height=side, target_width=side),
            transforms.FixedSizeCrop(crop_size=(side, side), pad=False),
        ]
    else:
        augmentations = [transforms.ResizeShortestEdge(short_edge_length=side, max_size=side)]
    mapper: Callable[[Json], Json] = DatasetMapper(
        is_train=train,
        augmentations=augmentations,
        image_format="RGB",
        use_instance_mask=train,
        recompute_boxes=train,
    )
    return mapper


def loss(network: nn.Module, batch: Sequence[Json]) -> Tensor:
    """The sum of the losses of proposals, boxes, classes and masks, a scalar. Raises Failed when training diverged."""
    from detectron2.utils.events import EventStorage

    try:
        with EventStorage(0):
            losses: dict[str, Tensor] = network(batch)
    except FloatingPointError as error:
        raise Failed("training diverged: proposals are not finite; lower zoo.learning_rate") from error
    return torch.stack(list(losses.values())).sum()


@torch.no_grad()
def detect(network: nn.Module, batch: Sequence[Json], classes: Sequence[int]) -> list[Json]:
    """What the network finds, as COCO's result files have it; `classes` are the numbers of its classes there."""
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    found: list[Json] = []
    for sample, output in zip(batch, network(batch), strict=True):
        found += instances_to_coco_json(output["instances"].to("cpu"), sample["image_id"])
    return [one | {"category_id": classes[one["category_id"]]} for one in found]
