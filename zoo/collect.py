"""Collect a zoo: train networks to convergence and save their weights.

Two regimes. `consecutive` is the paper's (section 3.1): one run, then checkpoints every few steps at a low learning
rate. `independent` trains from many seeds, which gives networks that really differ; the last share of the seeds can
be held out, as a yardstick that no generator sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import nn
from typing_extensions import Self

from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.progress import progress
from zoo.seeds import Seed, global_seed
from zoo.state import load_state, save_state
from zoo.store import Zoo, ZooWriter
from zoo.structure import Frozen, Structure
from zoo.tasks.base import Task

STATE_SECONDS = 300  # in long epochs the state is saved about this often, beside the end of every epoch


class CollectConfig(Frozen):
    """Section `zoo:`. The learning rate falls along a cosine from `learning_rate` to `save_learning_rate` over
    `epochs`; then a checkpoint is saved every `save_every` steps at `save_learning_rate`, `checkpoints` times for
    each of the `seeds`. Before all that, the last layer alone may be trained over `head_epochs` at
    `head_learning_rate`, without weight decay: a new head's gradients would harm pretrained weights.
    """

    regime: Literal["consecutive", "independent"] = "consecutive"
    seeds: PositiveInt = 1
    checkpoints: PositiveInt = 50
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    optimizer: Literal["sgd", "adamw"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: PositiveInt
    head_epochs: Annotated[int, Field(ge=0)] = 0
    head_learning_rate: PositiveFloat | None = None
    epochs: Annotated[int, Field(ge=0)]
    save_learning_rate: PositiveFloat
    save_every: PositiveInt = 1

    @model_validator(mode="after")
    def _regime_fits(self) -> Self:
        if self.regime == "consecutive" and (self.seeds > 1 or self.heldout > 0):
            raise ValueError("regime consecutive is one run of one seed; seeds and heldout need regime: independent")
        if (self.head_epochs > 0) != (self.head_learning_rate is not None):
            raise ValueError("head_epochs and head_learning_rate go together; set both or none")
        if self.heldout > 0 and self.heldout_seeds in (0, self.seeds):
            raise ValueError(
                f"heldout {self.heldout} of {self.seeds} seeds is {self.heldout_seeds}; expected some, not all"
            )
        return self

    @property
    def heldout_seeds(self) -> int:
        """How many of the seeds, counted from the last, go to split `heldout`."""
        return round(self.heldout * self.seeds)


@dataclass(frozen=True)
class Job:
    """One training run of the zoo."""

    seed: int
    split: str

    def checkpoint_id(self, index: int) -> str:
        return f"seed{self.seed:05d}-{index:04d}"


def jobs(config: CollectConfig) -> list[Job]:
    """The runs that make the zoo: one per seed, the last ones held out."""
    train = config.seeds - config.heldout_seeds
    return [Job(config.seed + i, "train" if i < train else "heldout") for i in range(config.seeds)]


def collect(config: CollectConfig, task: Task, origin: Origin, path: Path) -> Zoo:
    """Train all runs and seal the zoo at `path`. An interrupted call is continued by the same call, to the same bytes.

    Raises Failed when a run diverges or the disk is full; finished checkpoints are kept.
    """
    model = task.build(config.seed)
    structure = Structure.of(task.weights(model))
    frozen = task.frozen(task.start(config.seed)) if task.frozen(model) else {}
    with ZooWriter(path, origin, structure, frozen) as writer:
        todo = [] if writer.complete else jobs(config)
        total = len(todo) * _total_steps(config, task)
        with progress("collect", total) as bar:
            for job in todo:
                for steps in _run(config, task, job, writer):
                    bar.advance(steps)
        return writer.finish()


def _total_steps(config: CollectConfig, task: Task) -> int:
    epochs = config.head_epochs + config.epochs
    return epochs * task.steps_per_epoch(config.batch_size) + config.checkpoints * config.save_every


def _run(config: CollectConfig, task: Task, job: Job, writer: ZooWriter) -> Iterator[int]:
    """Train one seed and add its checkpoints; yields how many steps are newly done."""
    total = _total_steps(config, task)
    if job.checkpoint_id(config.checkpoints - 1) in writer.done:
        yield total
        return
    state = writer.path / ".parts" / f"state-{job.seed}.safetensors"
    model = task.build(job.seed) if state.is_file() else task.start(job.seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(config, trained)
    step = load_state(state, model, optimizer) if state.is_file() else 0
    yield step
    epoch_steps = task.steps_per_epoch(config.batch_size)
    head_steps = config.head_epochs * epoch_steps
    train_steps = head_steps + config.epochs * epoch_steps
    if step < head_steps:
        _train_head_alone(optimizer, trained, task.head(model))
    model.train()
    state_time = time.monotonic()
    for batch in task.batches(job.seed, step, config.batch_size):
        if step == head_steps:  # also on resuming here, so that the optimiser starts anew in either case
            for parameter in trained:
                parameter.requires_grad_(True)
            optimizer = _optimizer(config, trained)
        _set_learning_rate(optimizer, _learning_rate(config, step - head_steps, train_steps - head_steps))
        with global_seed(job.seed, "step", step):  # dropout and stochastic depth
            loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        saved, rest = divmod(step - train_steps, config.save_every)
        if step > train_steps and rest == 0:
            _check_finite(model, loss, job, step)
            metrics = task.evaluate(model, "validation").metrics
            id = job.checkpoint_id(saved - 1)
            writer.add(id, task.weights(model), seed=job.seed, split=job.split, step=step, metrics=metrics)
            model.train()
        if step == total:
            state.unlink(missing_ok=True)
        elif step % epoch_steps == 0 or time.monotonic() - state_time >= STATE_SECONDS:
            _check_finite(model, loss, job, step)
            save_state(state, model, optimizer, step)
            state_time = time.monotonic()
        yield 1
        if step == total:
            return


def _train_head_alone(
    optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter], head: Sequence[nn.Parameter]
) -> None:
    ids = {id(parameter) for parameter in head}
    for parameter in trained:
        parameter.requires_grad_(id(parameter) in ids)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0


def _optimizer(config: CollectConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay)


def _learning_rate(config: CollectConfig, step: int, train_steps: int) -> float:
    """`step` counts from the end of the head's training."""
    low, high = config.save_learning_rate, config.learning_rate
    if step < 0:
        assert config.head_learning_rate is not None
        return config.head_learning_rate
    if step >= train_steps:
        return low
    return low + (high - low) * (1 + math.cos(math.pi * step / train_steps)) / 2


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _check_finite(model: nn.Module, loss: torch.Tensor, job: Job, step: int) -> None:
    if not (math.isfinite(loss.item()) and all(bool(t.isfinite().all()) for t in model.state_dict().values())):
        raise Failed(
            f"training diverged: the loss of seed {job.seed} at step {step} is {loss.item()}; lower zoo.learning_rate "
            f"(checkpoints that are already saved are kept)"
        )
