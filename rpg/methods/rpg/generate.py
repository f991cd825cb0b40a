"""Generate networks from a trained run (paper, sections 2.3 and B.3) into a Zoo like any other.

Legend: N networks, L tokens of a network, K of them in a window, D token size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rpg.conditions.bits import require_conditions
from rpg.devices import out_of_memory
from rpg.diffusion import Objective, Scheduler, sample
from rpg.methods.rpg.config import GenerateConfig
from rpg.methods.rpg.estimate import sampling_remedy
from rpg.methods.rpg.learnt import Learnt, RPGRecord
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.rpg.objective import objective, sampling_schedule
from rpg.methods.rpg.windows import GROUP_VALUES, chunk_size, windows
from rpg.run import Run
from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo import cuda
from zoo.conditions import bits
from zoo.errors import Failed
from zoo.progress import Bar, progress
from zoo.seeds import generator as seeded_generator
from zoo.training.malloc import keep_freed_memory
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """What all passes of a call share."""

    generator: Generator
    objective: Objective
    layout: Layout
    values: ValueStatistics | None
    scheduler: Scheduler | None
    seed: int
    chunk: int
    bar: Bar

    def windows(self) -> list[range]:
        """The tokens of a network, pass by pass; chunks end where they would without windows."""
        return windows(self.layout.num_tokens, self.layout.token_size, self.chunk)

    @torch.no_grad()
    def denoise(self, members: Sequence[Member], window: range, prototypes_NKD: Tensor) -> Tensor:
        """The tokens of a window, (N, K, D) on the CPU. Raises Failed when one is not finite."""
        mask_ND, prototypes_ND = self.layout.mask(window).repeat(len(members), 1), prototypes_NKD.flatten(0, 1)
        readouts_ND = None if self.generator.readout is None else self.generator.readout(prototypes_ND)
        if self.scheduler is None:
            assert readouts_ND is not None
            tokens_ND = readouts_ND * mask_ND.to(readouts_ND.device)
        else:
            tokens_ND = sample(
                self.generator.denoiser,
                self.scheduler,
                prototypes_ND,
                mask_ND,
                [seeded_generator(self.seed, "noise", *m.path, token) for m in members for token in window],
                self.chunk,
                self.bar.advance,
                self.objective,
                readouts_ND,
            )
        tokens_NKD = tokens_ND.view(prototypes_NKD.shape).cpu()
        for member, tokens_KD in zip(members, tokens_NKD, strict=True):
            if not bool(tokens_KD.isfinite().all()):
                raise Failed(f"network {member.id} has values that are not finite; train longer or use more steps")
        return tokens_NKD if self.values is None else self.values.restore(tokens_NKD, window)


@dataclass(frozen=True, eq=False)
class Member:
    """A network to generate: what its random numbers are named (zoo.seeds), what the generator is told, a permutation
    state int64 () or a condition float32 (bits,), and what the zoo records.
    """

    id: str
    path: tuple[str | int, ...]
    cond: Tensor
    seed: int
    parents: tuple[str, ...]
    condition: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        return {"seed": self.seed, "split": "generated", "parents": self.parents, "condition": self.condition}


def members(name: str, networks: Sequence[str], record: RPGRecord, config: GenerateConfig) -> list[Member]:
    """The networks to generate, in order, by a run of this name on training checkpoints with these hashes. The parents
    of a network are the checkpoints of its state, or those that were trained with its condition: none, where the task
    is one never seen.

    Raises ValueError for conditions without a run trained with them, and the other way round.
    """
    if config.conditions and not record.conditions:
        raise ValueError(
            f"the run of {name} was not trained with conditions, got {config.conditions[0]}; leave "
            f"generate.conditions out, or train one with method.generator.condition = binary"
        )
    if record.conditions:
        require_conditions(name, config.conditions, len(record.conditions[0]))
    if not config.conditions:
        parents_of: dict[int, list[str]] = {}
        for sha256, state in zip(networks, record.states_of(networks), strict=True):
            parents_of.setdefault(state, []).append(sha256)
        drawn = [_state(config.seed, k, len(parents_of)) for k in range(config.n)]
        return [Member(_id(k), (k,), torch.tensor(s), config.seed, tuple(parents_of[s])) for k, s in enumerate(drawn)]
    parents: dict[str, list[str]] = {condition: [] for condition in config.conditions}
    for sha256, condition in zip(networks, record.conditions, strict=True):
        if condition in parents:
            parents[condition].append(sha256)
    return [
        Member(f"generated-{c}-{k:04d}", (c, k), bits(c), config.seed, tuple(parents[c]), c)
        for c in parents
        for k in range(config.n)
    ]


def draw(run: Run, config: GenerateConfig, writer: ZooWriter, device: torch.device) -> None:
    """Generate `config.n` networks, or so many for every condition.

    Network k is a function of (seed, k): its permutation state is drawn uniformly from the training checkpoints' and
    recorded as its parent, and every token's noise comes from a generator of its own, on the CPU. With conditions it is
    a function of (seed, condition, k). So neither `mode` nor `n` nor the device nor the other conditions change its
    weights, beyond float rounding; on a GPU the price is a copy per step.

    Memory is bounded whatever the size of a network, but for its prototypes (4 bytes a value) and what the recurrent
    model takes to make them: given these, tokens are independent, so a large network is denoised window by window and
    its weights are written as they come.

    Raises ValueError for more steps than the schedule has; Failed when a network comes out with values that are not
    finite or the GPU runs out of memory.
    """
    learnt = Learnt(run)
    layout, constants, everything = learnt.layout(), run.constants(), requested(learnt, config)
    scheduler = sampling_schedule(learnt.config(), config)
    if scheduler is None and (same := len(everything) - len({tuple(m.cond.flatten().tolist()) for m in everything})):
        log.warning("reading out draws nothing: %d of these %d networks repeat another one", same, len(everything))
    size = max(1, GROUP_VALUES // max(layout.num_tokens * layout.token_size, 1))
    groups = [everything[start : start + size] for start in range(0, len(everything), size)]
    chunk = chunk_size(config.mode, layout.token_size, device)
    steps = (config.steps if scheduler else 0) * len(windows(layout.num_tokens, layout.token_size, chunk))
    with (
        progress(f"generating {writer.path} (denoising)", len(groups) * steps) as bar,
        out_of_memory(lambda: _advice(learnt, config, layout, device)),
    ):
        # A group is computed whole even when a part of it is already there: the same sums give the same bytes.
        todo = [group for group in groups if any(member.id not in writer.done for member in group)]
        bar.skip((len(groups) - len(todo)) * steps)
        if todo:
            if device.type == "cpu":
                keep_freed_memory()
            generator = learnt.generator(device)
            if writer.stopwatch:
                writer.stopwatch.note(**generator.kernels(torch.float32))
            generator.denoiser.fuse_conv_bn()
            sampling = Sampling(
                generator,
                objective(learnt.config()),
                layout,
                learnt.values(layout),
                scheduler,
                config.seed,
                chunk,
                bar,
            )
        for group in todo:
            with torch.no_grad():
                prototypes_NLD = generator.prototypes(torch.stack([member.cond for member in group]))
            if len(sampling.windows()) > 1:
                _add_in_windows(writer, sampling, group[0], prototypes_NLD, constants)
            else:
                _add(writer, sampling, group, prototypes_NLD, constants)


def requested(learnt: Learnt, config: GenerateConfig) -> list[Member]:
    """The networks that a run is to generate. Raises ValueError as `members` does."""
    record = learnt.run.record()
    return members(record.origin.name, record.networks, learnt.record(), config)


def _add(
    writer: ZooWriter,
    sampling: Sampling,
    group: Sequence[Member],
    prototypes_NLD: Tensor,
    constants: dict[str, Tensor],
) -> None:
    """Many networks in one pass."""
    tokens_NLD = sampling.denoise(group, range(sampling.layout.num_tokens), prototypes_NLD)
    for member, tokens_LD in zip(group, tokens_NLD, strict=True):
        writer.add(member.id, sampling.layout.decode(tokens_LD, constants), **member.record)


def _add_in_windows(
    writer: ZooWriter, sampling: Sampling, member: Member, prototypes_1LD: Tensor, constants: dict[str, Tensor]
) -> None:
    """One network in many passes."""
    layout = sampling.layout
    with writer.adding(member.id, **member.record) as file:
        for spec in layout.structure:
            if spec.kind == "constant" and spec.tied_to is None:
                file.put(spec.name, 0, constants[spec.name].reshape(-1))
        for window in sampling.windows():
            prototypes_1KD = prototypes_1LD[:, window.start : window.stop]
            (tokens_KD,) = sampling.denoise([member], window, prototypes_1KD)
            for name, start, values in layout.decode_window(tokens_KD, window.start):
                file.put(name, start, values)


def _advice(learnt: Learnt, config: GenerateConfig, layout: Layout, device: torch.device) -> str:
    return sampling_remedy(learnt.config(), config, layout.num_tokens, learnt.num_states, cuda.total_memory(device))


def _id(k: int) -> str:
    return f"generated-{k:04d}"


def _state(seed: int, k: int, count: int) -> int:
    return int(torch.randint(count, (), generator=seeded_generator(seed, "state", k)))
