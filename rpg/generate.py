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
from zoo.manifest import Origin
from zoo.progress import progress
from zoo.seeds import generator as seeded_generator
from zoo.store import Zoo, ZooWriter

CHUNK = {"sequential": 1, "partial": 256}  # tokens denoised together (section B.3); `full` takes all
GROUP_VALUES = 2**24  # values of noise held at once: how many networks are denoised in one pass


def generate(run: Run, config: GenerateConfig, origin: Origin, path: Path, device: torch.device) -> Zoo:
    """Generate `config.n` networks into a zoo at `path`; an interrupted call is continued by the same call.

    Network k is a function of (seed, k): its permutation state is drawn uniformly from the training checkpoints' and
    recorded as its parent, and every token's noise comes from a generator of its own, so neither `mode` nor `n`
    changes the weights.
    """
    layout, record, constants = run.layout(), run.record(), run.constants()
    diffusion = run.recipe().section("rpg", RPGConfig).diffusion
    make_scheduler(diffusion, config.sampler, config.steps)  # refuses bad steps before any work
    with ZooWriter(path, origin, layout.structure) as writer:
        generator = None
        group = max(1, GROUP_VALUES // (layout.num_tokens * layout.token_size))
        with progress("generate", config.n) as bar:
            for start in range(0, config.n, group):
                members = range(start, min(start + group, config.n))
                if any(_id(k) not in writer.done for k in members) and not writer.complete:
                    generator = generator or run.generator(device)
                    states = [_state(config.seed, k, len(record.states)) for k in members]
                    scheduler = make_scheduler(diffusion, config.sampler, config.steps)
                    tokens = _sample(generator, layout, config, scheduler, members, states)
                    for k, state, tokens_LD in zip(members, states, tokens, strict=True):
                        weights = layout.decode(tokens_LD, constants)
                        writer.add(_id(k), weights, seed=config.seed, split="generated", parents=[record.states[state]])
                bar.advance(len(members))
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
) -> Tensor:
    """Tokens (networks, L, D) on the CPU."""
    prototypes_KD = generator.prototypes(torch.tensor(states)).flatten(0, 1)
    streams = [seeded_generator(config.seed, "noise", k, token) for k in members for token in range(layout.num_tokens)]
    chunk = CHUNK.get(config.mode, len(streams))
    mask_KD = layout.mask().repeat(len(members), 1)
    tokens_KD = sample(generator.denoiser, scheduler, prototypes_KD, mask_KD, streams, chunk)
    return tokens_KD.view(len(members), layout.num_tokens, layout.token_size).cpu()
