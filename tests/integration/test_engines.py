"""Collecting in many processes gives the bytes that one process gives, whoever is killed on the way."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forking import Program
from test_cli import Shell

from killing import content
from zoo.console import shown_log
from zoo.recipe import load_recipe
from zoo.training import workers
from zoo.training.collect import Checkpoint, JobRecord, Progress, State
from zoo.training.engines import Plan, collect_all
from zoo.training.together import collect
from zoo.training.workers import LocalPool

TINY = str(Path(__file__).parent / "tiny.yaml")
SEEDS = ["zoo.regime=independent", "zoo.seeds=3", "zoo.checkpoints=2", "zoo.epochs=4", "zoo.save_every=15"]
TASKS = [
    *("task.name=binary", "zoo.checkpoints=1", "zoo.epochs=0", "zoo.init=shared"),
    "zoo.conditions=['0000011111','0100010111','1011101000','1010101000']",
]
TOGETHER = "training 2 networks of seed 0 on the same batches, in turn on cpu"


def plan(path: Path, settings: list[str]) -> Plan:
    recipe = load_recipe(TINY, settings)
    origin = recipe.collected(("x",))
    return Plan(recipe.task, recipe.zoo, origin, path)


def collect_here(path: Path, settings: list[str]) -> dict[str, bytes]:
    one = plan(path, settings)
    collect(one.config, one.task.build(None, torch.device("cpu")), one.origin, path)
    return content(path)


def without_command(files: dict[str, bytes]) -> dict[str, object]:
    """All files, but for the command on record, which is that of the call that began the zoo."""
    manifest = json.loads(files["manifest.json"])
    del manifest["origin"]["command"]
    return files | {"manifest.json": manifest}


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """What one process makes of three seeds."""
    return collect_here(tmp_path_factory.mktemp("whole") / "zoo", SEEDS)


@pytest.fixture
def shell():
    return Shell()


class Pool(LocalPool):
    """A pool that remembers the processes it started."""

    def __init__(self, size: int) -> None:
        super().__init__(size, None, "cpu")
        self.started = []

    def start(self, index):
        self.started.append(super().start(index))
        return self.started[-1]


@pytest.fixture
def recorded(monkeypatch):
    """The events that are recorded, in their order."""
    events, real = [], JobRecord.add

    def add(record, event, bar):
        news = real(record, event, bar)
        if not isinstance(event, Progress):
            events.append((record.job.seed, event))
        return news

    monkeypatch.setattr(JobRecord, "add", add)
    return events


def test_two_workers_make_what_one_process_makes_and_show_it(tmp_path, expected, capfd, monkeypatch):
    monkeypatch.setenv("RPG_NO_PROGRESS", "1")
    single = ["zoo.epochs=1"]
    pool = Pool(2)
    plans = [plan(tmp_path / name, made) for name, made in (("single", single), ("seeds", SEEDS), ("tasks", TASKS))]
    with shown_log():
        zoos = collect_all(plans, pool)
    lines = capfd.readouterr().err.splitlines()
    assert lines.count(TOGETHER) == 2
    told = [line for line in lines if "chance" in line]  # how well they do, and of untrained ones that they do not work
    assert len(lines) == 2 + len(told)
    assert [line for line in told if "tasks" in line]
    assert [len(made.entries) for made in zoos] == [8, 6, 4]
    assert content(tmp_path / "seeds") == expected
    assert content(tmp_path / "single") == collect_here(tmp_path / "here", single)
    assert len(pool.started) == 2
    again = Pool(2)
    collect_all([plan(tmp_path / "seeds", SEEDS)], again)
    assert content(tmp_path / "seeds") == expected
    assert again.started == []


@pytest.fixture
def forked(monkeypatch):
    """Workers are forks of one process that has imported what they need, and not new ones that import it each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["zoo.training.workers", "zoo.tasks.classification", "zoo.networks.classifiers", "sklearn.datasets"]
    )
    monkeypatch.setattr(workers, "get_context", lambda _: context)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("when", [State, pytest.param(Checkpoint, marks=pytest.mark.slow)])
def test_killed_workers_are_replaced_and_nothing_is_done_twice(tmp_path, expected, recorded, monkeypatch, when):
    pool, real = Pool(2), JobRecord.add

    def killing_add(record, event, bar):
        news = real(record, event, bar)
        if isinstance(event, when) and len(pool.started) == 2:
            for worker in pool.started:
                os.kill(worker._process.pid, signal.SIGKILL)
            pool.started.append(None)
        return news

    monkeypatch.setattr(JobRecord, "add", killing_add)
    collect_all([plan(tmp_path / "zoo", SEEDS)], pool)
    assert content(tmp_path / "zoo") == expected
    assert len(pool.started) >= 4
    checkpoints = [event.id for _, event in recorded if isinstance(event, Checkpoint)]
    assert len(checkpoints) == len(set(checkpoints)) == 6
    states = [(seed, int(event.tensors["step"])) for seed, event in recorded if isinstance(event, State)]
    assert len(states) == len(set(states))


@pytest.mark.usefixtures("forked")
def test_workers_report_errors_and_ignored_settings_as_one_process_does(tmp_path, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seeds = "--set zoo.regime=independent --set zoo.seeds=2 --set zoo.checkpoints=1 --set zoo.epochs=1"
    command = f"rpg-zoo collect {TINY} {seeds} --workers 2 --out"
    shell.fails(f"{command} a --set task.model=cnn_medium", 2, "cnn_medium cannot take images")
    shell.fails(f"{command} b --set zoo.learning_rate=1e30", 1, "diverged", "zoo.learning_rate")
    shell.fails(f"{command} c --engine slurm", 2, "no engine named 'slurm'", "local, ray")
    shell.fails(f"{command} d --workers 0", 2, "--workers")
    shell.fails(f"{command} d --device tpu", 2, "--device tpu")
    assert not (tmp_path / "d").exists()
    code, _, err = shell(f"rpg-zoo collect {TINY} --set zoo.epochs=0 --workers 4 --out e")
    assert code == 0
    assert "--workers 4 is ignored beyond 1" in err
    assert [path.parent.name for path in tmp_path.rglob("manifest.json")] == ["e"]


def start(place: Path, *arguments: str) -> Program:
    settings = [part for setting in SEEDS for part in ("--set", setting)]
    command = ["-m", "zoo", "collect", TINY, *arguments, "--out", str(place), *settings]
    return Program(*command, folder=place.parent, apart=True)


def wait_for_entries(place: Path, count: int, program: Program) -> None:
    journal = place / "journal.jsonl"
    while not journal.is_file() or journal.read_bytes().count(b"\n") <= count:
        assert not program.ended(), program.wait()
        time.sleep(0.005)


def assert_group_ends(group: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("processes are left")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_owner_that_goes_takes_its_workers_along_and_can_be_continued(tmp_path, expected, blow):
    place = tmp_path / "zoo"
    owner = start(place, "--workers", "2")
    wait_for_entries(place, 1, owner)
    os.kill(owner.pid, blow) if blow == signal.SIGKILL else os.killpg(owner.pid, blow)
    code, _, errors = owner.wait()
    assert code == (130 if blow == signal.SIGINT else -9), errors
    assert_group_ends(owner.pid)
    assert "Traceback" not in errors
    assert not (place / "manifest.json").exists()
    assert without_command(collect_here(place, SEEDS)) == without_command(expected)


@pytest.mark.slow
def test_workers_show_nothing_where_their_owner_does_not(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("RPG_NO_PROGRESS", "1")
    collect_all([plan(tmp_path / "zoo", TASKS)], Pool(2))
    assert capfd.readouterr().err == ""


def test_several_recipes_go_to_their_own_places(tmp_path, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = shell.json("rpg-zoo collect digits cifar10-cnn-small --out all --dry-run")["zoos"]
    assert [row["out"] for row in planned] == ["all/digits", "all/cifar10-cnn-small"]
    shell.fails("rpg-zoo collect digits digits", 2, "each recipe once")
    made = shell.json(f"rpg-zoo collect {TINY} --set zoo.epochs=0 --out single")
    assert made["zoo"] == "single"
    (tmp_path / "other.yaml").write_text(f"extends: {TINY.removesuffix('.yaml')}\n")
    made = shell.json(f"rpg-zoo collect {TINY} other.yaml --set zoo.epochs=0 --out both")["zoos"]
    assert [(row["zoo"], row["checkpoints"]) for row in made] == [("both/tiny", 8), ("both/other", 8)]


def test_ray_is_an_extra_and_hands_out_gpus_itself(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    shell.fails(f"rpg-zoo collect {TINY} --engine ray --out x", 3, "rpg-zoo[ray]")
    shell.fails(f"rpg-zoo collect {TINY} --engine ray --device cuda:1 --out x", 2, "--device auto")
