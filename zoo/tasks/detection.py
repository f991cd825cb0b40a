"""Object detection and instance segmentation on COCO: detectron2's ViTDet, AP of boxes and masks.

All values of a checkpoint are floating-point and generated. The network's constants (pixel mean and standard deviation,
anchors) are in no checkpoint: building the network makes them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from evaluators.detection import EVALUATOR, evaluate
from evaluators.metrics import Evaluation
from zoo.checkpoint import content_hash
from zoo.data import coco, composed
from zoo.data.coco import Json
from zoo.data.loading import keys, load, loader_workers
from zoo.errors import MissingData
from zoo.fetch.released import released
from zoo.formats.weights import ARRAYS, fitted, hash_of, in_directory, plain, read, suffix
from zoo.networks import detectron
from zoo.seeds import global_seed
from zoo.structure import Structure
from zoo.tasks.base import MOST_PIXELS, Count, Split, TaskConfig
from zoo.tasks.family import TaskBase, split_off

log = logging.getLogger(__name__)


class Config(TaskConfig):
    """Section `task:` of a recipe.

    - `model`: `vitdet-base` (the paper's), `vitdet-tiny` for tests, or `vitdet-mini`, the smallest.
    - `data`: `coco`, or `digits`: pictures composed of handwritten digits, made on the spot (zoo.data.composed).
    - `classes`: how many categories the annotation files must have.
    - `image_size`: pixels a side, a multiple of 32: images are padded to this square.
    - `pretrained`: true for the weights of the whole network that detectron2 has released (zoo.fetch.released),
      downloaded once; a file with such weights (.safetensors, or .pth or .pkl as detectron2 has them); or what the
      backbone starts from: a vision transformer of timm's with weights on the Hub, by name, or a file or directory with
      them.
    - `validation`: the share of the training images that is never trained on.
    """

    library = "detectron2"
    told = frozenset(("model", "data", "classes", "image_size", "pretrained", "validation"))
    name: Literal["detection"]
    model: Literal["vitdet-base", "vitdet-tiny", "vitdet-mini"]
    data: Literal["coco", "digits"]
    classes: Count = 80
    image_size: Annotated[int, Field(gt=0, le=MOST_PIXELS, multiple_of=32)] = 1024
    pretrained: bool | str | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.002

    def build(self, data_root: Path | None, device: torch.device) -> DetectionTask:
        """Data are found; annotations are read when they are needed. Raises MissingExtra or MissingData."""
        detectron.require()
        root = composed.data_root() if self.data == "digits" else data_root
        coco.check_layout(root)
        assert root is not None
        return DetectionTask(self, root, device)

    def chance(self) -> dict[str, float]:
        return {"box_AP": 0.0}

    def structure(self) -> Structure:
        """Raises MissingExtra."""
        network = detectron.build_without_memory(self.model, self.classes, self.image_size)
        return Structure.of(network.state_dict(keep_vars=True))

    def weights_file(self) -> Path | None:
        """The file that networks start from; none where they start at random, or from timm's weights by name. Raises
        what `released` raises, MissingData for a file that is not there.
        """
        if self.pretrained is True:
            return released("detectron2", self.model)
        path = Path(self.pretrained or "")
        file = in_directory(path) if path.is_dir() else path
        if not self.pretrained or file.is_file():
            return file if self.pretrained else None
        if path.is_dir() or suffix(path.name) or path.suffix == ARRAYS:
            raise MissingData(
                f"there is no {file}; task.pretrained should be true, a file of weights, or a network of timm's"
            )
        return None

    def weights(self) -> Mapping[str, Tensor]:
        """What networks start from, if not at random. Raises what `weights_file` raises, ValueError for a name that
        timm does not know, Corrupt for a damaged file.
        """
        if file := self.weights_file():
            return detectron.without_constants(plain(read(file).tensors))
        from zoo.networks.classifiers import create_network

        return create_network(str(self.pretrained), 0, 3, seed=0, pretrained=True).state_dict()

    def started_from(self) -> dict[str, str]:
        if not self.pretrained:
            return {}
        if file := self.weights_file():
            return {file.name: hash_of(file)}
        return {str(self.pretrained): f"tensors {content_hash(self.weights())}"}

    def library_config(self) -> dict[str, Any]:
        """Nothing: detectron2's checkpoints are `{"model": tensors}`."""
        return {}


class DetectionTask(TaskBase):
    """The Task protocol (zoo.tasks.base) for images with objects. A batch is a list of images in detectron2's form."""

    evaluator = EVALUATOR
    main_metric = "box_AP"
    samples = "images with objects"
    config: Config

    def __init__(self, config: Config, data_root: Path, device: torch.device) -> None:
        super().__init__(config, device)
        self.data_root = data_root
        self.workers = loader_workers()

    @cached_property
    def test(self) -> coco.Annotated:
        """Raises ValueError or Corrupt."""
        return coco.read(self.data_root, "test", self.config.classes)

    @cached_property
    def train(self) -> coco.Annotated:
        """Raises ValueError or Corrupt."""
        found = coco.read(self.data_root, "train", self.config.classes)
        coco.check_same_classes(found, self.test)
        return found

    def _split(self) -> tuple[Tensor, Tensor]:
        """Of the images with something to learn from, as detectron2 has it. Those that networks cannot be scored on are
        drawn with the rest, so that others are divided alike whatever there is of them, and are trained on.
        """
        usable = self.train.whole(range(len(self.train.images)))
        scorable = set(self.train.scorable(usable))
        if len(scorable) < len(usable):
            log.warning(
                f"{len(usable) - len(scorable)} of {len(usable)} images of {self.train.folder} have objects without "
                "polygons, or crowds without a mask of the image, and are not used for validation"
            )
        count = math.ceil(self.config.validation * len(usable))
        drawn = split_off(torch.tensor(usable, dtype=torch.int64), count)[1].tolist()
        validation = [image for image in drawn if image in scorable]
        train = sorted(set(usable).difference(validation))
        return torch.tensor(train, dtype=torch.int64), torch.tensor(validation, dtype=torch.int64)

    @cached_property
    def protocol(self) -> str:
        test = self.test
        size = self.config.image_size
        return f"{self.config.data} val2017, {len(test.images)} images at {size} px, data {test.fingerprint()}"

    def build(self, seed: int) -> nn.Module:
        config = self.config
        with global_seed(seed, "init"):
            network = detectron.build(config.model, config.classes, config.image_size)
        return network.to(self.device)

    def start(self, seed: int) -> nn.Module:
        """Raises MissingData when the pretrained weights are not there, ValueError when they do not fit."""
        network = self.build(seed)
        if self.config.pretrained:
            tensors = self.config.weights()
            origin = str(self.config.weights_file() or self.config.pretrained)
            if any("roi_heads." in name for name in tensors):
                structure = Structure.of(network.state_dict())
                self.load(network, fitted(tensors, structure, origin).tensors)
            else:
                load_backbone(network, tensors, origin)
        return network

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """The last layers of the box head and of the mask head."""
        heads: Any = model.get_submodule("roi_heads")
        return [*heads.box_predictor.parameters(), *heads.mask_head.predictor.parameters()]

    def groups(self, model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
        return detectron.parameter_groups(model, detectron.SIZES[self.config.model].depth, layer_decay)

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Any]:
        plan = self._plan(seed, first_step, batch_size)
        samples = detectron.Samples(self.train, self.config.image_size, seed)
        return load(samples, keys(plan), self.workers, collate=list)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return detectron.loss(model, batch)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """One image at a time, as detectron2 does it."""
        model.eval()
        data = self.test if split == "test" else self.train
        index = range(len(data.images)) if split == "test" else self.validation_index.tolist()
        samples = detectron.Samples(data, self.config.image_size)
        found: list[Json] = []
        for batch in load(samples, ([(0, i)] for i in index), self.workers, collate=list):
            found += detectron.detect(model, batch, data.classes)
        return evaluate(data.truth(index), found)


def load_backbone(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Start the backbone from the weights of a timm vision transformer of its size, whose names detectron2 keeps; what
    only one of them has (relative positions, class token, head) stays as it is.

    Raises ValueError for a network of another size.
    """
    vit = network.get_submodule("backbone.net")
    state = vit.state_dict()
    wanted = [name for name in state if "rel_pos" not in name]
    for name in wanted:
        expected, found = list(state[name].shape), list(tensors[name].shape) if name in tensors else "no such tensor"
        if expected != found:
            raise ValueError(
                f"the weights {origin} do not fit the backbone: {name} should be {expected}, found {found}; expected a "
                "vision transformer of its size, as vit_base_patch16_224.mae for vitdet-base"
            )
    if deeper := [name for name in tensors if name.startswith("blocks.") and name not in state]:
        raise ValueError(
            f"the weights {origin} also have {deeper[0]} (and {len(deeper) - 1} more); expected a vision transformer "
            "with as many layers as the backbone"
        )
    vit.load_state_dict({name: tensors[name] for name in wanted}, strict=False)
