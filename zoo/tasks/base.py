"""What a network does: `TaskConfig`, the section `task:` of a recipe, and the protocol `Task`, which is all that
collecting and scoring need to know.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from evaluators.metrics import Evaluation
from zoo.conditions import ClassBits
from zoo.structure import Frozen, Structure

if TYPE_CHECKING:
    from zoo.symmetry.specification import Specification

Batch: TypeAlias = tuple[Tensor, Tensor]
Split: TypeAlias = Literal["validation", "test"]
MOST = 2**24  # of whatever a task counts; more is a mistake, or meant to exhaust whoever reads it
MOST_PIXELS = 2**14  # a side
Count: TypeAlias = Annotated[int, Field(gt=0, le=MOST)]
Pixels: TypeAlias = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
Scalar: TypeAlias = bool | int | float | str
Option: TypeAlias = Scalar | tuple[Scalar, ...]
"""What a network's constructor may be given: a value, or a list of them, as the depths of a Swin transformer."""
Library: TypeAlias = Literal["timm", "peft", "mmseg", "detectron2"]


class TaskConfig(Frozen):
    """Base of all `task:` sections. `name` is the task family, `library` whose networks it has, as `rpg-zoo export
    --format` names it, None for those of no library; `validation` is the share of the training samples, or their
    number, that is never trained on.
    All methods but `build` work without data.
    """

    library: ClassVar[Library | None] = None
    told: ClassVar[frozenset[str]] = frozenset({"validation"})
    """Settings that decide no score on test data, or that a network's tensors or `Task.protocol` tell. Where others are
    not those that networks were made with, the protocol of their scores names them (zoo.tasks.wrapped).
    """
    name: str
    validation: float

    @abstractmethod
    def build(self, data_root: Path | None, device: torch.device) -> Task:
        """The task with its data, on this device.

        Raises ValueError for settings that do not fit together or do not fit the data, MissingExtra without the
        library, MissingData or Corrupt for the data.
        """

    @abstractmethod
    def structure(self) -> Structure:
        """The structure of the networks, built without memory or downloads.

        Raises ValueError for settings that do not fit together, MissingExtra without the library.
        """

    def library_config(self) -> dict[str, Any]:
        """What `library` keeps beside the tensors of a checkpoint: timm's config.json, peft's adapter_config.json, the
        other entries of the pickles of mmseg and detectron2. Nothing without a library.
        """
        return {}

    def native(self) -> Library | None:
        """The library that loads these networks from its own format; None where they are of the user's own."""
        return self.library

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Which of a network's tensors, by name, are the weights: mostly all. The others are frozen."""
        return list(names)

    def frozen(self) -> dict[str, Tensor]:
        """The tensors that all networks share, on the CPU: mostly none.

        Raises MissingData when the pretrained weights they come from are not there.
        """
        return {}

    def started_from(self) -> dict[str, str]:
        """The pretrained weights that networks start from, by name, with what they hash to: for the record of a zoo.
        Mostly none. They are downloaded where that has to be.

        Raises MissingData when they cannot be had, ValueError or Corrupt for those of something else.
        """
        return {}

    def conditions(self) -> tuple[str, ...]:
        """The tasks that this one consists of, as `Task.conditions` says: mostly none."""
        return ()

    def condition_type(self) -> ClassBits | None:
        """What the conditions of these tasks are, and how a user may say them; None where there are none."""
        return None

    def chance(self) -> dict[str, float]:
        """What guessing scores, all answers being equally likely: by metric, in percent. Metrics of which nobody knows
        it are not named; networks that score no more do not work (zoo.health).
        """
        return {}

    def symmetries(self) -> Specification | None:
        """What may be permuted, scaled or turned in these networks without changing what they compute; None where that
        is not known. To be found by tracing, a network is built.
        """
        from zoo.symmetry.architectures import symmetry_of

        return symmetry_of(self)

    def check_source(self, path: Path) -> None:
        """Raise ValueError or Corrupt if what lies beside the checkpoint file at `path` says that it is not one of this
        task, although its tensors may fit. Most families know nothing of the kind.
        """


class Task(Protocol):
    """A model, its data, its loss and its evaluator.

    `evaluator` names the scoring code and its version, `protocol` the data and their preparation: scores are
    comparable only where both are equal. `main_metric` is the one that tables show. `conditions` are the tasks that
    this one consists of (zoo.conditions); mostly none. `chance` is `TaskConfig.chance`.
    """

    evaluator: str
    main_metric: str
    conditions: tuple[str, ...]

    @property
    def chance(self) -> Mapping[str, float]: ...

    @property
    def protocol(self) -> str:
        """Known once the test data are read."""
        ...

    def for_condition(self, condition: str) -> Task:
        """One of the `conditions` as a task: the same networks and data, which are shared, other labels.

        Raises ValueError for a condition that is none of these.
        """
        ...

    def build(self, seed: int) -> nn.Module:
        """A freshly initialised model on the task's device. Equal seeds give equal models."""
        ...

    def start(self, seed: int) -> nn.Module:
        """The model that training starts from: `build`, with pretrained weights where the recipe wants them.

        Raises MissingData when they are not there.
        """
        ...

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors that are "the weights", in state-dict order: detached copies on the CPU. Tied tensors stay
        one tensor under several names.
        """
        ...

    def frozen(self, model: nn.Module) -> dict[str, Tensor]:
        """The other tensors of the model, which training never changes; a zoo keeps them once. Mostly none."""
        ...

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """The inverse of `weights`, in place; frozen tensors may come along. Raises ValueError unless names, shapes
        and dtypes are the model's.
        """
        ...

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the last layer, for training them alone first (linear probing)."""
        ...

    def groups(self, model: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
        """The parameters that are trained, each once, as an optimiser's groups: `params`, and where they are not the
        recipe's `weight_decay` and `lr_scale`, a factor of the learning rate. `layer_decay` is that factor between a
        layer and the next.
        """
        ...

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches of at most `batch_size` samples make one pass over the training data."""
        ...

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        """Endless training batches from number `first_step` on. Batch k is a function of (seed, k) alone, so a
        resumed training sees what an uninterrupted one would have seen.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of a batch, a scalar."""
        ...

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Score the model, and leave it in evaluation mode. `validation` is for choices, `test` for reports."""
        ...


class LabelledTask(Task, Protocol):
    """A task with conditions, which are labels of the classes of one data set."""

    def for_labels(self, labels: Tensor) -> Task:
        """The task that gives class k the label `labels[k]`; also under vmap, for many such tasks."""
        ...

    def classes(self, split: Split) -> Tensor:
        """The class of each sample in the order of `evaluate`, int64 (N,) on the CPU."""
        ...
