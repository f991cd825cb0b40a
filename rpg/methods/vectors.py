"""What methods share that learn networks as vectors: all values of a network, one tensor after the other, standardised.

Files in the run, beside those that every run has:

    layout.json            structure and statistics: all that turns vectors into weights
    vectors.npy            the zoo's vectors, memory-mapped (training only, unless drawing needs them)
    NAME.safetensors       each trained module (rpg.methods.training.Trainer)

Legend: N networks, D values of a vector, padded to a multiple of PAD.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from evaluators.metrics import Metric
from rpg.methods.base import About, Asked, DrawConfig, Machine, TrainingSet
from rpg.methods.measured import StageCost, check_memory
from rpg.methods.training import Module, Trainer, built
from rpg.processes import require_trackers, world_size
from rpg.tokens.files import open_tokens, write_tokens
from rpg.tokens.layout import Layout
from rpg.tokens.tokenisation import Rule
from zoo.derive.mixtures import dimensions, numbered
from zoo.errors import Failed
from zoo.files import read_limited
from zoo.manifest import MANIFEST_BYTES, Entry
from zoo.progress import Bar, progress
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

if TYPE_CHECKING:
    from rpg.run import Run

GROUP_VALUES = 2**24  # of the networks that are made together
PAD = 64  # vectors are a multiple of this long: convolutions halve them up to six times
Statistics: TypeAlias = Literal["tensor", "none"]
"""What values are standardised with: mean and deviation of their tensor over all networks, or nothing."""


class Vectors:
    """The vectors of one run. `data_root` is where the task's data are, for methods that look at them (None: RPG_DATA,
    or the Hub).
    """

    def __init__(self, run: Run, data_root: Path | None = None) -> None:
        self.run, self.data_root = run, data_root
        self.layout_path = run.path / "layout.json"
        self.vectors_path = run.path / "vectors.npy"

    def prepare(
        self, data: TrainingSet, statistics: Statistics, token_size: int = PAD, tokenisation: Rule = "flatten"
    ) -> None:
        """Measure the statistics and write the vectors, but for what is already there; for methods that see tokens, a
        vector is all of these. Raises ValueError, naming the tensor, for values that are not finite.
        """
        zoo, entries = data.zoo, data.entries
        if not self.layout_path.is_file():
            layout = Layout.fit(zoo.structure, lambda: zoo.checkpoints(entries), token_size, tokenisation)
            if statistics == "none":
                plain = {"mean": 0.0, "std": 1.0}
                tensors = tuple(tensor.model_copy(update=plain) for tensor in layout.tensors)
                layout = layout.model_copy(update={"tensors": tensors})
            self.run.write_json(self.layout_path, layout)
        if not self.vectors_path.is_file():
            write_tokens(self.vectors_path, self.layout, zoo.checkpoints(entries), len(entries))

    @cached_property
    def layout(self) -> Layout:
        return Layout.parse(read_limited(self.layout_path, MANIFEST_BYTES), self.layout_path)

    @property
    def size(self) -> int:
        """D."""
        return self.layout.num_tokens * self.layout.token_size

    @property
    def values(self) -> int:
        """How many of the D are a network's; the rest is padding, zero, at the end unless these are tokens."""
        return sum(tensor.numel for tensor in self.layout.tensors)

    def open(self) -> np.ndarray:
        """The training networks' vectors, float32 (N, D), memory-mapped."""
        count = len(self.run.record().networks)
        return open_tokens(self.vectors_path, self.layout, count).reshape(count, -1)

    def of(self, weights: dict[str, Tensor]) -> Tensor:
        """The vector float32 (D,) of any network of this structure."""
        return self.layout.encode(weights).view(-1)

    def weights(self, vector: Tensor, constants: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse: the network of a vector (D,)."""
        return self.layout.decode(vector.view(-1, self.layout.token_size), constants)


@dataclass(frozen=True)
class Drawn:
    """Networks that a method has made: vectors (n, D), the hashes of the training networks each was made from, and
    where it was chosen by validation data, what it scores there.
    """

    vectors: Tensor
    parents: Sequence[tuple[str, ...]]
    metrics: Sequence[tuple[Metric, ...]] | None = None


class VectorMethod(ABC):
    """A Method (rpg.methods.base) that trains modules on vectors and makes vectors with them."""

    about: ClassVar[About]
    statistics: Statistics = "tensor"
    token_size: int = PAD
    tokenisation: Rule = "flatten"
    group: ClassVar[int] = 16
    """How many networks are made together, unless they are large."""
    about_memory: ClassVar[str]
    """What to set so that training takes less memory."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, torch.device], nn.Module] = {}

    @abstractmethod
    def refuse(self, data: TrainingSet) -> None:
        """Raise ValueError, with the remedy, when these settings do not fit these networks."""

    @abstractmethod
    def learn(self, vectors: Vectors, data: TrainingSet, trainer: Trainer) -> dict[str, JsonValue]:
        """Train, and keep what else drawing needs as files of the run (`trainer.keep`; `trainer.files` for what a
        continued call makes anew; the vectors, too, if they are to stay). Returns what is worth knowing of the result,
        for people.
        """

    @abstractmethod
    def make(self, vectors: Vectors, request: DrawConfig, numbers: Sequence[int], device: torch.device) -> Drawn:
        """The networks of these numbers, each a function of (request.seed, its number)."""

    @abstractmethod
    def stages(self, structure: Structure, checkpoints: int) -> list[StageCost]:
        """What training each of the modules costs, with so many networks to learn from."""

    def check(self, data: TrainingSet, machine: Machine) -> None:
        if world_size() > 1:
            raise ValueError("this method trains in one process; run it without `accelerate launch`")
        require_trackers(machine.trackers)
        self.refuse(data)
        structure = data.zoo.structure
        stages = self.stages(structure, len(data.entries))
        check_memory(stages, machine.device, dimensions(structure), self.about_memory)

    def fit(self, data: TrainingSet, run: Run, machine: Machine) -> None:
        vectors = Vectors(run)
        if not run.trained:
            vectors.prepare(data, self.statistics, self.token_size, self.tokenisation)
            run.finish([vectors.layout_path, vectors.vectors_path])
            with Trainer(run, machine) as trainer:
                facts = self.learn(vectors, data, trainer)
                curve = [run.metrics_path] if run.metrics_path.is_file() else []
                run.seal([vectors.layout_path, *trainer.files, *curve], {"checkpoints": len(data.entries), **facts})
        kept = vectors.vectors_path.name in run.files
        for leftover in (run.spent_path, run.finished_path, *([] if kept else [vectors.vectors_path])):
            leftover.unlink(missing_ok=True)

    def group_of(self, values: int) -> int:
        """How many networks of so many values are made together."""
        return max(1, min(self.group, GROUP_VALUES // values))

    def trained(self, vectors: Vectors, name: str, build: Callable[[], Module], device: torch.device) -> Module:
        """A trained module of a run in evaluation mode, read once. Raises Corrupt when it is not the settings'."""
        path = module_path(vectors.run, name)
        if (path, device) not in self._loaded:
            self._loaded[path, device] = built(build, path).to(device).eval()
        return self._loaded[path, device]  # type: ignore[return-value]  # of one name there is one kind of module

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        return request.n

    def draw(self, run: Run, request: DrawConfig, writer: ZooWriter, machine: Machine) -> None:
        vectors, asked = Vectors(run, machine.data_root), request.asked()
        with progress(f"generating {writer.path}", sum(one.request.n for one in asked)) as bar:
            for one in asked:
                self._draw_alike(one, vectors, writer, machine.device, bar)

    def _draw_alike(self, asked: Asked, vectors: Vectors, writer: ZooWriter, device: torch.device, bar: Bar) -> None:
        request, constants, group = asked.request, vectors.run.constants(), self.group_of(vectors.values)
        ids = numbered(asked.id, request.n)
        about: dict[str, Any] = {"seed": request.seed, "split": "generated", "condition": asked.condition}
        for start in range(0, request.n, group):
            numbers = range(start, min(start + group, request.n))
            if all(ids[k] in writer.done for k in numbers):
                bar.skip(len(numbers))
                continue
            # A group is made whole even when a part of it is already there: the same sums give the same bytes.
            drawn = self.make(vectors, request, numbers, device)
            scores = drawn.metrics or [()] * len(numbers)
            for k, vector, parents, metrics in zip(
                numbers, drawn.vectors.float().cpu(), drawn.parents, scores, strict=True
            ):
                if not bool(vector.isfinite().all()):
                    raise Failed(
                        f"network {ids[k]} has values that are not finite; train longer, or draw with other settings"
                    )
                writer.add(ids[k], vectors.weights(vector, constants), parents=parents, metrics=metrics, **about)
            bar.advance(len(numbers))


class Codec(ABC):
    """A method that encodes networks and decodes them again; what that alone costs is the ceiling of what it makes."""

    @property
    def encodes(self) -> bool:
        """Whether it does, by its settings."""
        return True

    @abstractmethod
    def reconstruct(self, vectors: Vectors, given: Tensor, device: torch.device) -> Tensor:
        """Vectors (n, D) of networks, training ones or others -> what is left of them, (n, D)."""


def reconstructed(
    method: Codec, run: Run, zoo: Zoo, entries: Sequence[Entry], device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """These networks, one by one, encoded and decoded by what a run has learnt."""
    vectors, constants = Vectors(run), run.constants()
    for weights in zoo.checkpoints(entries):
        vector = method.reconstruct(vectors, vectors.of(weights)[None], device)[0]
        yield vectors.weights(vector.float().cpu(), constants)


def module_path(run: Run, name: str) -> Path:
    """Where `Trainer` keeps a trained module."""
    return run.path / f"{name}.safetensors"
