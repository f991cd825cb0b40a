"""Steps of tables given to workers that are objects of this process: order, failures, deaths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rpg.reproduce.collected import Collected, Machine
from rpg.reproduce.crew import Alone, Crew, Team, crew_of
from rpg.reproduce.steps import in_order
from zoo.errors import Failed, MissingData
from zoo.training.workers import Died, Idle, Message, Raised


@dataclass(frozen=True)
class Toy:
    """A step that is carried out by writing its name down."""

    name: str
    after: tuple[Any, ...] = ()
    done: bool = False
    stage = "toy"

    @property
    def place(self) -> Path:
        return Path("toys") / self.name

    def needs(self) -> list[Any]:
        return list(self.after)

    def command(self) -> list[str]:
        return ["make", self.name]

    def carry_out(self, machine: Machine) -> None:
        raise AssertionError("by the fakes alone")

    def refuse_another(self, machine: Machine) -> None:
        if self.name == "foreign":
            raise ValueError("toys/foreign holds another toy")


Script = Callable[[Toy], Exception | None]


@dataclass(eq=False)
class FakeWorker:
    pool: FakePool
    messages: list[Message | Died] = field(default_factory=lambda: [Idle()])
    stopped: bool = False

    def give(self, step: Toy) -> None:
        self.pool.given.append(step.name)
        error = self.pool.script(step)
        raised = [] if error is None else [error if isinstance(error, Died) else Raised(error, "where")]
        self.messages = [*raised, Idle()]

    def receive(self) -> Message:
        message = self.messages.pop(0)
        if isinstance(message, Died):
            raise message
        return message

    def stop(self) -> None:
        self.stopped = True


class FakePool:
    def __init__(self, size: int, script: Script = lambda step: None) -> None:
        self.size, self.script = size, script
        self.given: list[str] = []
        self.workers: list[FakeWorker] = []

    def start(self, index: int) -> FakeWorker:
        self.workers.append(FakeWorker(self))
        return self.workers[-1]

    def wait(self, workers: Sequence[Any]) -> Sequence[Any]:
        assert workers
        return [worker for worker in workers if worker.messages][-1:]


A, B = Toy("a"), Toy("b")
AB = Toy("ab", (A, B))
LAST = Toy("last", (AB,))
OTHER = Toy("other")
STEPS: list[Any] = [A, B, AB, LAST, OTHER]


def finish(pool: FakePool, wanted: Sequence[Any] = STEPS) -> dict[Any, str]:
    team = Team(pool, STEPS, Machine())
    try:
        return team.finish(wanted)
    finally:
        team.stop()
        assert all(worker.stopped for worker in pool.workers)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_every_step_is_done_once_after_what_it_needs(size: int) -> None:
    pool = FakePool(size)
    assert finish(pool) == {}
    assert sorted(pool.given) == ["a", "ab", "b", "last", "other"]
    assert {"a", "b"} <= set(pool.given[: pool.given.index("ab")])
    assert pool.given.index("last") > pool.given.index("ab")
    assert len(pool.workers) == min(size, 5)


def test_with_two_workers_two_steps_are_under_way() -> None:
    under_way: list[int] = []
    pool = FakePool(2)

    def script(step: Toy) -> None:
        under_way.append(1 + sum(bool(worker.messages) for worker in pool.workers))

    pool.script = script
    finish(pool)
    assert max(under_way) == 2


def test_what_is_asked_for_is_there_and_more_may_be() -> None:
    pool = FakePool(1)
    team = Team(pool, STEPS, Machine())
    assert team.finish([A]) == {}
    assert pool.given == ["a"]
    assert team.finish([B, AB]) == {}
    assert team.finish([A]) == {}, "which is over"
    assert pool.given == ["a", "b", "ab"]


def test_what_is_there_is_not_done_again() -> None:
    done = Toy("done", done=True)
    steps: list[Any] = [done, Toy("next", (done,))]
    pool = FakePool(2)
    assert Team(pool, steps, Machine()).finish(steps) == {}
    assert pool.given == ["next"]


def test_what_is_there_and_was_made_otherwise_is_refused() -> None:
    foreign = Toy("foreign", done=True)
    steps: list[Any] = [A, foreign, Toy("next", (foreign,)), OTHER]
    pool = FakePool(1)
    team = Team(pool, steps, Machine())
    assert team.finish([A, OTHER]) == {}
    with pytest.raises(ValueError, match="holds another toy"):
        team.finish(steps)
    assert pool.given == ["a", "other"]
    with pytest.raises(ValueError, match="holds another toy"):
        Alone(Machine()).finish([foreign])


def test_a_failure_stops_what_needs_it_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(2, lambda step: Failed("it\ndiverged") if step is A else None)
    assert finish(pool) == dict.fromkeys([A, AB, LAST], "it diverged")
    assert sorted(pool.given) == ["a", "b", "other"]
    assert "toys/a: it diverged" in caplog.text


def test_missing_data_are_raised_for_those_that_need_them() -> None:
    pool = FakePool(2, lambda step: MissingData("no images") if step is B else None)
    team = Team(pool, STEPS, Machine())
    assert team.finish([A, OTHER]) == {}
    for wanted in ([A, B, AB], [LAST]):
        with pytest.raises(MissingData, match="no images"):
            team.finish(wanted)
    assert "ab" not in pool.given


def test_a_bug_ends_the_work_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        finish(FakePool(2, lambda step: ZeroDivisionError("a bug") if step is B else None))
    assert "where" in str(caught.value.__cause__)


def test_a_step_whose_worker_dies_goes_to_another() -> None:
    deaths = iter([Died("exit code -9"), Died("exit code -9"), None])
    pool = FakePool(2, lambda step: next(deaths) if step is A else None)
    assert finish(pool) == {}
    assert pool.given.count("a") == 3
    assert len(pool.workers) == 4


def test_a_step_that_kills_its_workers_fails() -> None:
    pool = FakePool(2, lambda step: Died("exit code -9") if step is A else None)
    failed = finish(pool)
    assert set(failed) == {A, AB, LAST}
    assert failed[A].startswith("3 workers in a row died (exit code -9)")
    assert sorted(set(pool.given)) == ["a", "b", "other"]


def test_alone_does_the_same(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def carry_out(step: Toy, machine: Machine) -> None:
        if step is A:
            raise Failed("it\ndiverged")
        made.append(step.name)

    monkeypatch.setattr(Toy, "carry_out", carry_out)
    crew: Crew = Alone(Machine())
    assert crew.finish(STEPS) == dict.fromkeys([A, AB, LAST], "it diverged")
    assert made == ["b", "other"]


def test_an_engine_that_does_not_exist_is_refused() -> None:
    steps = in_order([Collected("digits")])
    with (
        pytest.raises(ValueError, match="no engine named 'rey'; did you mean ray"),
        crew_of(Machine(engine="rey"), steps),
    ):
        pass
    with crew_of(Machine(workers=1), steps) as crew:
        assert isinstance(crew, Alone)
