"""Collect a zoo: train networks to convergence and save their weights.

Two regimes. `consecutive` is the paper's (section 3.1): one training, then checkpoints every few steps at a low
learning rate. `independent` trains from many seeds, which gives networks that really differ; the last share of the
seeds can be held out, as a yardstick that no generator sees. A task that consists of many, each with its condition, is
trained once for every one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.metrics import Metric
from zoo.conditions import Holdout, check_condition, splits
from zoo.errors import Failed
from zoo.manifest import EARLY
from zoo.progress import Bar
from zoo.seeds import Seed, global_seed
from zoo.structure import Frozen
from zoo.tasks.base import Batch, Task
from zoo.training.state import pack_state, read_state, unpack_state, write_state
from zoo.writer import ZooWriter

STATE_SECONDS = 300  # in long epochs the state is saved about this often, beside the end of every epoch


class SaveConfig(Frozen):
    """What is kept beside the last checkpoints: `along` earlier ones of every training, as split `early`, for methods
    that learn how networks change. Their steps are `early_steps`.
    """

    along: NonNegativeInt = 0


class CollectConfig(Frozen):
    """Section `zoo:`. The learning rate falls along a cosine from `learning_rate` to `save_learning_rate` over
    `epochs`; then a checkpoint is saved every `save_every` steps at `save_learning_rate`, `checkpoints` times for
    each of the `seeds`. Before all that, the last layer alone may be trained over `head_epochs` at
    `head_learning_rate`, without weight decay: a new head's gradients would harm pretrained weights.
    Epochs may be fractions. With a `layer_decay` below 1 layers learn more slowly the farther they are from the last.
    With `init: shared` all networks start from the same weights, those of `seed`; without pretrained weights they
    otherwise all start from their own. For tasks with conditions, `conditions` are those to train on (all, by default)
    and `holdout` says which of them no generator may see.

    With `average`, a checkpoint is the mean of the weights after each step of the last so many epochs; then there is
    one for each seed, and it is scored as such. Means of running statistics stand in for those of the mean.

    With `precision: bfloat16` training computes matrix products and convolutions in it (autocast); the weights stay
    float32.
    """

    regime: Literal["consecutive", "independent"] = "consecutive"
    seeds: Annotated[int, Field(gt=0, le=10**7)] = 1
    checkpoints: PositiveInt = 50
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    optimizer: Literal["sgd", "adamw"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_size: PositiveInt
    head_epochs: Annotated[float, Field(ge=0)] = 0
    head_learning_rate: PositiveFloat | None = None
    epochs: Annotated[float, Field(ge=0, le=1e6)]
    save_learning_rate: PositiveFloat
    save_every: PositiveInt = 1
    average: Annotated[float, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    init: Literal["independent", "shared"] = "independent"
    conditions: tuple[Annotated[str, AfterValidator(check_condition)], ...] = ()
    holdout: Holdout | None = None
    save: SaveConfig = SaveConfig()

    @model_validator(mode="after")
    def _regime_fits(self) -> Self:
        if self.regime == "consecutive" and (self.seeds > 1 or self.heldout > 0):
            raise ValueError("regime consecutive trains one network; seeds and heldout need regime: independent")
        if (self.head_epochs > 0) != (self.head_learning_rate is not None):
            raise ValueError("head_epochs and head_learning_rate go together; set both or none")
        if self.average > 0 and self.checkpoints > 1:
            raise ValueError(
                f"average gives one checkpoint of a training, not {self.checkpoints}; set checkpoints to 1"
            )
        if self.average > self.epochs:
            raise ValueError(f"average is over {self.average:g} epochs of {self.epochs:g}; expected no more")
        if self.seed + self.seeds > 2**63:
            raise ValueError(f"the last of seeds = {self.seeds} from seed = {self.seed} on is beyond 2**63 - 1")
        if self.heldout > 0 and self.heldout_seeds in (0, self.seeds):
            raise ValueError(
                f"heldout {self.heldout} of {self.seeds} seeds is {self.heldout_seeds}; expected some, not all"
            )
        return self

    @property
    def heldout_seeds(self) -> int:
        """How many of the seeds, counted from the last, go to split `heldout`."""
        return round(self.heldout * self.seeds)

    @property
    def saved(self) -> int:
        """How many checkpoints each training leaves."""
        return self.save.along + self.checkpoints


def training_steps(config: CollectConfig, epoch_steps: int) -> tuple[int, int]:
    """How many steps the head is trained alone, and how many there are before the last checkpoints."""
    head = round(config.head_epochs * epoch_steps)
    return head, head + round(config.epochs * epoch_steps)


def early_steps(config: CollectConfig, epoch_steps: int) -> tuple[int, ...]:
    """After how many steps the checkpoints along a training are kept: at its squares, first before any step, as
    networks change most at first. Raises ValueError for more checkpoints than steps.
    """
    along, steps = config.save.along, training_steps(config, epoch_steps)[1]
    if along > steps:
        raise ValueError(
            f"zoo.save.along = {along} checkpoints of a training that takes {steps} steps before its last ones; "
            "expected as many at most"
        )
    return tuple(max(k, k * k * steps // along**2) for k in range(along))


@dataclass(frozen=True)
class Job:
    """The training of one network. `seed` decides the order of the data and their augmentation, `start` the weights to
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

    def early_id(self, index: int) -> str:
        return f"{self.name}-early-{index:04d}"


def jobs(config: CollectConfig, conditions: Sequence[str] = ()) -> list[Job]:
    """The jobs that make the zoo: one per seed, the last ones held out; of a task with conditions, one per condition
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
    chosen = [check_condition(condition, len(conditions[0])) for condition in sorted(set(config.conditions))]
    split = splits(chosen or conditions, config.holdout)
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
    early: bool = False


@dataclass(frozen=True, eq=False)
class State:
    """What training can be continued from (zoo.training.state)."""

    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """How many percent of a training's steps are done, and the loss of the last one."""

    percent: int
    loss: float | None = None


Event: TypeAlias = Checkpoint | State | Progress
"""What training yields."""


class Training:
    """The training of one network, step by step. `step` counts those that are done.

    It writes nothing, and makes no checkpoints whose ids are in `done`. A state comes after the checkpoints that lie
    behind it: whoever records all events in their order can stop between any two, and training from the last recorded
    state gives what is missing.
    """

    def __init__(
        self,
        config: CollectConfig,
        task: Task,
        job: Job,
        state: Mapping[str, Tensor] | None,
        done: Collection[str],
    ) -> None:
        self.config = config
        self.job = job
        self.task = task if job.condition is None else task.for_condition(job.condition)
        self._done = done
        self._epoch_steps = task.steps_per_epoch(config.batch_size)
        self._head_steps, self._train_steps = training_steps(config, self._epoch_steps)
        self._early = {step: job.early_id(k) for k, step in enumerate(early_steps(config, self._epoch_steps))}
        self.total = self._train_steps + config.checkpoints * config.save_every
        self.model = self.task.build(job.start) if state else self.task.start(job.start)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(config, self.task, self.model)
        averaged = max(1, round(config.average * self._epoch_steps)) if config.average else 0
        self._averaged = self.total - averaged  # from this step on
        self._sums = _sums_of(self.model) if config.average else {}
        self.step = unpack_state(state, self.model, self.optimizer, self._sums) if state else 0
        if self.step < self._head_steps:
            _train_head_alone(self.optimizer, self._trained, self.task.head(self.model))
        self.model.train()
        self.device = next(self.model.parameters()).device
        self._state_time = time.monotonic()

    @property
    def percent(self) -> int:
        """How much of the training is done."""
        return 100 * self.step // self.total

    def begin(self) -> None:
        """Get the optimiser ready for the next step."""
        if self.step == self._head_steps:  # also on resuming here, so that the optimiser starts anew in either case
            for parameter in self._trained:
                parameter.requires_grad_(True)
            self.optimizer = _optimizer(self.config, self.task, self.model)
        counted = self.step - self._head_steps
        rate = _learning_rate(self.config, counted, self._train_steps - self._head_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()

    def backward(self, batch: Batch) -> Tensor:
        """The loss of a batch; its gradients are left with the parameters."""
        with global_seed(self.job.seed, "step", self.step), self.precision():  # dropout and stochastic depth
            loss = self.task.loss(self.model, batch)
        loss.backward()
        return loss.detach()

    def precision(self) -> torch.autocast:
        """The context to compute the loss in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def start(self) -> Iterator[Event]:
        """What there is before any further step."""
        yield Progress(self.percent)
        if self.step == 0:
            yield from self._early_checkpoint()

    def end(self, loss: Tensor) -> Iterator[Event]:
        """Take the step and say what it has brought. Raises Failed when the training has diverged."""
        before = self.percent
        self.optimizer.step()
        self.step += 1
        if self.step > self._averaged:
            self._sum_up()
        if self.step in self._early:
            self._check_finite(loss)
            yield from self._early_checkpoint()
        saved, rest = divmod(self.step - self._train_steps, self.config.save_every)
        id = self.job.checkpoint_id(saved - 1)
        if self.step > self._train_steps and rest == 0 and id not in self._done:
            self._check_finite(loss)
            yield self._checkpoint(id)
        late = time.monotonic() - self._state_time >= STATE_SECONDS
        if self.step < self.total and (self.step % self._epoch_steps == 0 or late):
            self._check_finite(loss)
            yield State(pack_state(self.model, self.optimizer, self.step, self._sums))
            self._state_time = time.monotonic()
        if self.percent > before:
            yield Progress(self.percent, loss.item())

    @torch.no_grad()
    def _sum_up(self) -> None:
        """Count the weights of this step; after the last, the model has their mean."""
        tensors = self.model.state_dict()
        for name, total in self._sums.items():
            total += tensors[name]
        if self.step == self.total:
            for name, total in self._sums.items():  # all sums are there: tied tensors have two names
                tensors[name].copy_(total / (self.total - self._averaged))

    def _early_checkpoint(self) -> Iterator[Event]:
        """The one of this step, unless there is none, or it is there already."""
        id = self._early.get(self.step)
        if id is not None and id not in self._done:
            yield self._checkpoint(id, early=True)

    def _checkpoint(self, id: str, early: bool = False) -> Checkpoint:
        metrics = self.task.evaluate(self.model, "validation").metrics
        self.model.train()
        return Checkpoint(id, self.step, self.task.weights(self.model), metrics, early)

    def _check_finite(self, loss: Tensor) -> None:
        if not (math.isfinite(loss.item()) and all(bool(t.isfinite().all()) for t in self.model.state_dict().values())):
            raise Failed(
                f"training diverged: the loss of {self.job} at step {self.step} is {loss.item()}; lower "
                "zoo.learning_rate (checkpoints that are already saved are kept)"
            )


def _sums_of(model: nn.Module) -> dict[str, Tensor]:
    """Zeros in float64 for all tensors of a model that a mean is taken of."""
    tensors = model.state_dict()
    return {name: torch.zeros_like(t, dtype=torch.float64) for name, t in tensors.items() if t.is_floating_point()}


def train(
    config: CollectConfig, task: Task, job: Job, state: Mapping[str, Tensor] | None, done: Collection[str]
) -> Iterator[Event]:
    """Train one network, from `state` where there is one, and yield its checkpoints but for the ids in `done`."""
    training = Training(config, task, job, state, done)
    yield from training.start()
    batches = task.batches(job.seed, training.step, config.batch_size)
    while training.step < training.total:
        batch = next(batches)
        training.begin()
        yield from training.end(training.backward(batch))


class JobRecord:
    """A job as the process that owns its zoo sees it: what it continues from, and where its events go."""

    def __init__(self, config: CollectConfig, job: Job, writer: ZooWriter) -> None:
        self.config = config
        self.job = job
        self.writer = writer
        self.percent = 0
        self._started = False
        self._score = ""  # of the last checkpoint
        self._state = writer.path / ".parts" / f"state-{job.name}.safetensors"

    def state(self) -> dict[str, Tensor] | None:
        """What to continue from; None to start from nothing. Raises Corrupt when the file is damaged."""
        return read_state(self._state) if self._state.is_file() else None

    def add(self, event: Event, bar: Bar) -> bool:
        """Put an event on disk, or show it on the bar, which counts percent points; returns whether the job has got any
        further than it ever was.
        """
        if isinstance(event, Checkpoint):
            job = self.job
            split = EARLY if event.early else job.split
            about: dict[str, Any] = {"seed": job.seed, "split": split, "condition": job.condition}
            self.writer.add(event.id, event.tensors, step=event.step, metrics=event.metrics, **about)
            if event.metrics:
                self._score = f"validation {event.metrics[0].name} {event.metrics[0].value:.2f}"
        elif isinstance(event, State):
            write_state(self._state, event.tensors)
        else:
            news = max(0, event.percent - self.percent)  # none while a job that lost its worker catches up
            self.percent += news
            if self._started:
                loss = "" if event.loss is None else f"loss {event.loss:.4f}"
                bar.advance(news, ", ".join(filter(None, (str(self.job), loss, self._score))))
            else:
                bar.skip(news)  # the first event says where the job continues
                self._started = True
            return news > 0
        return True

    def finish(self) -> None:
        """The job is done: its state is no longer needed."""
        self._state.unlink(missing_ok=True)


def unfinished(config: CollectConfig, conditions: Sequence[str], writer: ZooWriter) -> list[JobRecord]:
    """The jobs that are left to do for this zoo."""
    last = config.checkpoints - 1
    left = [job for job in jobs(config, conditions) if job.checkpoint_id(last) not in writer.done]
    return [JobRecord(config, job, writer) for job in left]


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
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)


def _learning_rate(config: CollectConfig, step: int, train_steps: int) -> float:
    """`step` counts from the end of the head's training."""
    low, high = config.save_learning_rate, config.learning_rate
    if step < 0:
        assert config.head_learning_rate is not None
        return config.head_learning_rate
    if step >= train_steps:
        return low
    return low + (high - low) * (1 + math.cos(math.pi * step / train_steps)) / 2
