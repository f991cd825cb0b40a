"""Collect a zoo: train networks to convergence and save their weights.

Two regimes. `consecutive` is the paper's (section 3.1): one run, then checkpoints every few steps at a low learning
rate. `independent` trains from many seeds, which gives networks that really differ; the last share of the seeds can
be held out, as a yardstick that no generator sees. A task that consists of many, each with its condition, is trained
once for every one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.metrics import Metric
from zoo.conditions import Holdout, check_condition, splits
from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.progress import progress
from zoo.seeds import Seed, global_seed
from zoo.state import pack_state, read_state, unpack_state, write_state
from zoo.store import Zoo, ZooWriter
from zoo.structure import Frozen, Structure
from zoo.tasks.base import Task

STATE_SECONDS = 300  # in long epochs the state is saved about this often, beside the end of every epoch


class CollectConfig(Frozen):
    """Section `zoo:`. The learning rate falls along a cosine from `learning_rate` to `save_learning_rate` over
    `epochs`; then a checkpoint is saved every `save_every` steps at `save_learning_rate`, `checkpoints` times for
    each of the `seeds`. Before all that, the last layer alone may be trained over `head_epochs` at
    `head_learning_rate`, without weight decay: a new head's gradients would harm pretrained weights.
    With a `layer_decay` below 1 layers learn more slowly the farther they are from the last.
    With `init: shared` all networks start from the same weights, those of `seed`; without pretrained weights they
    otherwise all start from their own. For tasks with conditions, `conditions` are those to train on (all, by default)
    and `holdout` says which of them no generator may see.

    With `precision: bfloat16` training computes matrix products and convolutions in it (autocast); the weights stay
    float32.
    """

    regime: Literal["consecutive", "independent"] = "consecutive"
    seeds: PositiveInt = 1
    checkpoints: PositiveInt = 50
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    optimizer: Literal["sgd", "adamw"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_size: PositiveInt
    head_epochs: Annotated[int, Field(ge=0)] = 0
    head_learning_rate: PositiveFloat | None = None
    epochs: Annotated[int, Field(ge=0)]
    save_learning_rate: PositiveFloat
    save_every: PositiveInt = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    init: Literal["independent", "shared"] = "independent"
    conditions: tuple[Annotated[str, AfterValidator(check_condition)], ...] = ()
    holdout: Holdout | None = None

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
    """One training run of the zoo. `seed` decides the order of the data and their augmentation, `start` the weights to
    start from.
    """

    seed: int
    split: str
    start: int
    condition: str | None = None

    @property
    def name(self) -> str:
        seed = f"seed{self.seed:05d}"
        return seed if self.condition is None else f"{self.condition}-{seed}"

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f" of task {self.condition}" if self.condition else "")

    def checkpoint_id(self, index: int) -> str:
        return f"{self.name}-{index:04d}"


def jobs(config: CollectConfig, conditions: Sequence[str] = ()) -> list[Job]:
    """The runs that make the zoo: one per seed, the last ones held out; of a task with conditions, one per condition
    and seed.

    Raises ValueError for settings that such a task needs and another cannot have.
    """
    if conditions:
        return _conditional_jobs(config, conditions)
    if config.conditions or config.holdout:
        raise ValueError("zoo.conditions and zoo.holdout are for tasks with conditions (name: binary); leave them out")
    train = config.seeds - config.heldout_seeds
    return [
        Job(seed, "train" if i < train else "heldout", config.seed if config.init == "shared" else seed)
        for i, seed in enumerate(range(config.seed, config.seed + config.seeds))
    ]


def _conditional_jobs(config: CollectConfig, conditions: Sequence[str]) -> list[Job]:
    """All conditions of a seed see the same images in the same order, as in RPG's published code."""
    if config.heldout:
        raise ValueError("zoo.heldout holds out seeds; of a task with conditions hold out some, with zoo.holdout")
    split = splits(sorted(set(config.conditions)) or conditions, config.holdout)
    number = {condition: k for k, condition in enumerate(conditions)}
    return [
        Job(seed, split[c], config.seed if config.init == "shared" else config.seed + number[c] * config.seeds + i, c)
        for c in split
        for i, seed in enumerate(range(config.seed, config.seed + config.seeds))
    ]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that training has just reached."""

    id: str
    step: int
    tensors: dict[str, Tensor]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, eq=False)
class State:
    """What training can be continued from (zoo.state)."""

    tensors: dict[str, Tensor]


Event: TypeAlias = Checkpoint | State | int
"""What training yields; a number is the percentage of its steps that are done."""


def train(
    config: CollectConfig, task: Task, job: Job, state: Mapping[str, Tensor] | None, done: Collection[str]
) -> Iterator[Event]:
    """Train one seed, from `state` where there is one, and yield its checkpoints but for the ids in `done`.

    It writes nothing. A state comes after the checkpoints that lie behind it: whoever records all events in their order
    can stop between any two, and training from the last recorded state gives what is missing.
    """
    if job.condition is not None:
        task = task.for_condition(job.condition)
    epoch_steps = task.steps_per_epoch(config.batch_size)
    head_steps = config.head_epochs * epoch_steps
    train_steps = head_steps + config.epochs * epoch_steps
    total = train_steps + config.checkpoints * config.save_every
    model = task.build(job.start) if state else task.start(job.start)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(config, task, model)
    step = unpack_state(state, model, optimizer) if state else 0
    yield 100 * step // total
    device = next(model.parameters()).device.type
    if step < head_steps:
        _train_head_alone(optimizer, trained, task.head(model))
    model.train()
    state_time = time.monotonic()
    for batch in task.batches(job.seed, step, config.batch_size):
        if step == head_steps:  # also on resuming here, so that the optimiser starts anew in either case
            for parameter in trained:
                parameter.requires_grad_(True)
            optimizer = _optimizer(config, task, model)
        _set_learning_rate(optimizer, _learning_rate(config, step - head_steps, train_steps - head_steps))
        with (
            global_seed(job.seed, "step", step),  # dropout and stochastic depth
            torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"),
        ):
            loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        saved, rest = divmod(step - train_steps, config.save_every)
        if step > train_steps and rest == 0 and job.checkpoint_id(saved - 1) not in done:
            _check_finite(model, loss, job, step)
            metrics = task.evaluate(model, "validation").metrics
            yield Checkpoint(job.checkpoint_id(saved - 1), step, task.weights(model), metrics)
            model.train()
        if step < total and (step % epoch_steps == 0 or time.monotonic() - state_time >= STATE_SECONDS):
            _check_finite(model, loss, job, step)
            yield State(pack_state(model, optimizer, step))
            state_time = time.monotonic()
        if 100 * step // total > 100 * (step - 1) // total:
            yield 100 * step // total
        if step == total:
            return


class Run:
    """A job as the process that owns its zoo sees it: what it continues from, and where its events go."""

    def __init__(self, config: CollectConfig, job: Job, writer: ZooWriter) -> None:
        self.config = config
        self.job = job
        self.writer = writer
        self.percent = 0
        self._state = writer.path / ".parts" / f"state-{job.name}.safetensors"

    def state(self) -> dict[str, Tensor] | None:
        """What to continue from; None to start from nothing. Raises Corrupt when the file is damaged."""
        return read_state(self._state) if self._state.is_file() else None

    def record(self, event: Event) -> int:
        """Put an event on disk; returns by how many percent points the job has newly advanced."""
        if isinstance(event, Checkpoint):
            job = self.job
            about: dict[str, Any] = {"seed": job.seed, "split": job.split, "condition": job.condition}
            self.writer.add(event.id, event.tensors, step=event.step, metrics=event.metrics, **about)
        elif isinstance(event, State):
            write_state(self._state, event.tensors)
        else:
            news = max(0, event - self.percent)  # none while a job that lost its worker catches up
            self.percent += news
            return news
        return 0

    def finish(self) -> None:
        """The job is done: its state is no longer needed."""
        self._state.unlink(missing_ok=True)


def runs(config: CollectConfig, conditions: Sequence[str], writer: ZooWriter) -> list[Run]:
    """What is left to do for this zoo."""
    last = config.checkpoints - 1
    return [Run(config, job, writer) for job in jobs(config, conditions) if job.checkpoint_id(last) not in writer.done]


def collect(config: CollectConfig, task: Task, origin: Origin, path: Path) -> Zoo:
    """Train all jobs in this process and seal the zoo at `path`. An interrupted call is continued by the same call, to
    the same bytes. zoo.engines does the same in many processes.

    Raises Failed when a job diverges or the disk is full; finished checkpoints are kept.
    """
    jobs(config, task.conditions)  # refuses settings that do not fit the task before anything is written
    model = task.build(config.seed)
    structure = Structure.of(task.weights(model))
    frozen = task.frozen(task.start(config.seed)) if task.frozen(model) else {}
    with ZooWriter(path, origin, structure, frozen) as writer:
        todo = runs(config, task.conditions, writer)
        with progress("collect", 100 * len(todo)) as bar:
            for run in todo:
                for event in train(config, task, run.job, run.state(), writer.done):
                    bar.advance(run.record(event))
                run.finish()
        return writer.finish()


def _train_head_alone(
    optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter], head: Sequence[nn.Parameter]
) -> None:
    ids = {id(parameter) for parameter in head}
    for parameter in trained:
        parameter.requires_grad_(id(parameter) in ids)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0


def _optimizer(config: CollectConfig, task: Task, model: nn.Module) -> torch.optim.Optimizer:
    groups = task.groups(model, config.layer_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)


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
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def _check_finite(model: nn.Module, loss: torch.Tensor, job: Job, step: int) -> None:
    if not (math.isfinite(loss.item()) and all(bool(t.isfinite().all()) for t in model.state_dict().values())):
        raise Failed(
            f"training diverged: the loss of {job} at step {step} is {loss.item()}; lower zoo.learning_rate "
            f"(checkpoints that are already saved are kept)"
        )
