"""A RUN: the directory of one generator.

    recipe.yaml            the resolved recipe
    layout.json            structure, token size, statistics: all that turns tokens into weights
    constants.safetensors  what is not generated (integer buffers), from the first training checkpoint
    values.safetensors     mean and deviation of every value, for `rpg.generator.statistics: value`
    frozen.safetensors     what completes a checkpoint to a network, for zoos that have such
    run.json               parents, command, versions, permutation states, hashes of the files so far; before training
    metrics.jsonl          loss and learning rate by step
    tokens.npy             the tokenised zoo, memory-mapped (training only)
    state.safetensors      model, optimiser, average and step, to resume from (training only)
    generator.safetensors  the trained generator
    logs/                  of trackers, if any were asked for; nothing needs them
    trained.json           hashes of run.json, metrics.jsonl and the generator; written last: it means trained

With layout, constants and generator, generating needs neither the zoo nor the task's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from rpg.config import GeneratorConfig, RPGConfig
from rpg.layout import Layout
from rpg.models.generator import Generator
from rpg.values import ValueStatistics
from zoo.checkpoint import load_tensors
from zoo.errors import Corrupt, MissingData
from zoo.files import read_limited, read_records, sha256_file, write_bytes
from zoo.manifest import MANIFEST_BYTES, FileName, FileRecord, Origin, Sha256
from zoo.recipe import Recipe, recipe_of
from zoo.seeds import global_seed
from zoo.structure import Frozen


class RunRecord(Frozen):
    """`run.json`. `states` are the training checkpoints in the order of their permutation states, `conditions` theirs
    in the same order where the generator was trained with them. `splits` are then all conditions of the zoo by split.
    """

    origin: Origin
    states: Annotated[tuple[Sha256, ...], Field(min_length=1)]
    conditions: tuple[str, ...] = ()
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    num_parameters: int
    files: dict[FileName, FileRecord]


class TrainedRecord(Frozen):
    """`trained.json`."""

    files: dict[FileName, FileRecord]


class Run:
    """Paths and parts of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout_path = path / "layout.json"
        self.record_path = path / "run.json"
        self.constants_path = path / "constants.safetensors"
        self.frozen_path = path / "frozen.safetensors"
        self.values_path = path / "values.safetensors"
        self.tokens_path = path / "tokens.npy"
        self.state_path = path / "state.safetensors"
        self.metrics_path = path / "metrics.jsonl"
        self.generator_path = path / "generator.safetensors"
        self.trained_path = path / "trained.json"

    @property
    def trained(self) -> bool:
        return self.trained_path.is_file()

    def require_trained(self) -> Run:
        """This run, its files checked. Raises MissingData unless it is trained, Corrupt when a file has changed."""
        if not self.trained:
            what = "is not finished" if self.record_path.is_file() else "holds no run"
            raise MissingData(f"{self.path} {what}: expected trained.json; train it with `rpg train RECIPE`")
        self.check(TrainedRecord.parse(read_limited(self.trained_path, MANIFEST_BYTES), self.trained_path).files)
        self.check({name: file for name, file in self.record().files.items() if name != self.tokens_path.name})
        return self

    def check(self, files: Mapping[str, FileRecord]) -> None:
        """Raise Corrupt unless these files are as they were recorded."""
        for name, file in files.items():
            if problem := file.problem(self.path / name):
                raise Corrupt(f"{problem}; remove {self.path} and train again")

    def seal(self) -> None:
        """Record what training made, which makes the run a trained one."""
        files = {path.name: FileRecord.of(path) for path in (self.record_path, self.metrics_path, self.generator_path)}
        self.write_json(self.trained_path, TrainedRecord(files=files))

    def record(self) -> RunRecord:
        return RunRecord.parse(read_limited(self.record_path, MANIFEST_BYTES), self.record_path)

    @property
    def sha256(self) -> str:
        """Of `generator.safetensors`: what generated zoos name as their parent."""
        return sha256_file(self.generator_path)

    def recipe(self) -> Recipe:
        origin = self.record().origin
        return recipe_of(origin)

    def layout(self) -> Layout:
        return Layout.parse(read_limited(self.layout_path, MANIFEST_BYTES), self.layout_path)

    def constants(self) -> dict[str, torch.Tensor]:
        return load_tensors(self.constants_path)

    def frozen(self) -> dict[str, torch.Tensor]:
        """The zoo's frozen tensors; mostly none."""
        return load_tensors(self.frozen_path) if self.frozen_path.name in self.record().files else {}

    def values(self, layout: Layout) -> ValueStatistics | None:
        """The statistics of every value, where tokens are standardised with them."""
        if self.values_path.name not in self.record().files:
            return None
        return ValueStatistics.from_tensors(load_tensors(self.values_path), layout)

    def generator(self, device: torch.device) -> Generator:
        """The trained generator in evaluation mode. Raises Corrupt when the file's tensors are not the recipe's."""
        config, tensors = self.recipe().section("rpg", RPGConfig), load_tensors(self.generator_path)
        with torch.device("meta"):  # before memory is taken for what a recipe from elsewhere claims
            claimed = Generator(config.generator, self.layout().positions(), len(self.record().states)).state_dict()
        if {n: t.shape for n, t in claimed.items()} != {n: t.shape for n, t in tensors.items()}:
            raise Corrupt(f"{self.generator_path} is not the generator of this run's recipe and layout")
        generator = build_generator(config.generator, self.layout(), len(self.record().states), config.train.seed)
        generator.load_state_dict(tensors)
        return generator.to(device).eval()

    def write_json(self, path: Path, content: Frozen) -> None:
        write_bytes(path, content.to_json(indent=1).encode())


def build_generator(config: GeneratorConfig, layout: Layout, num_states: int, seed: int) -> Generator:
    """A freshly initialised generator for this layout, the same for the same seed."""
    with global_seed(seed, "generator"):
        return Generator(config, layout.positions(), num_states)


def read_losses(run: Run) -> list[tuple[int, float]]:
    """(step, mean loss since the line before) from `metrics.jsonl`; nothing when there is none. Raises Corrupt when it
    holds something else.
    """
    if not run.metrics_path.is_file():
        return []
    records = read_records(run.metrics_path)
    if not all(type(record.get("step")) is int and type(record.get("loss")) in (int, float) for record in records):
        raise Corrupt(f"{run.metrics_path} has lines without step and loss")
    return [(record["step"], record["loss"]) for record in records]
