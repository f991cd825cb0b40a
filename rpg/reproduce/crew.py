"""Who carries out steps: this process, one after another, or workers (zoo.training.workers), several at a time.

What fails (a training that diverges) stops only what needs it. A step is a command that continues what was interrupted,
so a worker may die at any moment. Unlike those that train networks of a zoo, these workers write: those of a Ray
cluster need the working directory of the owner, shared between the nodes.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import torch

from rpg.reproduce.collected import Machine
from rpg.reproduce.steps import Step, require_same, shown
from zoo.console import pick_device
from zoo.errors import Corrupt, Failed, MissingData, MissingExtra
from zoo.plugins import code, run
from zoo.training.engines import MOST_DEATHS, check_engine
from zoo.training.malloc import keep_freed_memory
from zoo.training.workers import Died, Idle, LocalPool, Message, Pool, Raised, RayPool, Worker

log = logging.getLogger(__name__)

Failures: TypeAlias = dict[Step, str]  # what failed, with the reason
RAISED = (Corrupt, MissingData, MissingExtra, ValueError)  # by a step, for the table that needs it


class Crew(Protocol):
    def finish(self, steps: Sequence[Step]) -> Failures:
        """Do what is missing of steps that are in order, or go on with it. Raises what stages raise but Failed."""
        ...


class Alone:
    """This process."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def finish(self, steps: Sequence[Step]) -> Failures:
        failed: Failures = {}
        for number, step in enumerate(steps, start=1):
            reasons = [failed[needed] for needed in step.needs() if needed in failed]
            if reasons:
                failed[step] = reasons[0]
            elif step.done:
                require_same(step, self._machine)
            else:
                log.info("[%d/%d] %s", number, len(steps), shown(step))
                try:
                    step.carry_out(self._machine)
                except Failed as error:
                    failed[step] = _warned(step, error)
        return failed


def _warned(step: Step, error: Exception) -> str:
    """The reason why a step failed, which is also logged."""
    reason = " ".join(str(error).split())
    log.warning("%s: %s", step.place, reason)
    return reason


class Doer:
    """The server of a worker that carries out steps."""

    def __init__(self, data_root: Path | None, device: str, threads: int) -> None:
        self._machine = Machine(device, data_root)
        self._threads = threads
        self._code = code()
        self._directory = Path.cwd()

    def prepare(self) -> None:
        os.chdir(self._directory)
        for part in self._code:
            run(part)

    def messages(self, step: Step) -> Iterator[Message]:
        try:
            keep_freed_memory()
            torch.set_num_threads(self._threads)
            step.carry_out(self._machine)
        except Exception as error:
            yield Raised(error, traceback.format_exc())
        yield Idle()


class Team:
    """The workers of a pool, and all steps that they are to do, in order: while some are waited for, others go on."""

    def __init__(self, pool: Pool, steps: Sequence[Step], machine: Machine) -> None:
        self._pool = pool
        self._machine = machine
        self._count = len(steps)
        self._todo = list(steps)
        self._over: set[Step] = set()
        self._failed: Failures = {}
        self._raised: dict[Step, Exception] = {}
        self._busy: dict[Worker, Step | None] = {}  # None while a worker starts
        self._idle: list[Worker] = []
        self._index: dict[Worker, int] = {}
        self._deaths: dict[Step | None, int] = {}
        for index in range(min(pool.size, len(steps))):
            self._start(index)

    def finish(self, steps: Sequence[Step]) -> Failures:
        while not self._over.issuperset(steps):
            while self._idle and (step := self._next()):
                self._busy[worker := self._idle.pop()] = step
                log.info("[%d/%d] %s", self._count - len(self._todo), self._count, shown(step))
                worker.give(step)
            if not self._over.issuperset(steps):
                for worker in self._pool.wait(list(self._busy)):
                    self._hear(worker)
        for step in steps:
            if step in self._raised:
                raise self._raised[step]
        return {step: self._failed[step] for step in steps if step in self._failed}

    def stop(self) -> None:
        for worker in self._index:
            worker.stop()

    def _next(self) -> Step | None:
        """The first step that can be done now. Those that are done, or cannot be as what they need failed, are over."""
        for step in list(self._todo):
            needs = step.needs()
            if not self._over.issuperset(needs):
                continue
            self._todo.remove(step)
            if failed := [self._failed[needed] for needed in needs if needed in self._failed]:
                self._failed[step] = failed[0]
            elif raised := [self._raised[needed] for needed in needs if needed in self._raised]:
                self._raised[step] = raised[0]
            elif not step.done:
                return step
            else:
                self._check(step)
            self._over.add(step)
        return None

    def _check(self, step: Step) -> None:
        """Note what is there and was made otherwise."""
        try:
            require_same(step, self._machine)
        except RAISED as error:
            self._raised[step] = error

    def _start(self, index: int) -> None:
        worker = self._pool.start(index)
        self._index[worker] = index
        self._busy[worker] = None

    def _hear(self, worker: Worker) -> None:
        """Take one message of a worker."""
        try:
            message = worker.receive()
        except Died as death:
            self._replace(worker, death)
            return
        step = self._busy[worker]
        if isinstance(message, Idle):
            del self._busy[worker]
            self._idle.append(worker)
            self._deaths.pop(step, None)
            if step is not None:
                self._over.add(step)
            return
        assert isinstance(message, Raised)
        assert step is not None
        if isinstance(message.error, Failed):
            self._failed[step] = _warned(step, message.error)
        elif isinstance(message.error, RAISED):
            self._raised[step] = message.error
        else:
            raise message.error from RuntimeError(f"in a worker:\n{message.traceback}")

    def _replace(self, worker: Worker, death: Died) -> None:
        """Start another worker for one that died; its step comes first again, but not for ever."""
        step = self._busy.pop(worker)
        log.warning("a worker died (%s); another takes its place", death)
        worker.stop()
        index = self._index.pop(worker)
        self._deaths[step] = self._deaths.get(step, 0) + 1
        if self._deaths[step] < MOST_DEATHS:
            if step is not None:
                self._todo.insert(0, step)
        else:
            reason = f"{MOST_DEATHS} workers in a row died ({death}); with fewer --workers memory may suffice"
            if step is None:
                raise Failed(f"{reason}; they were starting")
            self._failed[step] = _warned(step, Failed(reason))
            self._over.add(step)
        self._start(index)


@contextmanager
def crew_of(machine: Machine, steps: Sequence[Step]) -> Iterator[Crew]:
    """The crew that a machine asks for, for these steps. Raises ValueError for an engine or a device that is not there,
    MissingExtra without ray.
    """
    check_engine(machine.engine)
    if machine.engine == "ray":
        pool = RayPool(machine.workers, machine.data_root, machine.device, Doer)
        with pool, _team(pool, steps, machine) as team:
            yield team
    elif (machine.workers or 1) > 1:
        if machine.device != "auto":
            pick_device(machine.device)  # a name that cannot be used is an error before anything is written
        size = min(machine.workers or 1, max(1, len(steps)))
        with _team(LocalPool(size, machine.data_root, machine.device, Doer), steps, machine) as team:
            yield team
    else:
        yield Alone(machine)


@contextmanager
def _team(pool: Pool, steps: Sequence[Step], machine: Machine) -> Iterator[Team]:
    team = Team(pool, steps, machine)
    try:
        yield team
    finally:
        team.stop()
