"""What RPG keeps in a run beside what every method does.

layout.json            structure, token size, statistics: all that turns tokens into weights
values.safetensors     mean and deviation of every value, for `method.generator.statistics: value`
rpg.json               conditions, parameters, hashes of the files so far; before training
tokens.npy             the tokenised zoo, memory-mapped (training only)
state.safetensors      model, optimiser, average and step, to resume from (training only)
generator.safetensors  the trained generator
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rpg.methods.rpg.config import GeneratorConfig, RPGConfig
from rpg.methods.rpg.models.generator import Generator
from rpg.run import Run
from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo.checkpoint import load_tensors
from zoo.conditions import BITS
from zoo.errors import Corrupt
from zoo.files import read_limited
from zoo.manifest import MANIFEST_BYTES, FileName, FileRecord
from zoo.seeds import global_seed
from zoo.structure import Frozen


class RPGRecord(Frozen):
    """`rpg.json`. `conditions` are those of the training checkpoints in their order, where the generator was trained
    with them; `states` their permutation states, where they do not all have their own.
    """

    conditions: tuple[str, ...] = ()
    states: tuple[int, ...] = ()
    num_parameters: int
    files: dict[FileName, FileRecord]

    def states_of(self, networks: Sequence[str]) -> tuple[int, ...]:
        """The permutation state of each of the training checkpoints."""
        return self.states or tuple(range(len(networks)))


class Learnt:
    """RPG's own files of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.layout_path = run.path / "layout.json"
        self.values_path = run.path / "values.safetensors"
        self.record_path = run.path / "rpg.json"
        self.tokens_path = run.path / "tokens.npy"
        self.state_path = run.path / "state.safetensors"
        self.generator_path = run.path / "generator.safetensors"

    def record(self) -> RPGRecord:
        return RPGRecord.parse(read_limited(self.record_path, MANIFEST_BYTES), self.record_path)

    def config(self) -> RPGConfig:
        config = self.run.config()
        assert isinstance(config, RPGConfig)
        return config

    def states(self) -> tuple[int, ...]:
        """The permutation state of each training checkpoint."""
        return self.record().states_of(self.run.record().networks)

    @property
    def num_states(self) -> int:
        return len(set(self.states()))

    @property
    def num_bits(self) -> int:
        """Of a condition."""
        return bits_of(self.record().conditions)

    def layout(self) -> Layout:
        return Layout.parse(read_limited(self.layout_path, MANIFEST_BYTES), self.layout_path)

    def values(self, layout: Layout) -> ValueStatistics | None:
        """The statistics of every value, where tokens are standardised with them."""
        if self.config().generator.statistics == "tensor":
            return None
        return ValueStatistics.from_tensors(load_tensors(self.values_path), layout)

    def generator(self, device: torch.device) -> Generator:
        """The trained generator in evaluation mode. Raises Corrupt when the file's tensors are not the settings'."""
        config, layout, tensors = self.config(), self.layout(), load_tensors(self.generator_path)
        num_states, bits = self.num_states, self.num_bits
        with torch.device("meta"):  # before memory is taken for what settings from elsewhere claim
            claimed = Generator(config.generator, layout.positions(), num_states, config.has_readout, bits).state_dict()
        if {n: t.shape for n, t in claimed.items()} != {n: t.shape for n, t in tensors.items()}:
            raise Corrupt(f"{self.generator_path} is not the generator of this run's settings and layout")
        generator = build_generator(config.generator, layout, num_states, config.train.seed, config.has_readout, bits)
        generator.load_state_dict(tensors)
        return generator.to(device).eval()


def build_generator(
    config: GeneratorConfig, layout: Layout, num_states: int, seed: int, readout: bool = False, bits: int = BITS
) -> Generator:
    """A freshly initialised generator for this layout, the same for the same seed."""
    with global_seed(seed, "generator"):
        return Generator(config, layout.positions(), num_states, readout, bits)


def bits_of(conditions: Sequence[str]) -> int:
    """How many bits each of the training checkpoints' conditions has."""
    return len(conditions[0]) if conditions else BITS
