"""Worker processes on this machine or on a Ray cluster, and the messages between them and the process that owns what
they make. This is the only module that imports ray.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from zoo import cuda
from zoo.console import pick_device, shown_log
from zoo.errors import MissingExtra
from zoo.plugins import code, run
from zoo.tasks.base import Task, TaskConfig
from zoo.training.collect import CollectConfig, Event, Job
from zoo.training.malloc import keep_freed_memory
from zoo.training.together import train_together

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """All that a worker has to know about jobs that are trained together."""

    task: TaskConfig
    config: CollectConfig
    jobs: tuple[Job, ...]
    states: tuple[dict[str, Tensor] | None, ...]
    done: frozenset[str]


@dataclass(frozen=True)
class Idle:
    """The worker waits for work: it has just started, or its jobs are over."""


@dataclass(frozen=True)
class Raised:
    """The jobs ended with this exception; the traceback is the worker's."""

    error: Exception
    traceback: str


Message: TypeAlias = tuple[int, Event] | Idle | Raised
"""An event comes with the number of its job."""


class Died(Exception):
    """A worker is gone, for a reason given in words."""


class Worker(Protocol):
    """The owner's end of one worker."""

    def give(self, work: Any) -> None:
        """Start work of the kind that its server does on an idle worker; if it is gone, `receive` will say so."""
        ...

    def receive(self) -> Message:
        """The next message. Raises Died."""
        ...

    def stop(self) -> None: ...


class Pool(Protocol):
    """Starts up to `size` workers; `wait` blocks until some of them have a message, or have died."""

    size: int

    def start(self, index: int) -> Worker: ...

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]: ...


class Server(Protocol):
    """What does the work in a worker."""

    def prepare(self) -> None:
        """In the worker, before it gets work: the user's own code, which work may be made of."""
        ...

    def messages(self, work: Any) -> Iterator[Message]:
        """Do some work: its events, then its exception if there is one, then Idle."""
        ...


Serving: TypeAlias = Callable[[Path | None, str, int], Server]
"""Makes a server for data below a directory (None: from the Hub), a device and a number of threads."""


class Trainer:
    """The server that trains. The task of its last jobs stays loaded, for the next one of the same recipe."""

    def __init__(self, data_root: Path | None, device: str, threads: int) -> None:
        self._data_root = data_root
        self._device = device
        self._threads = threads
        self._code = code()
        self._task: tuple[TaskConfig, Task] | None = None

    def prepare(self) -> None:
        for part in self._code:
            run(part)

    def messages(self, work: Work) -> Iterator[Message]:
        try:
            keep_freed_memory()
            torch.set_num_threads(self._threads)
            if self._task is None or self._task[0] != work.task:
                self._task = None  # frees the old one first
                self._task = work.task, work.task.build(self._data_root, pick_device(self._device))
            yield from train_together(work.config, self._task[1], work.jobs, work.states, work.done)
        except Exception as error:
            yield Raised(error, traceback.format_exc())
        yield Idle()


class LocalPool:
    """Worker processes on this machine. Threads and GPUs are shared out among them."""

    def __init__(self, size: int, data_root: Path | None, device: str, serving: Serving = Trainer) -> None:
        self.size = size
        threads = max(1, torch.get_num_threads() // size)
        gpus = cuda.count()
        spread = device in ("auto", "cuda") and gpus > 0
        devices = [f"cuda:{i % gpus}" if spread else device for i in range(size)]
        self._servers = [serving(data_root, name, threads) for name in devices]

    def start(self, index: int) -> _LocalWorker:
        return _LocalWorker(self._servers[index])

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        ends = {worker.connection: worker for worker in workers if isinstance(worker, _LocalWorker)}
        return [ends[end] for end in connection.wait(list(ends)) if isinstance(end, connection.Connection)]


class _LocalWorker:
    """A spawned process at the other end of a pipe. Messages are pickled here rather than by the pipe, whose own way
    with tensors keeps them in the sender's memory, and they would be lost with it.
    """

    def __init__(self, server: Server) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        level = logging.getLogger("zoo").getEffectiveLevel()
        self._process = context.Process(target=_serve, args=(theirs, server, level))
        with _interrupts_ignored():
            self._process.start()
        theirs.close()  # or the pipe would stay open when the worker dies

    def give(self, work: Any) -> None:
        with suppress(OSError):
            self.connection.send_bytes(pickle.dumps(work))

    def receive(self) -> Message:
        try:
            return pickle.loads(self.connection.recv_bytes())  # noqa: S301  # from our own child
        except (EOFError, OSError) as error:
            self._process.join()
            raise Died(f"exit code {self._process.exitcode}") from error

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(owner: connection.Connection, server: Server, level: int) -> None:
    """A local worker's life. It ends with its owner's, at once, however that comes about; it shows what it logs from
    the owner's `level` on.
    """
    threading.Thread(target=_exit_with_owner, daemon=True).start()
    messages: Iterator[Message] = iter([Idle()])
    with suppress(EOFError, ConnectionError), shown_log(level):
        server.prepare()
        while True:
            for message in messages:
                owner.send_bytes(_pickled(message))
            messages = server.messages(pickle.loads(owner.recv_bytes()))  # noqa: S301  # from our own parent


def _exit_with_owner() -> None:
    owner = parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)


def _pickled(message: Message) -> bytes:
    try:
        return pickle.dumps(message)
    except Exception:
        if not isinstance(message, Raised):
            raise
        return pickle.dumps(Raised(RuntimeError(str(message.error)), message.traceback))


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C, which the terminal sends to all of them: the owner ends them."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class RayPool:
    """Workers on a Ray cluster: one with a CPU each, and a GPU each where the cluster has GPUs and `device` allows it.

    Joins the running cluster (RAY_ADDRESS, or one that `ray start` made on this machine), or starts one on this machine
    for as long as the pool is open. `size` is at most the number of such workers. The package, at the same version,
    must be installed on every node. Raises MissingExtra without ray, ValueError for a device that cannot be had this
    way.
    """

    def __init__(self, size: int | None, data_root: Path | None, device: str, serving: Serving = Trainer) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"--device {device} cannot be used with --engine ray, which hands out GPUs; try --device auto"
            )
        self._ray = _import_ray()
        self._joined = not self._ray.is_initialized()
        if self._joined:
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            found = self._ray.cluster_resources()
            cpus, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
            use_gpus = device == "cuda" or (device == "auto" and gpus > 0)
            slots = gpus if use_gpus else cpus
            if not slots:
                raise ValueError(f"the Ray cluster has {cpus} CPUs and {gpus} GPUs; expected room for one worker")
            if size and size > slots:
                log.warning(
                    f"--workers {size} is ignored beyond {slots}: the Ray cluster has {cpus} CPUs and {gpus} GPUs"
                )
            self.size = min(size or slots, slots)
            self._server = serving(data_root, device, max(1, cpus // self.size))
            self._actor = self._ray.remote(num_cpus=1, num_gpus=int(use_gpus))(_Actor)
        except BaseException:
            self.close()
            raise

    def start(self, index: int) -> _RayWorker:
        return _RayWorker(self._ray, self._actor.remote(self._server))

    def wait(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        pending = {worker.pending: worker for worker in workers if isinstance(worker, _RayWorker)}
        ready, _ = self._ray.wait(list(pending))
        return [pending[reference] for reference in ready]

    def close(self) -> None:
        if self._joined:
            self._ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Actor:
    """A worker on a Ray node. It has only one message ready at a time, so that it cannot run far ahead of its owner."""

    def __init__(self, server: Server) -> None:
        server.prepare()
        self._server = server
        self._messages: Iterator[Message] = iter([Idle()])

    def give(self, work: Any) -> None:
        self._messages = self._server.messages(work)

    def next(self) -> bytes:
        return _pickled(next(self._messages))


class _RayWorker:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self.pending = actor.next.remote()

    def give(self, work: Any) -> None:
        self._actor.give.remote(work)
        self.pending = self._actor.next.remote()

    def receive(self) -> Message:
        try:
            message: Message = pickle.loads(self._ray.get(self.pending))  # noqa: S301  # from our own actor
        except self._ray.exceptions.RayTaskError:  # raised by our own code there: a bug
            raise
        except self._ray.exceptions.RayError as error:
            raise Died(f"Ray: {type(error).__name__}") from error
        if not isinstance(message, Idle):
            self.pending = self._actor.next.remote()  # it goes on while the owner writes
        return message

    def stop(self) -> None:
        self._ray.kill(self._actor)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--engine ray needs ray; install it with `pip install 'rpg-zoo[ray]'`") from error
    return ray
