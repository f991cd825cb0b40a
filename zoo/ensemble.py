"""Train many small networks at once: those of one seed see the same batches, so that images are read, augmented and
standardised once for all of them.

Every network has its own gradients, optimiser and checkpoints, and becomes what it becomes when trained alone
(zoo.collect.train). On a CPU they take their steps in turn, to the same bytes: there the arithmetic takes the time, and
vmap, which makes grouped convolutions of it, was measured at half the speed (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from torch import Tensor

from zoo.allocator import keep_freed_memory
from zoo.collect import CollectConfig, Event, Job, Run, Training, jobs, runs
from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.progress import progress
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure
from zoo.tasks.base import Task

MOST = 32
"""Networks at once."""
MOST_VALUES = 2**28
"""All their weights together; there are as many gradients, and twice as many moments."""


def teams(todo: Sequence[Run], workers: int = 1) -> list[list[Run]]:
    """Which runs of a zoo are trained together: those of one seed, if there are enough for all workers."""
    found = []
    for _, same in groupby(sorted(todo, key=lambda run: run.job.seed), key=lambda run: run.job.seed):
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
) -> Iterator[tuple[int, Event]]:
    """Train jobs of one seed, as `zoo.collect.train` trains each of them; yields their events, each with the number of
    its job among these.

    A job that diverges leaves the others going; its error is raised when they are done.
    """
    assert len({job.seed for job in together}) == 1
    members = [Training(config, task, job, state, done) for job, state in zip(together, states, strict=True)]
    for number, member in enumerate(members):
        yield number, member.percent
    failures: dict[int, Failed] = {}
    step = min(member.step for member in members)
    for batch in task.batches(together[0].seed, step, config.batch_size):
        # Of an ensemble that was interrupted, some may be ahead.
        now = [n for n, member in enumerate(members) if member.step == step < member.total and n not in failures]
        for number in now:
            member = members[number]
            member.begin()
            try:
                for event in member.end(member.backward(batch)):
                    yield number, event
            except Failed as error:
                failures[number] = error
        step += 1
        if all(member.step >= member.total or n in failures for n, member in enumerate(members)):
            break
    if failures:
        raise next(iter(failures.values()))


def collect(config: CollectConfig, task: Task, origin: Origin, path: Path) -> Zoo:
    """Train all jobs in this process and seal the zoo at `path`. An interrupted call is continued by the same call, to
    the same bytes. zoo.engines does the same in many processes.

    Raises Failed when a job diverges or the disk is full; finished checkpoints are kept.
    """
    keep_freed_memory()
    jobs(config, task.conditions)  # refuses settings that do not fit the task before anything is written
    model = task.build(config.seed)
    structure = Structure.of(task.weights(model))
    frozen = task.frozen(task.start(config.seed)) if task.frozen(model) else {}
    with ZooWriter(path, origin, structure, frozen) as writer:
        todo = teams(runs(config, task.conditions, writer))
        with progress("collect", 100 * sum(map(len, todo))) as bar:
            for team in todo:
                states = [run.state() for run in team]
                for number, event in train_together(config, task, [run.job for run in team], states, writer.done):
                    bar.advance(team[number].record(event))
                for run in team:
                    run.finish()
        return writer.finish()
