"""Train many small networks at once: those of one seed see the same batches, so that images are read, augmented and
standardised once for all of them.

Every network has its own gradients, optimiser and checkpoints, and becomes what it becomes when trained alone
(zoo.training.collect.train). On a CPU they take their steps in turn, to the same bytes: there arithmetic takes the
time, and vmap, which makes grouped convolutions of it, was measured at half the speed. On a GPU, where launching the
many small kernels takes the time, one vmapped pass goes through all of them, to the same weights but for rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.conditions import bits
from zoo.errors import Failed
from zoo.health import report_health
from zoo.manifest import Origin
from zoo.progress import progress
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks.base import Batch, LabelledTask, Task
from zoo.training.collect import CollectConfig, Event, Job, JobRecord, Training, early_steps, jobs, unfinished
from zoo.training.malloc import keep_freed_memory
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)

MOST = 32
"""Networks at once."""
MOST_VALUES = 2**28
"""All their weights together; there are as many gradients, and twice as many moments."""


def teams(todo: Sequence[JobRecord], workers: int = 1) -> list[list[JobRecord]]:
    """Which jobs of a zoo are trained together: those of one seed, if there are enough for all workers."""
    found = []
    for _, same in groupby(sorted(todo, key=lambda record: record.job.seed), key=lambda record: record.job.seed):
        members = list(same)
        fits = MOST_VALUES // members[0].writer.structure.numel
        size = max(1, min(MOST, fits, -(-len(members) // workers)))
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def train_together(
    config: CollectConfig,
    task: Task,
    together: Sequence[Job],
    states: Sequence[Mapping[str, Tensor] | None],
    done: Collection[str],
    stacked: bool | None = None,
) -> Iterator[tuple[int, Event]]:
    """Train jobs of one seed, as `collect.train` trains each of them; yields their events, each with the number of its
    job among these. `stacked` says whether by vmap; None: whichever is faster on the device.

    A job that diverges leaves the others going; its error is raised when they are done.
    """
    assert len({job.seed for job in together}) == 1
    members = [Training(config, task, job, state, done) for job, state in zip(together, states, strict=True)]
    backward: Backward = _in_turn
    if len(members) > 1:
        device = next(members[0].model.parameters()).device.type
        backward = _Stacked() if stacked or (stacked is None and device == "cuda") else _in_turn
        how = "in turn" if backward is _in_turn else "by vmap"
        log.info(f"training {len(members)} networks of seed {together[0].seed} on the same batches, {how} on {device}")
    for number, member in enumerate(members):
        for event in member.start():
            yield number, event
    failures: dict[int, Failed] = {}
    step = min(member.step for member in members)
    batches = task.batches(together[0].seed, step, config.batch_size)
    while unfinished := [n for n, m in enumerate(members) if m.step < m.total and n not in failures]:
        now = [n for n in unfinished if members[n].step == step]  # after an interruption some may be ahead
        for number, loss in zip(now, backward([members[n] for n in now], next(batches)), strict=True):
            try:
                for event in members[number].end(loss):
                    yield number, event
            except Failed as error:
                failures[number] = error
        step += 1
    if failures:
        raise next(iter(failures.values()))


Backward: TypeAlias = Callable[[Sequence[Training], Batch], Iterable[Tensor]]
"""Begins a step of each of these networks and gives the losses, in their order. When a loss is given, the gradients of
its network are there.
"""


def _in_turn(members: Sequence[Training], batch: Batch) -> Iterator[Tensor]:
    for member in members:
        member.begin()
        yield member.backward(batch)


class _Stacked:
    """All networks in one pass, by vmap over their stacked tensors. Networks that draw at random (dropout) go in turn:
    their draws are functions of (seed, step), which vmap cannot give them.
    """

    def __init__(self) -> None:
        self._backward: Backward = self._at_once

    def __call__(self, members: Sequence[Training], batch: Batch) -> Iterable[Tensor]:
        return self._backward(members, batch) if members else ()

    def _at_once(self, members: Sequence[Training], batch: Batch) -> Iterable[Tensor]:
        for member in members:
            member.begin()
        modules = [_Loss(member.task, member.model) for member in members]
        # Stacking is part of the graph: gradients arrive at every network's own parameters.
        parameters = _stack([dict(module.named_parameters()) for module in modules])
        buffers = _stack([dict(module.named_buffers()) for module in modules])
        labels = torch.stack([bits(str(member.job.condition)) for member in members]).to(members[0].device)

        def loss(tensors: dict[str, Tensor], labels: Tensor) -> Tensor:
            return functional_call(modules[0], tensors, (labels, batch))

        try:
            with members[0].precision():
                losses = torch.vmap(loss)({**parameters, **buffers}, labels)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            self._backward = _in_turn
            return _in_turn(members, batch)
        losses.sum().backward()
        for name, tensors in buffers.items():
            for module, tensor in zip(modules, tensors, strict=True):
                module.get_buffer(name).copy_(tensor)
        return losses.detach()


class _Loss(nn.Module):
    """A binary task's loss as a module, so that its network's tensors can be replaced."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self._task = task
        self.model = model

    def forward(self, labels: Tensor, batch: Batch) -> Tensor:
        task = cast("LabelledTask", self._task)  # other tasks have one network a seed, which is trained alone
        return task.for_labels(labels).loss(self.model, batch)


def _stack(networks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tensors[name] for tensors in networks]) for name in networks[0]}


def collect(config: CollectConfig, task: Task, origin: Origin, path: Path) -> Zoo:
    """Train all jobs in this process and seal the zoo at `path`. An interrupted call is continued by the same call, to
    the same bytes. zoo.training.engines does the same in many processes.

    Raises Failed when a job diverges or the disk is full; finished checkpoints are kept.
    """
    keep_freed_memory()
    jobs(config, task.conditions)  # refuses settings that do not fit the task before anything is written
    if config.save.along:
        early_steps(config, task.steps_per_epoch(config.batch_size))  # the same
    model = task.build(config.seed)
    structure = Structure.of(task.weights(model))
    frozen = task.frozen(task.start(config.seed)) if task.frozen(model) else {}
    with ZooWriter(path, origin, structure, frozen) as writer:
        todo = teams(unfinished(config, task.conditions, writer))
        with progress(f"collecting {path}", 100 * sum(map(len, todo))) as bar:
            for team in todo:
                states = [record.state() for record in team]
                for number, event in train_together(config, task, [r.job for r in team], states, writer.done):
                    team[number].add(event, bar)
                for record in team:
                    record.finish()
        zoo = writer.finish()
    report_health(zoo, task.chance)
    return zoo
