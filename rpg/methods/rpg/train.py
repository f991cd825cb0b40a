"""Train the recurrent diffusion on a Zoo (paper, section 2.3 and Table 11). Resumable at any step, to the same bytes
on the same hardware.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from rpg.conditions.bits import conditions_of as given_conditions
from rpg.conditions.bits import stacked
from rpg.devices import out_of_memory
from rpg.diffusion import PUBLISHED, Objective, Scheduler, draw_noise, make_scheduler, squared_error
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.rpg.behaviour import ReadOutBehaviour, behaviour_task
from rpg.methods.rpg.config import GeneratorConfig, RPGConfig, TrainConfig
from rpg.methods.rpg.estimate import recomputes, training_remedy
from rpg.methods.rpg.learnt import Learnt, RPGRecord, bits_of, build_generator
from rpg.methods.rpg.models.kernels import has_fast_scan
from rpg.methods.rpg.models.recompute import recompute_in
from rpg.methods.rpg.objective import objective
from rpg.methods.rpg.optimizer import make_optimizer, require_optimizer
from rpg.methods.task_data import Behaviour
from rpg.methods.training import EMA, Stage, optimise
from rpg.processes import Processes, is_sharded, require_trackers, world_size
from rpg.run import Run
from rpg.tokens.files import gather, open_tokens, write_tokens
from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo import cuda
from zoo.checkpoint import save_tensors
from zoo.errors import Corrupt
from zoo.manifest import Entry, FileRecord
from zoo.seeds import generator as seeded_generator
from zoo.spent import Stopwatch
from zoo.store import Zoo
from zoo.tasks.classification import ClassificationTask

log = logging.getLogger(__name__)

IN_FLOAT32 = "--set method.train.precision=float32"


def fit(config: RPGConfig, data: TrainingSet, run: Run, machine: Machine) -> None:
    """Train a generator on these checkpoints into a run that has begun, or continue an interrupted training. Under
    `accelerate launch` all processes call this with the same arguments; the first writes.

    Raises ValueError when the settings do not suit the device, MissingExtra when a library for them is not installed
    (both before any work), Failed when the loss is not finite, memory does not suffice or the disk is full (the last
    state is kept).
    """
    check(config, machine.device, machine.trackers)
    processes = Processes(machine.device, machine.trackers, run.path / "logs")
    learnt = Learnt(run)
    if processes.rank == 0:
        _warn_of_imitation(config.train, machine.device)
        prepare(learnt, config, data)
    processes.wait()
    if not run.trained:
        layout = learnt.layout()
        with out_of_memory(lambda: _advice(config, layout.num_tokens, len(data.entries), processes)):
            _optimise(learnt, config, layout, data, processes, behaviour_task(config, data, machine))
    processes.wait()  # until the first has sealed the run, which then is a trained one to all
    processes.close()
    if processes.rank == 0:
        for leftover in (learnt.tokens_path, learnt.state_path, run.spent_path):
            leftover.unlink(missing_ok=True)


def check(config: RPGConfig, device: torch.device, trackers: Sequence[str] = ()) -> None:
    """Refuse what cannot work here before any work: ValueError with the remedy, or MissingExtra."""
    settings, count = config.train, world_size()
    require_optimizer(settings)
    require_trackers(trackers)
    if settings.batch_size % (count * settings.accumulation):
        raise ValueError(
            f"method.train.batch_size = {settings.batch_size} must be a multiple of {count} processes times "
            f"method.train.accumulation = {settings.accumulation}; change one of them"
        )
    if is_sharded() and settings.optimizer == "adamw8bit":
        raise ValueError(
            "adamw8bit cannot be sharded by FSDP; use --set method.train.optimizer=adamw, or no --use_fsdp"
        )
    if settings.precision == "bfloat16" and not cuda.computes_in_bfloat16(device):
        if device.type == "cuda":
            raise ValueError(f"{cuda.name_of(device)} does not compute in bfloat16; use {IN_FLOAT32}")
        if config.generator.recurrent == "lstm":  # a processor that imitates bfloat16: torch would fail in a step
            raise ValueError(f"this processor has no LSTM in bfloat16; use {IN_FLOAT32}")


def _warn_of_imitation(settings: TrainConfig, device: torch.device) -> None:
    if settings.precision == "bfloat16" and not cuda.computes_in_bfloat16(device):
        log.warning("this processor imitates bfloat16, ten times as slow or more; %s is faster here", IN_FLOAT32)


def _advice(config: RPGConfig, num_tokens: int, num_states: int, processes: Processes) -> str:
    again = _recomputes(config, num_tokens, num_states, processes)
    memory = cuda.total_memory(processes.device)
    return training_remedy(config, num_tokens, num_states, memory, processes.count, recompute=again)


def _recomputes(config: RPGConfig, num_tokens: int, num_states: int, processes: Processes) -> bool:
    kernels = processes.device.type == "cuda" and has_fast_scan()
    return recomputes(config, num_tokens, num_states, cuda.total_memory(processes.device), processes.count, kernels)


def prepare(learnt: Learnt, config: RPGConfig, data: TrainingSet) -> None:
    """Everything but the optimisation: layout, statistics, tokenised zoo, record. What is already there is kept. Raises
    Corrupt where that is not what it was.
    """
    run, zoo, entries = learnt.run, data.zoo, data.entries
    settings = config.generator
    conditions, states = conditions_of(settings, zoo, entries), states_of(config, entries)
    if learnt.record_path.is_file():
        if not run.trained:
            run.check(learnt.record().files)
            if (learnt.record().conditions, learnt.states()) != (conditions, states):
                raise Corrupt(f"{learnt.record_path} has changed; remove {run.path} and train again")
        return
    layout = Layout.fit(zoo.structure, lambda: zoo.checkpoints(entries), settings.token_size, settings.tokenisation)
    generator = build_generator(
        settings, layout, len(set(states)), config.train.seed, config.has_readout, bits_of(conditions)
    )
    values = ValueStatistics.fit(layout, zoo.checkpoints(entries)) if settings.statistics == "value" else None
    write_tokens(learnt.tokens_path, layout, zoo.checkpoints(entries), len(entries), values)
    files = [learnt.tokens_path, learnt.layout_path]
    if values:
        save_tensors(learnt.values_path, values.tensors())
        files.append(learnt.values_path)
    run.write_json(learnt.layout_path, layout)
    record = RPGRecord(
        conditions=conditions,
        states=states if config.state_per == "seed" else (),
        num_parameters=generator.num_parameters,
        files={path.name: FileRecord.of(path) for path in files},
    )
    run.write_json(learnt.record_path, record)


def conditions_of(settings: GeneratorConfig, zoo: Zoo, entries: Sequence[Entry]) -> tuple[str, ...]:
    """The condition of each checkpoint, if the generator takes them, else none. Raises ValueError when one has none."""
    if settings.condition == "none":
        return ()
    return given_conditions(zoo, entries, "method.generator.condition = binary", "condition = none")


def states_of(config: RPGConfig, entries: Sequence[Entry]) -> tuple[int, ...]:
    """The permutation state of each checkpoint: its own, or that of its seed; these are numbered as they first come."""
    if config.state_per == "checkpoint":
        return tuple(range(len(entries)))
    numbers = {seed: number for number, seed in enumerate(dict.fromkeys(entry.seed for entry in entries))}
    return tuple(numbers[entry.seed] for entry in entries)


def facts(learnt: Learnt) -> dict[str, JsonValue]:
    """What a trained generator is, in a few numbers."""
    layout = learnt.layout()
    return {
        "num_parameters": learnt.record().num_parameters,
        "num_tokens": layout.num_tokens,
        "useful": layout.useful,
        "checkpoints": len(learnt.run.record().networks),
    }


def _optimise(
    learnt: Learnt,
    config: RPGConfig,
    layout: Layout,
    data: TrainingSet,
    processes: Processes,
    task: ClassificationTask | None,
) -> None:
    settings, run = config.train, learnt.run
    states, num_states = learnt.states(), learnt.num_states
    model = build_generator(config.generator, layout, num_states, settings.seed, config.has_readout, learnt.num_bits)
    model.to(processes.device).train()
    again = _recomputes(config, layout.num_tokens, num_states, processes)
    recompute_in(model, again)
    watch = run.stopwatch or Stopwatch(processes.device, run.spent_path)
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    watch.note(recompute=again, **model.kernels(dtype))
    parallel = processes.wrap(model, [*model.recurrent.layers, model.recurrent.projection, model.denoiser])
    tokens = open_tokens(learnt.tokens_path, layout, len(data.entries))
    schedule = make_scheduler(config.diffusion, "ddpm", config.diffusion.num_steps)
    conditions = learnt.record().conditions
    cond = stacked(conditions) if conditions else torch.tensor(states)
    batches = Batches(settings, tokens, layout.mask(), schedule, processes, cond, objective(config))
    backward: Callable[[int], Tensor] = partial(batches.backward, parallel)
    if task is not None:
        known, values = Behaviour(task, layout, data.zoo.frozen()), learnt.values(layout)
        backward = ReadOutBehaviour(config, known, layout, cond, conditions, values).after(backward, model)
    stage = Stage(
        model=model,
        optimizer=make_optimizer(settings, model),
        settings=settings,
        backward=backward,
        state_path=learnt.state_path,
        remedy="lower method.train.learning_rate or set method.train.precision=float32",
        average=EMA(model, settings.ema) if settings.ema else None,
    )
    trained = optimise(stage, run, processes)
    if processes.rank == 0:
        save_tensors(learnt.generator_path, trained)
        kept = [learnt.values_path] if config.generator.statistics == "value" else []
        files = [learnt.record_path, learnt.layout_path, *kept, run.metrics_path, learnt.generator_path]
        run.seal(files, facts(learnt))


@dataclass(frozen=True)
class MicroBatch:
    """What a process computes at once of a step: K tokens of B checkpoints. `states` int64 (B,), or conditions
    float32 (B, bits); `row` and `place` int64 (K,) say whose and which tokens; `tokens` (K, D), `mask` bool (K, D). The
    first of them are noisy: `levels` int64 and `noise` (..., D); with the published loss, all.
    """

    states: Tensor
    row: Tensor
    place: Tensor
    tokens: Tensor
    mask: Tensor
    levels: Tensor
    noise: Tensor


class Batches:
    """Training step k as a pure function of (seed, k): which checkpoints, which tokens, which noise.

    A step is the same on any number of processes: all draw the whole of it, and the checkpoints are dealt out, first
    over the parts that are computed one after the other (`accumulation`), then within a part over processes. A token
    goes with its checkpoint, so no process has another's tokens or noise.

    `cond` is what the generator is told of each checkpoint: its condition, float32 (N, bits), or by default the number
    of its permutation state.
    """

    def __init__(
        self,
        settings: TrainConfig,
        tokens: np.memmap,
        mask: Tensor,
        schedule: Scheduler,
        processes: Processes,
        cond: Tensor | None = None,
        objective: Objective = PUBLISHED,
    ) -> None:
        self.settings, self.tokens, self.mask, self.objective = settings, tokens, mask, objective
        self.cond = torch.arange(len(tokens)) if cond is None else cond
        self.schedule = replace(schedule, timesteps=schedule.timesteps.to(processes.device))
        self.processes = processes

    def parts(self, step: int) -> tuple[list[MicroBatch], int, int]:
        """This process's parts of the step, and how many count in the whole of it, unpadded values or tokens: of the
        noisy ones, and of all.
        """
        settings, processes = self.settings, self.processes
        count, length, size = self.tokens.shape
        rng = seeded_generator(settings.seed, "train", step)
        states = torch.randint(count, (settings.batch_size,), generator=rng)
        picked = torch.randperm(settings.batch_size * length, generator=rng)
        picked = picked[: settings.prototype_batch or settings.diffusion_batch]
        row, place = picked // length, picked % length
        noisy = min(settings.diffusion_batch, len(picked))
        levels, noise = draw_noise(self.schedule, noisy, size, rng)
        share = settings.batch_size // (settings.accumulation * processes.count)  # checkpoints at once
        parts = []
        part_of = row // (share * processes.count)
        for number in part_of[:noisy].unique().tolist():  # in others no process has a token; BatchNorm needs some
            first = (number * processes.count + processes.rank) * share
            mine = (row // share == first // share).nonzero()[:, 0]
            denoised = mine[mine < noisy]
            kept = (self.mask[place[mine]], levels[denoised], noise[denoised])
            index = (self.cond[states[first : first + share]], row[mine] - first, place[mine])
            part = MicroBatch(*index, gather(self.tokens, states[row[mine]], place[mine]), *kept)
            parts.append(part)
        counts = torch.ones(len(place)) if settings.loss == "token" else self.mask[place].sum(1)
        supervised = torch.isin(part_of, part_of[:noisy])
        return parts, int(counts[:noisy].sum()), int(counts[supervised].sum())

    def backward(self, model: nn.Module, step: int) -> Tensor:
        """Add the step's gradients to the parameters' and return this process's share of its loss: the masked
        error of the objective (by default Eq. 5) on `diffusion_batch` tokens drawn from the batch's sequences.
        """
        parts, counted, supervised = self.parts(step)
        objective = replace(self.objective, readout=self.objective.readout * counted / supervised)
        total = torch.zeros((), device=self.processes.device)
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self.processes.no_sync(model):
                loss = self.loss(model, part, objective) / counted
                (loss * self.processes.count).backward()  # gradients are averaged over processes; here, a sum is due
            total += loss.detach()
        return total

    def loss(self, model: nn.Module, part: MicroBatch, objective: Objective) -> Tensor:
        """The part's squared error, a scalar: of all values, or of tokens, each the mean of its values'."""
        device = self.processes.device
        data: tuple[Tensor, ...] = (part.tokens, part.mask, part.levels, part.noise, part.states, part.row, part.place)
        if device.type == "cuda":  # from pinned memory a copy does not wait for the step before
            data = tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in data)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            weight = 1 / data[1].sum(1) if self.settings.loss == "token" else None
            return squared_error(model, self.schedule, *data, weight=weight, objective=objective)
