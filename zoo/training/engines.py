"""Collect in many processes: local ones, or those of a Ray cluster (zoo.training.workers).

One process owns the zoos and is the only one that writes. Workers compute: each gets jobs to train together with their
last states (zoo.training.together) and hands back events, which the owner records in their order. So a worker, a node
or the owner can die at any moment: what was recorded stays, and the jobs go on from their last states, on another
worker or in the next call, to the same bytes. Workers share no file system with the owner; they only have to find the
data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from zoo.console import pick_device
from zoo.errors import Failed, MissingData, suggest
from zoo.health import report_health
from zoo.manifest import Origin
from zoo.plugins import PRETRAINED
from zoo.progress import Bar, progress
from zoo.store import Zoo
from zoo.tasks.base import TaskConfig
from zoo.training.collect import CollectConfig, JobRecord, jobs, unfinished
from zoo.training.together import collect, teams
from zoo.training.workers import Died, Idle, LocalPool, Message, Pool, Raised, RayPool, Work, Worker
from zoo.writer import ZooWriter

ENGINES = ("local", "ray")
MOST_DEATHS = 3
"""How many workers may die over one job without any news from it before the call fails."""


@dataclass(frozen=True)
class Plan:
    """A zoo to collect: the recipe's sections `task:` and `zoo:`, and where it goes."""

    task: TaskConfig
    config: CollectConfig
    origin: Origin
    path: Path


def check_engine(name: str) -> None:
    """Raise ValueError for an engine that does not exist."""
    if name not in ENGINES:
        raise ValueError(f"no engine named {name!r}{suggest(name, ENGINES)}")


def collect_zoos(
    plans: Sequence[Plan], engine: str, workers: int | None, data_root: Path | None, device: str
) -> list[Zoo]:
    """Collect several zoos with `workers` processes of an engine, `local` or `ray`. Without a number of workers, and
    with one local one, `local` is this process, and `ray` takes all GPUs (or CPUs) of its cluster.
    """
    check_engine(engine)
    if engine == "ray":
        with RayPool(workers, data_root, device) as pool:
            return collect_all(plans, pool)
    if workers and workers > 1:
        if device != "auto":
            pick_device(device)  # a name that cannot be used is an error before anything is written
        return collect_all(plans, LocalPool(workers, data_root, device))
    where = pick_device(device)
    return [collect(p.config, p.task.build(data_root, where), _recorded(p).origin, p.path) for p in plans]


def _recorded(plan: Plan) -> Plan:
    """The plan with what its networks start from on its record. Who continues a zoo may lack these weights, as long as
    all networks have started.
    """
    if (plan.path / "manifest.json").is_file():
        return plan
    try:
        found = {f"{PRETRAINED}{name}": hashed for name, hashed in plan.task.started_from().items()}
    except MissingData:
        if not (plan.path / "journal.jsonl").is_file():
            raise
        return plan
    versions = plan.origin.versions | found
    return replace(plan, origin=plan.origin.model_copy(update={"versions": versions}))


def collect_all(plans: Sequence[Plan], pool: Pool) -> list[Zoo]:
    """Collect several zoos, the jobs of all of them spread over the workers of a pool.

    Jobs that raise Failed (they diverged) leave the others going; the first such error is raised when they are done
    and the zoos it does not belong to are finished. Any other error stops everything at once. What was recorded is kept
    in either case.
    """
    for plan in plans:
        jobs(plan.config, plan.task.conditions())  # refuses what does not fit before anything is written
    plans = [_recorded(plan) for plan in plans]
    with ExitStack() as stack:
        writers = [stack.enter_context(ZooWriter(p.path, p.origin, p.task.structure(), p.task.frozen())) for p in plans]
        todo = [
            (plan, team)
            for plan, writer in zip(plans, writers, strict=True)
            for team in teams(unfinished(plan.config, plan.task.conditions(), writer), pool.size)
        ]
        names = ", ".join(str(plan.path) for plan in plans)
        with progress(f"collecting {names}", 100 * sum(len(team) for _, team in todo)) as bar:
            failures = _Crew(pool, todo, bar).work()
        broken = {team[0].writer for team, _ in failures}
        zoos = [writer.finish() for writer in writers if writer not in broken]
        finished = [plan for plan, writer in zip(plans, writers, strict=True) if writer not in broken]
        for plan, zoo in zip(finished, zoos, strict=True):
            report_health(zoo, plan.task.chance())
        if failures:
            raise failures[0][1]
        return zoos


Team: TypeAlias = tuple[JobRecord, ...]  # what one worker trains together


class _Crew:
    """The workers of a pool, and which jobs each of them is busy with."""

    def __init__(self, pool: Pool, todo: Sequence[tuple[Plan, Sequence[JobRecord]]], bar: Bar) -> None:
        self._pool = pool
        self._bar = bar
        self._plans: dict[Team, Plan] = {tuple(team): plan for plan, team in todo}
        self._queue = deque(self._plans)
        self._busy: dict[Worker, Team | None] = {}  # None while a worker is starting
        self._idle: list[Worker] = []
        self._index: dict[Worker, int] = {}
        self._deaths: dict[Team | None, int] = {}  # since the last news; None: of workers that were starting
        self._failures: list[tuple[Team, Failed]] = []

    def work(self) -> list[tuple[Team, Failed]]:
        """Get all jobs done; returns the teams with some that failed, with their errors."""
        try:
            for index in range(min(self._pool.size, len(self._queue))):
                self._start(index)
            while self._queue or any(self._busy.values()):
                while self._queue and self._idle:
                    self._give(self._idle.pop(), self._queue.popleft())
                for worker in self._pool.wait(list(self._busy)):
                    try:
                        message = worker.receive()
                    except Died as death:
                        self._replace(worker, death)
                    else:
                        self._take(worker, message)
            return self._failures
        finally:
            for worker in self._index:
                worker.stop()

    def _start(self, index: int) -> None:
        worker = self._pool.start(index)
        self._index[worker] = index
        self._busy[worker] = None

    def _give(self, worker: Worker, team: Team) -> None:
        plan = self._plans[team]
        self._busy[worker] = team
        jobs, states = tuple(record.job for record in team), tuple(record.state() for record in team)
        worker.give(Work(plan.task, plan.config, jobs, states, frozenset(team[0].writer.done)))

    def _take(self, worker: Worker, message: Message) -> None:
        team = self._busy[worker]
        if isinstance(message, Idle):
            for record in team or ():
                record.finish()
            del self._busy[worker]
            self._idle.append(worker)
            self._deaths.pop(None, None)
            return
        assert team is not None
        if isinstance(message, Raised):
            if not isinstance(message.error, Failed):
                raise message.error from RuntimeError(f"in a worker:\n{message.traceback}")
            self._failures.append((team, message.error))
            self._busy[worker] = None  # it says that it is idle next
        else:
            number, event = message
            if team[number].add(event, self._bar):
                self._deaths.pop(team, None)

    def _replace(self, worker: Worker, death: Died) -> None:
        """Put the jobs of a dead worker first in the queue, for whoever is free first, and start another worker."""
        team = self._busy.pop(worker)
        worker.stop()
        index = self._index.pop(worker)
        self._deaths[team] = self._deaths.get(team, 0) + 1
        if self._deaths[team] >= MOST_DEATHS:
            names = ", ".join(str(record.job) for record in team or ())
            where = f"training {names} of {team[0].writer.path}" if team else "starting"
            raise Failed(
                f"{MOST_DEATHS} workers in a row died while {where} ({death}); what was finished is kept, run the same "
                f"command again, with fewer --workers if memory was short"
            )
        if team is not None:
            self._queue.appendleft(team)
        self._start(index)
