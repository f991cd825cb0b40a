"""Generate networks from a trained run (paper, sections 2.3 and B.3) into a Zoo like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg.config import GenerateConfig, RPGConfig
from rpg.layout import Layout
from rpg.models.diffusion import Scheduler, make_scheduler, sample
from rpg.models.generator import Generator
from rpg.run import Run
from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.progress import Bar, progress
from zoo.seeds import generator as seeded_generator
from zoo.store import Zoo, ZooWriter

CHUNK = {"sequential": 1, "partial": 256}  # tokens denoised together (section B.3); `full` takes all
GROUP_VALUES = 2**24  # values of noise held at once: how many networks are denoised in one pass


def generate(run: Run, config: GenerateConfig, origin: Origin, path: Path, device: torch.device) -> Zoo:
    """Generate `config.n` networks into a zoo at `path`; an interrupted call is continued by the same call.

    Network k is a function of (seed, k): its permutation state is drawn uniformly from the training checkpoints' and
    recorded as its parent, and every token's noise comes from a generator of its own. So neither `mode` nor `n` changes
    its weights, beyond float rounding. Raises ValueError for more steps than the schedule has, Failed when a network
    comes out with values that are not finite.
    """
    layout, record, constants = run.layout(), run.record(), run.constants()
    scheduler = make_scheduler(run.recipe().section("rpg", RPGConfig).diffusion, config.sampler, config.steps)
    size = max(1, GROUP_VALUES // max(layout.num_tokens * layout.token_size, 1))
    groups = [range(start, min(start + size, config.n)) for start in range(0, config.n, size)]
    with (
        ZooWriter(path, origin, layout.structure, run.frozen()) as writer,
        progress("generate", len(groups) * config.steps) as bar,
    ):
        # A group is computed whole even when a part of it is already there: the same sums give the same bytes.
        todo = [members for members in groups if any(_id(k) not in writer.done for k in members)]
        bar.advance((len(groups) - len(todo)) * config.steps)
        generator = run.generator(device) if todo else None
        for members in todo:
            assert generator is not None
            states = [_state(config.seed, k, len(record.states)) for k in members]
            tokens_NLD = _sample(generator, layout, config, scheduler, members, states, bar)
            for k, state, tokens_LD in zip(members, states, tokens_NLD, strict=True):
                if not bool(tokens_LD.isfinite().all()):
                    raise Failed(
                        f"generated network {k} has values that are not finite; train longer or use more steps"
                    )
                weights = layout.decode(tokens_LD, constants)
                writer.add(_id(k), weights, seed=config.seed, split="generated", parents=[record.states[state]])
        return writer.finish()


def _id(k: int) -> str:
    return f"generated-{k:04d}"


def _state(seed: int, k: int, count: int) -> int:
    return int(torch.randint(count, (), generator=seeded_generator(seed, "state", k)))


@torch.no_grad()
def _sample(
    generator: Generator,
    layout: Layout,
    config: GenerateConfig,
    scheduler: Scheduler,
    members: Sequence[int],
    states: Sequence[int],
    bar: Bar,
) -> Tensor:
    """Tokens (networks, L, D) on the CPU."""
    prototypes_KD = generator.prototypes(torch.tensor(states)).flatten(0, 1)
    mask_KD = layout.mask().repeat(len(members), 1)
    streams = [seeded_generator(config.seed, "noise", k, token) for k in members for token in range(layout.num_tokens)]
    chunk = CHUNK.get(config.mode, len(streams))
    tokens_KD = sample(generator.denoiser, scheduler, prototypes_KD, mask_KD, streams, chunk, bar.advance)
    return tokens_KD.view(len(members), layout.num_tokens, layout.token_size).cpu()
