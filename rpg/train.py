"""Train the recurrent diffusion on a Zoo (paper, section 2.3 and Table 11). Resumable at any step, to the same bytes
on the same hardware.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rpg.config import RPGConfig, TrainConfig
from rpg.layout import Layout
from rpg.models.diffusion import Scheduler, diffusion_loss, make_scheduler
from rpg.models.generator import Generator
from rpg.run import Run, RunRecord, build_generator
from rpg.tokens import gather, open_tokens, write_tokens
from zoo.checkpoint import save_tensors
from zoo.errors import Corrupt, Failed
from zoo.files import Journal, write_bytes
from zoo.manifest import Entry, FileRecord, Origin
from zoo.progress import progress
from zoo.seeds import generator as seeded_generator
from zoo.state import load_state, save_state
from zoo.store import Zoo

LOG_EVERY = 10  # steps between lines of metrics.jsonl
PREPARED = ("tokens.npy", "constants.safetensors", "layout.json", "recipe.yaml")  # what a run holds before run.json


def train(
    config: RPGConfig, zoo: Zoo, entries: Sequence[Entry], origin: Origin, path: Path, device: torch.device
) -> Run:
    """Train a generator on these checkpoints into `path`, or continue an interrupted training.

    Raises ValueError when `path` holds another run, Failed when the loss is not finite or the disk is full (the last
    state is kept).
    """
    run = Run(path)
    layout = prepare(run, config, zoo, entries, origin)
    if not run.trained:
        _optimise(run, config, layout, len(entries), device)
    for leftover in (run.tokens_path, run.state_path):
        leftover.unlink(missing_ok=True)
    return run


def prepare(run: Run, config: RPGConfig, zoo: Zoo, entries: Sequence[Entry], origin: Origin) -> Layout:
    """Everything but the optimisation: layout, constants, tokenised zoo, record. What is already there is kept."""
    if run.record_path.is_file():
        _check_same(run, origin)
        if not run.trained:
            run.check(run.record().files)
        return run.layout()
    frozen = zoo.frozen()
    prepared = (*PREPARED, *([run.frozen_path.name] if frozen else []))
    foreign = {path.name for path in run.path.glob("[!.]*")} - set(prepared)
    if foreign:
        raise ValueError(f"{run.path} exists and is not a run; choose another place with --out")
    settings = config.generator
    layout = Layout.fit(zoo.structure, lambda: zoo.checkpoints(entries), settings.token_size, settings.tokenisation)
    states = tuple(entry.sha256 for entry in entries)
    num_parameters = build_generator(settings, layout, len(states), config.train.seed).num_parameters
    first = zoo.load(entries[0])
    constants = {spec.name: first[spec.name] for spec in zoo.structure if spec.kind == "constant"}
    write_tokens(run.tokens_path, layout, zoo.checkpoints(entries), len(entries))
    save_tensors(run.constants_path, constants)
    if frozen:
        save_tensors(run.frozen_path, frozen)
    run.write_json(run.layout_path, layout)
    write_bytes(run.path / "recipe.yaml", origin.recipe.encode())
    files = {name: FileRecord.of(run.path / name) for name in prepared}
    record = RunRecord(origin=origin, states=states, num_parameters=num_parameters, files=files)
    run.write_json(run.record_path, record)
    return layout


def _check_same(run: Run, origin: Origin) -> None:
    theirs = run.record().origin
    if origin.model_copy(update={"command": theirs.command, "versions": theirs.versions}) != theirs:
        raise ValueError(
            f"{run.path} holds a run of another recipe or zoo ({theirs.name}, {theirs.recipe_sha256[:12]}); "
            f"choose another place with --out or remove it"
        )


def _optimise(run: Run, config: RPGConfig, layout: Layout, num_checkpoints: int, device: torch.device) -> None:
    settings = config.train
    model = build_generator(config.generator, layout, num_checkpoints, settings.seed).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    tokens = open_tokens(run.tokens_path, layout, num_checkpoints)
    step = load_state(run.state_path, model, optimizer) if run.state_path.is_file() else 0
    batches = Batches(settings, tokens, layout.mask(), device)
    schedule = make_scheduler(config.diffusion, "ddpm", config.diffusion.num_steps)
    window: list[Tensor] = []
    saved = step
    with Journal(run.metrics_path) as journal, progress("train", settings.steps) as bar:
        logged = math.ceil(step / LOG_EVERY)
        if len(journal.records) < logged:
            raise Corrupt(f"{run.metrics_path} has lost lines; remove {run.path} and train again")
        journal.keep(logged)
        bar.advance(step)
        while step < settings.steps:
            learning_rate = cosine(settings, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            loss = batches.loss(model, schedule, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            window.append(loss.detach())
            if step % LOG_EVERY == 0 or step == settings.steps:
                mean = _mean_loss(window, step)
                journal.append({"step": step, "loss": mean, "learning_rate": learning_rate})
                bar.advance(len(window), f"loss {mean:.4f}")
                window.clear()
                if step - saved >= settings.save_every:
                    save_state(run.state_path, model, optimizer, step)
                    saved = step
    save_tensors(run.generator_path, model.state_dict())
    run.seal()


class Batches:
    """The loss of training step k as a pure function of (seed, k): which checkpoints, which tokens, which noise."""

    def __init__(self, settings: TrainConfig, tokens: np.memmap, mask: Tensor, device: torch.device) -> None:
        self.settings, self.tokens, self.mask, self.device = settings, tokens, mask, device

    def loss(self, model: Generator, schedule: Scheduler, step: int) -> Tensor:
        """Masked noise-prediction error (Eq. 5) on `diffusion_batch` tokens drawn from the batch's sequences."""
        rng = seeded_generator(self.settings.seed, "train", step)
        count, length = self.tokens.shape[:2]
        batch = torch.randint(count, (self.settings.batch_size,), generator=rng)
        picked = torch.randperm(self.settings.batch_size * length, generator=rng)[: self.settings.diffusion_batch]
        row, place = picked // length, picked % length
        tokens = gather(self.tokens, batch[row], place).to(self.device)
        mask = self.mask[place].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            prototypes = model.prototypes(batch.to(self.device))
            return diffusion_loss(model.denoiser, schedule, tokens, mask, prototypes[row, place], rng)


def cosine(settings: TrainConfig, step: int) -> float:
    """Learning rate of this step: half a cosine from `learning_rate` to 0 over all steps."""
    return settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2


def _mean_loss(window: Sequence[Tensor], step: int) -> float:
    mean = torch.stack(list(window)).float().mean().item()
    if not math.isfinite(mean):
        raise Failed(
            f"the loss is {mean} at step {step}; lower rpg.train.learning_rate or set rpg.train.precision=float32 "
            f"(the last saved state is kept)"
        )
    return mean
