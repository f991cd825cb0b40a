"""One network that tells all classes of a data set apart solves every binary task on them: it answers 1 where the
probabilities of the classes labelled 1 sum to more than those of the others. No generator is needed, nor a network per
task; so what this scores stands beside what generators do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpg.reports.answers import Answers, Classes, labels_of
from zoo.checkpoint import content_hash
from zoo.errors import Corrupt, MissingData, brief
from zoo.files import parse_json, read_limited
from zoo.hub.client import is_address
from zoo.recipe import task_of, validate
from zoo.store import Zoo, find
from zoo.tasks.base import TaskConfig
from zoo.tasks.classification import ClassificationTask, Config, ImagesConfig

CONFIG_BYTES = 2**20
OF_THE_TASK = ("num_classes", "in_chans", "img_size")  # arguments of a network that its task knows
ORDER = "a zoo of networks for all classes of the data set, or what `rpg-zoo export ZOO ID --format timm` writes"


@dataclass(frozen=True, eq=False)
class AllClasses:
    """Networks for all classes. `probabilities` float32 (networks, N, classes) of the test samples, whose classes are
    `classes` int64 (N,); `sha256` is the content's of each.
    """

    probabilities: NDArray[np.float32]
    classes: Classes
    sha256: tuple[str, ...]

    def answers(self, condition: str) -> list[Answers]:
        """What each network answers to the samples of this task, (N,)."""
        ones = labels_of(condition)
        return [found[:, ones].sum(1) > found[:, ~ones].sum(1) for found in self.probabilities]


def classifier_of(
    config: TaskConfig, data_root: Path | None, device: torch.device, place: Path | str | None = None
) -> AllClasses | str:
    """Networks for all classes that go with the binary tasks of this section: those at a place that the user names, a
    zoo or a directory of timm's format, or what the tasks' networks started from, where `task.pretrained` is such a
    directory; else why there are none, in words. Raises ValueError when the place holds something else, MissingData
    when nothing is there.
    """
    if not isinstance(config, ImagesConfig):
        raise ValueError(f"binary tasks on images alone have networks for all classes; leave --classifier {place} out")
    if place is not None:
        return _named(place, config, data_root, device)
    if not isinstance(config.pretrained, str):
        return "the networks did not start from one that is known to tell all classes apart; name one with --classifier"
    try:
        return of_directory(Path(config.pretrained), config, data_root, device)
    except (ValueError, MissingData, Corrupt) as error:
        return f"{brief(error)}; name one with --classifier"


def require_classifier(place: Path | str) -> None:
    """Raise MissingData where there is neither a zoo nor a directory of timm's format. Nothing is read."""
    if not (is_address(place) or _is_zoo(place) or _is_exported(place)):
        raise MissingData(f"--classifier {place} is not there; expected {ORDER}")


def _is_zoo(place: Path | str) -> bool:
    return (find(place, "zoos") / "manifest.json").is_file()


def _is_exported(place: Path | str) -> bool:
    return (Path(place) / "config.json").is_file()


def _named(place: Path | str, config: ImagesConfig, data_root: Path | None, device: torch.device) -> AllClasses:
    if _is_exported(place) and not _is_zoo(place):
        return of_directory(Path(place), config, data_root, device)
    zoo = Zoo.open(place)
    theirs = task_of(zoo.manifest.origin)
    if not isinstance(theirs, Config) or theirs.source != config.source:
        raise ValueError(
            f"--classifier {place} holds networks for {zoo.manifest.origin.name}; expected {ORDER}, for {config.source}"
        )
    task, frozen, found = theirs.build(data_root, device), zoo.frozen(), []
    model = task.build(0)
    for entry in zoo.trained:
        task.load(model, {**zoo.load(entry), **frozen})
        found.append(probabilities(task, model))
    return AllClasses(np.stack(found), _classes(task), tuple(entry.sha256 for entry in zoo.trained))


def of_directory(place: Path, config: ImagesConfig, data_root: Path | None, device: torch.device) -> AllClasses:
    """The network of a directory in timm's format. Raises ValueError when it is not for the classes of this section's
    data set, MissingData when it is not there, Corrupt when it is damaged.
    """
    path = place / "config.json"
    if not path.is_file():
        raise MissingData(f"no {path}; expected {ORDER}")
    about = parse_json(read_limited(path, CONFIG_BYTES), path)
    name, classes = (about.get("architecture"), about.get("num_classes")) if isinstance(about, Mapping) else (None, 0)
    if not isinstance(name, str) or classes != config.format.classes:
        raise ValueError(
            f"{path} is of {name} for {classes} classes; expected a network for the {config.format.classes} of "
            f"{config.source}"
        )
    section: dict[str, Any] = {"name": "classification", "model": name, "pretrained": str(place)}
    section |= {key: getattr(config, key) for key in ("data", "dataset", "image_size")}
    arguments = about.get("model_args")
    if isinstance(arguments, Mapping):
        section["options"] = {key: value for key, value in arguments.items() if key not in OF_THE_TASK}
    mine = validate(Config, section, f"{path} task")
    task = mine.build(data_root, device)
    model = mine.network(0, pretrained=True).to(device)
    return AllClasses(probabilities(task, model)[None], _classes(task), (content_hash(task.weights(model)),))


@torch.no_grad()
def probabilities(task: ClassificationTask, model: nn.Module) -> NDArray[np.float32]:
    """Of the classes, for each test sample: float32 (N, classes)."""
    model.eval()
    found: list[Tensor] = [model(images).float().softmax(1).cpu() for images in task.test_images()]
    return torch.cat(found).numpy()


def _classes(task: ClassificationTask) -> Classes:
    return task.images.test_labels.numpy()
