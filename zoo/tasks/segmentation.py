"""Semantic segmentation: UperNet with a ViT backbone, ADE20K, cross entropy per pixel. The network and its loss are
mmsegmentation's.

Shape suffixes: B images of a batch, H rows and W columns of an image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from evaluators.metrics import Evaluation
from evaluators.segmentation import EVALUATOR, evaluate
from zoo.data import composed
from zoo.data.composed import Colour
from zoo.errors import MissingData
from zoo.fetch.released import released
from zoo.formats.weights import fitted, hash_of, plain, read
from zoo.structure import Structure
from zoo.tasks.base import MOST_PIXELS, Batch, Split, TaskConfig
from zoo.tasks.family import TaskBase, split_off

if TYPE_CHECKING:
    from zoo.data.ade20k import Scenes

ADE20K_CLASSES = 150
RELEASE = "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/mae"


class Config(TaskConfig):
    """Section `task:` of a recipe.

    - `data`: `ade20k`, or `digits`: pictures composed of handwritten digits, made on the spot (zoo.data.composed).
    - `size`: `base`, a ViT-B as in mmsegmentation's `mae-base_upernet`; `tiny`, four layers of width 48; or `mini`, of
      width 16.
    - `classes`: some of the data's (ADE20K has 150), by name, in the order of the network's outputs; pixels of others
      do not count. All by default.
    - `crop`: pixels a side of what the network sees. Images are resized so that their shorter side has as many.
    - `pretrained`: true for the weights that mmsegmentation has released (zoo.fetch.released), downloaded once; or a
      file with those to start from: of the whole network, in mmsegmentation's format, or of its backbone, as MAE's
      pretraining leaves them.
    - `validation`: the share of the training images that is never trained on.
    """

    library = "mmseg"
    told = frozenset(("data", "size", "classes", "crop", "pretrained", "validation"))
    name: Literal["segmentation"]
    data: Literal["ade20k", "digits"] = "ade20k"
    size: Literal["base", "tiny", "mini"] = "base"
    classes: tuple[str, ...] = ()
    crop: Annotated[int, Field(ge=32, le=MOST_PIXELS, multiple_of=32)] = 512
    pretrained: bool | str = False
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.01

    @property
    def outputs(self) -> int:
        """How many classes the network tells apart."""
        return len(self.classes) or (ADE20K_CLASSES if self.data == "ade20k" else len(composed.CLASSES))

    def known(self) -> tuple[Sequence[str], Sequence[Colour]]:
        """The names of the data's classes in the order of their labels, and their colours. Raises MissingExtra."""
        from zoo.networks import openmmlab

        return openmmlab.ade20k() if self.data == "ade20k" else (composed.CLASSES, composed.COLOURS)

    def chance(self) -> dict[str, float]:
        """Of mIoU what one class everywhere reaches at most."""
        return {"mIoU": 100 / self.outputs}

    def build(self, data_root: Path | None, device: torch.device) -> SegmentationTask:
        """Data are found. Raises MissingExtra without mmsegmentation, MissingData or Corrupt for the data, ValueError
        for classes that do not exist or a `validation` that is too small or too large for the data.
        """
        from zoo.data.ade20k import load_scenes

        known, _ = self.known()
        root = composed.data_root() if self.data == "digits" else data_root
        return SegmentationTask(self, load_scenes(root, self.classes, known, self.crop), device)

    def structure(self) -> Structure:
        """Raises MissingExtra, and ValueError for classes that do not exist."""
        from zoo.data.ade20k import class_numbers
        from zoo.networks import openmmlab

        class_numbers(self.classes, self.known()[0])
        state = openmmlab.empty_network(self.size, self.crop, self.outputs).state_dict(keep_vars=True)
        return Structure.of({name: state[name] for name in self.chosen(state)})

    def chosen(self, names: Iterable[str]) -> list[str]:
        """All but the index buffers: integers that the size of a crop says, and which no training changes."""
        from zoo.networks.openmmlab import INDEX

        return [name for name in names if not name.endswith(f".{INDEX}")]

    def frozen(self) -> dict[str, Tensor]:
        """The constants of these networks: for every layer which relative position two patches have, int64."""
        from zoo.networks import openmmlab

        index = openmmlab.position_index(self.crop)
        layers = range(openmmlab.SIZES[self.size].layers)
        return {f"backbone.layers.{layer}.attn.{openmmlab.INDEX}": index for layer in layers}

    def weights_file(self) -> Path | None:
        """The file that networks start from; none where they start at random. Raises what `released` raises, and
        MissingData for a file that is not there.
        """
        if self.pretrained is True:
            return released("mmseg", self.size)
        if not self.pretrained:
            return None
        file = Path(self.pretrained)
        if not file.is_file():
            raise MissingData(
                f"no pretrained weights at {file}; get those of UperNet with MAE ViT-B (or of MAE alone) from "
                f"{RELEASE} and name the file: --set task.pretrained=FILE; true downloads them, false starts at random"
            )
        return file

    def started_from(self) -> dict[str, str]:
        file = self.weights_file()
        return {} if file is None else {file.name: hash_of(file)}

    def library_config(self) -> dict[str, Any]:
        """What mmsegmentation keeps in a checkpoint beside its `state_dict`: names and colours of the classes."""
        from zoo.data.ade20k import class_numbers

        names, palette = self.known()
        chosen = class_numbers(self.classes, names)
        meta = {"classes": [names[i] for i in chosen], "palette": [list(palette[i]) for i in chosen]}
        return {"meta": {"dataset_meta": meta}}


class SegmentationTask(TaskBase):
    """The Task protocol (zoo.tasks.base) for photographs with a class for every pixel."""

    evaluator = EVALUATOR
    main_metric = "mIoU"
    config: Config

    def __init__(self, config: Config, scenes: Scenes, device: torch.device) -> None:
        from zoo.networks import openmmlab

        super().__init__(config, device)
        self._mm = openmmlab
        self.scenes = scenes
        classes = f", {config.outputs} classes" if config.classes else ""
        self.protocol = (
            f"{config.data} validation, {len(scenes.test)} images{classes}, slide {config.crop} px by "
            f"{openmmlab.stride(config.crop)}, data {scenes.fingerprint()}"
        )
        self._prepare = openmmlab.Preprocessor(config.crop, device)
        self.steps_per_epoch(1)  # refuses a share for validation that leaves nothing to train on

    def _split(self) -> tuple[Tensor, Tensor]:
        count = len(self.scenes.train)
        return split_off(torch.arange(count), round(self.config.validation * count))

    def build(self, seed: int) -> nn.Module:
        return self._mm.network(self.config.size, self.config.crop, self.config.outputs, seed).to(self.device)

    def start(self, seed: int) -> nn.Module:
        """Raises what `Config.weights_file` raises, ValueError for weights of another network."""
        model = self.build(seed)
        if (file := self.config.weights_file()) is None:
            return model
        weights = plain(read(file).tensors)
        if any("decode_head." in name for name in weights):
            model.load_state_dict(fitted(weights, Structure.of(model.state_dict()), str(file)).tensors)
        else:
            try:
                self._mm.load_backbone(model, weights)
            except ValueError as error:
                raise ValueError(f"{file} holds no weights of this backbone: {error}") from error
        return model

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """The last layers of both segmentation heads."""
        heads: Any = (model.decode_head, model.auxiliary_head)
        return [parameter for head in heads for parameter in head.conv_seg.parameters()]

    def groups(self, model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
        """As mmsegmentation groups them: no weight decay for vectors."""
        scales = self._mm.layer_scales(model, layer_decay)
        grouped: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            grouped[scales[name], parameter.ndim == 1].append(parameter)
        return [
            {"params": parameters, "lr_scale": scale} | ({"weight_decay": 0.0} if vectors else {})
            for (scale, vectors), parameters in grouped.items()
        ]

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        """Images float32 (B, 3, crop, crop) and labels int64 (B, crop, crop)."""
        for samples in self.scenes.draw(self._plan(seed, first_step, batch_size), seed):
            images, labels = zip(*samples, strict=True)
            yield self._prepare(images, labels)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Raises ValueError for a batch of one image: BatchNorm over a map of one pixel needs more."""
        if len(batch[0]) < 2 and model.training:
            raise ValueError("a training batch has one image, BatchNorm needs two; choose another zoo.batch_size")
        return self._mm.loss(model, *batch)

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Images are read anew for every network: slide inference takes much longer."""
        model.eval()
        test = split == "test"
        index = torch.arange(len(self.scenes.test)) if test else self.validation_index
        found = self.scenes.plain("test" if test else "train", index)
        samples = (((image, tuple(labels.shape)), labels) for image, labels in found)
        return evaluate(lambda sample: self._mm.predict(model, *sample), samples, self.config.outputs)
