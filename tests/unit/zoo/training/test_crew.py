"""How jobs are handed to workers, retried and given up, with workers that are objects of this process."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import zoo.training.workers
from zoo.errors import Failed, MissingData
from zoo.training.collect import Job, JobRecord, Progress
from zoo.training.engines import MOST_DEATHS, _Crew
from zoo.training.workers import Died, Idle, LocalPool, Raised, Trainer, Work


class CountingJob(JobRecord):
    """A job of a toy zoo that has only percentages to record."""

    def __init__(self, seed):
        super().__init__(None, Job(seed, "train", seed), SimpleNamespace(path=Path("toy"), done={}))
        self.finished = 0

    def finish(self):
        self.finished += 1


class FakeWorker:
    def __init__(self, script):
        self.script, self.messages, self.stopped = script, [Idle()], False

    def give(self, work):
        said = self.script(work.jobs[0].seed)
        self.messages = [*((0, Progress(m)) if isinstance(m, int) else m for m in said), Idle()]

    def receive(self):
        message = self.messages.pop(0)
        if isinstance(message, Died):
            raise message
        return message

    def stop(self):
        self.stopped = True


class FakePool:
    def __init__(self, size, script):
        self.size, self.script, self.started = size, script, []

    def start(self, index):
        self.started.append(FakeWorker(self.script))
        return self.started[-1]

    def wait(self, workers):
        assert workers
        return workers[:1]


class Bar:
    total = 0

    def advance(self, steps=1, note=""):
        self.total += steps

    skip = advance


def crew(script, seeds=4, size=2):
    jobs, bar = [CountingJob(seed) for seed in range(seeds)], Bar()
    pool = FakePool(size, script)
    return jobs, bar, pool, _Crew(pool, [(SimpleNamespace(task=None, config=None), [job]) for job in jobs], bar)


def test_every_job_is_done_once_and_all_workers_are_stopped():
    jobs, bar, pool, work = crew(lambda seed: [50, 100])
    assert work.work() == []
    assert [(job.percent, job.finished) for job in jobs] == [(100, 1)] * 4
    assert (bar.total, len(pool.started)) == (400, 2)
    assert all(worker.stopped for worker in pool.started)


def test_no_more_workers_than_jobs():
    _, _, pool, work = crew(lambda seed: [100], seeds=1, size=8)
    work.work()
    assert len(pool.started) == 1


def test_a_job_that_always_kills_its_worker_is_given_up():
    jobs, _, pool, work = crew(lambda seed: [30, Died("exit code -9")] if seed == 1 else [100])
    with pytest.raises(
        Failed, match=rf"{MOST_DEATHS} workers in a row died while training seed 1 of toy \(exit code -9"
    ):
        work.work()
    assert jobs[1].finished == 0
    assert all(worker.stopped for worker in pool.started)


def test_deaths_are_forgiven_as_long_as_there_is_news():
    reached = iter(range(10, 91, 10))
    jobs, bar, pool, work = crew(lambda seed: [p, Died("gone")] if (p := next(reached, 0)) else [100], seeds=1, size=1)
    assert work.work() == []
    assert (jobs[0].finished, bar.total, len(pool.started)) == (1, 100, 10)


def test_deaths_at_the_same_place_are_not():
    reached = iter([10, 20, 30, 30, 30])
    _, _, _, work = crew(lambda seed: [next(reached), Died("gone")], seeds=1, size=1)
    with pytest.raises(Failed, match="3 workers in a row"):
        work.work()


def test_workers_that_die_while_starting_are_given_up():
    _, _, pool, work = crew(lambda seed: [100])
    pool.start = lambda index: dead()

    def dead():
        worker = FakeWorker(None)
        worker.messages = [Died("exit code 1")]
        return worker

    with pytest.raises(Failed, match="died while starting"):
        work.work()


def test_a_failed_job_lets_the_others_finish():
    failure = Failed("diverged")
    jobs, _, _, work = crew(lambda seed: [Raised(failure, "")] if seed == 0 else [100])
    assert work.work() == [((jobs[0],), failure)]
    assert [job.finished for job in jobs] == [0, 1, 1, 1]


def test_any_other_error_stops_everything():
    jobs, _, pool, work = crew(lambda seed: [Raised(MissingData("no data"), "the worker's traceback")])
    with pytest.raises(MissingData, match="no data") as caught:
        work.work()
    assert "the worker's traceback" in str(caught.value.__cause__)
    assert not any(job.finished for job in jobs)
    assert all(worker.stopped for worker in pool.started)


def test_local_workers_share_out_gpus_and_threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    devices = {name: [t._device for t in LocalPool(4, None, name)._servers] for name in ("auto", "cuda:1", "cpu")}
    assert devices["auto"] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices["cuda:1"] == ["cuda:1"] * 4
    assert devices["cpu"] == ["cpu"] * 4
    assert [LocalPool(size, None, "cpu")._servers[0]._threads for size in (1, 2, 4, 9)] == [5, 2, 1, 1]


def test_a_worker_loads_the_data_of_a_recipe_once(monkeypatch):
    built = []

    @dataclass(frozen=True)
    class Toy:
        name: str

        def build(self, data_root, device):
            built.append(self.name)
            return self

    monkeypatch.setattr(
        zoo.training.workers, "train_together", lambda config, task, jobs, states, done: iter([(0, 100)])
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    trainer = Trainer(None, "cpu", 1)
    for name in ("a", "a", "b", "b", "a"):
        assert list(trainer.messages(Work(Toy(name), None, (Job(0, "train", 0),), (None,), frozenset()))) == [
            (0, 100),
            Idle(),
        ]
    assert built == ["a", "b", "a"]
