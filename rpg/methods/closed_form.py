"""What the methods in closed form share. A run keeps the training networks, and of PCA the Gram matrix, which is all
that has to see every weight; drawing combines networks (zoo.derive.mixtures). Both take memory for a few values of
each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rpg.devices import GB
from rpg.methods.base import About, DrawConfig, Estimate, Machine, TrainingSet
from rpg.processes import world_size
from zoo.checkpoint import load_tensors, save_tensors
from zoo.columns import COLUMN_VALUES
from zoo.derive.mixtures import Drafts, dimensions, gram_of, numbered, write
from zoo.errors import Corrupt
from zoo.manifest import Entry
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

if TYPE_CHECKING:
    from rpg.devices import Device
    from rpg.run import Run

GRAM = "gram.safetensors"
PASS_BYTES = 64 * COLUMN_VALUES  # columns as they are stored and in float64, what is computed from them, buffers


class ClosedForm(ABC):
    """A Method (rpg.methods.base) that draws without having trained anything."""

    about: ClassVar[About]

    @property
    def uses_gram(self) -> bool:
        """Whether drawing needs the Gram matrix."""
        return False

    @abstractmethod
    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        """Raise ValueError, with the remedy, when these settings do not fit these networks."""

    @abstractmethod
    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        """What to draw."""

    def check(self, data: TrainingSet, machine: Machine) -> None:
        if world_size() > 1:
            raise ValueError("there is nothing to train in several processes; run it without `accelerate launch`")
        if machine.trackers:
            raise ValueError(f"there is no training for {machine.trackers[0]} to follow; leave --track out")
        self.refuse(data.zoo, data.entries)

    def fit(self, data: TrainingSet, run: Run, machine: Machine) -> None:
        if run.trained:
            return
        learnt = [run.keep_networks(data)]
        if self.uses_gram:
            path = run.path / GRAM
            if not path.is_file():
                save_tensors(path, {"gram": gram_of(data.zoo, data.entries)})
            learnt.append(path)
        run.seal(learnt, {"networks": len(data.entries)})

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        return request.n

    def draw(self, run: Run, request: DrawConfig, writer: ZooWriter, machine: Machine) -> None:
        zoo, entries = run.networks()
        ids = numbered("generated", request.n)
        drafts = self.drafts(zoo, entries, run, request)
        write(writer, zoo, entries, ids, drafts, seed=request.seed, split="generated")

    def estimate(self, structure: Structure, checkpoints: int, request: DrawConfig, device: Device) -> Estimate:
        """`parameters` are the values of the networks that are kept."""
        values = dimensions(structure)
        gram = 2 * 8 * checkpoints**2 if self.uses_gram else 0  # and its eigenvectors
        found = Estimate(
            parameters=checkpoints * values,
            fit_bytes=(PASS_BYTES if self.uses_gram else 0) + gram,
            fit_flops=2 * checkpoints**2 * values if self.uses_gram else 0,
            draw_bytes=PASS_BYTES + gram,
            draw_flops=2 * checkpoints * values,
        )
        text = (
            f"{checkpoints} networks of {values:,} values are kept; nothing is trained, "
            f"drawing takes {found.draw_bytes / GB:.2f} GB whatever their size"
        )
        return Estimate(**{**vars(found), "figures": dict(vars(found)), "text": text})


def load_gram(run: Run, networks: int) -> Tensor:
    """The Gram matrix of a run, float64 (networks, networks). Raises Corrupt for anything else."""
    path: Path = run.path / GRAM
    gram = (load_tensors(path) if path.is_file() else {}).get("gram")
    if gram is None or gram.dtype != torch.float64 or gram.shape != (networks, networks) or not gram.isfinite().all():
        raise Corrupt(f"{path} is not the Gram matrix of {networks} networks; remove {run.path} and train again")
    return gram


def check_rank(rank: int | None, zoo: Zoo, networks: int) -> int:
    """The rank to use: N - 1 where none is asked for. Raises ValueError for more than N networks span."""
    if networks < 2:
        raise ValueError(f"{zoo.path} has {networks} network to learn from, which spans nothing; expected 2 or more")
    if rank is not None and rank >= networks:
        raise ValueError(
            f"method.rank = {rank}, but {networks} networks have {networks - 1} components; "
            f"use --set method.rank={networks - 1} or fewer"
        )
    return rank or networks - 1
