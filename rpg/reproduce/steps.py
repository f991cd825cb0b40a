"""What a cell of a table takes: zoos, runs, scores, reports, each a step with a place of its own.

Steps are values: two cells that need the same zoo have equal steps, so tables share what they make. A step's place
follows from its settings, and is the usual one (zoos/<recipe>) where nothing is overridden. Each is carried out by the
stage's own function (zoo.api, rpg.api), which continues what was interrupted and refuses another's place.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from rpg.api import Generation, Training, estimate_recipe, load, plan_generation, plan_training
from rpg.devices import Device
from rpg.reports.inputs import REPORT, REPORT_BYTES, discard, networks
from rpg.reports.stage import plan_report
from rpg.reproduce.collected import (
    COMMAND,
    FLOAT_BYTES,
    Collected,
    Cost,
    InZoos,
    Machine,
    recipe_of,
    sets,
    tag,
    values_of,
)
from rpg.reproduce.derived import Aligned, Noised, Swapped
from rpg.run import Run
from zoo import api
from zoo.console import pick_device
from zoo.errors import MissingData
from zoo.files import parse_json, read_limited, write_bytes
from zoo.manifest import MANIFEST_BYTES
from zoo.names import short_name
from zoo.recipe import task_of
from zoo.scoring import read_scores, scores_among
from zoo.store import Zoo

UNDER = "protocol.json"  # beside scores: the evaluator and protocol of those that a step made
STATE_COPIES = 3  # of the generator's weights on disk while it trains: they and two moments


@dataclass(frozen=True)
class Trained:
    """A run; `overrides` are of the section method:, `method` other settings than the recipe's own."""

    stage: ClassVar[str] = "train"
    zoo: Collected
    method: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        method = f"-{short_name(self.method)}" if self.method else ""
        return f"{self.zoo.name}{method}{tag(self.overrides)}"

    @property
    def place(self) -> Path:
        return Path("runs") / self.name

    @property
    def done(self) -> bool:
        return Run(self.place).trained

    def needs(self) -> list[Step]:
        return [self.zoo]

    @property
    def all_overrides(self) -> tuple[str, ...]:
        return (*self.zoo.overrides, *self.overrides)

    def command(self) -> list[str]:
        method = ["--method", self.method] if self.method else []
        words = ["rpg", "train", self.zoo.recipe, *method, *sets(self.all_overrides)]
        return [*words, "--zoo", str(self.zoo.place), "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        self._plan(machine).carry_out()

    def refuse_another(self, machine: Machine) -> None:
        """Raise ValueError where the run was trained otherwise, or on another zoo than is there now."""
        self._plan(machine)

    def _plan(self, machine: Machine) -> Training:
        return plan_training(
            self.zoo.recipe,
            self.method,
            zoo=self.zoo.place,
            out=self.place,
            overrides=self.all_overrides,
            data_root=machine.data_root,
            device=machine.device,
            command=COMMAND,
        )

    def figures(self, device: Device) -> dict[str, Any]:
        """What `rpg estimate` says."""
        return _figures(self, device)

    def cost(self, device: Device) -> Cost:
        """The estimate's hours; on a CPU, where they are far too few, what the recipe says of itself, if that is
        more.
        """
        _, found = estimate_recipe(self.zoo.recipe, self.method, self.all_overrides, device, None)
        about = recipe_of(self.zoo.recipe, self.zoo.overrides).about
        said = about.hours.train if about and not device.cuda and self.method is None else None
        return Cost(max(found.fit_hours, said or 0), self.zoo.bytes + STATE_COPIES * FLOAT_BYTES * found.parameters)


@cache
def _figures(run: Trained, device: Device) -> dict[str, Any]:
    return estimate_recipe(run.zoo.recipe, run.method, run.all_overrides, device, None)[1].figures


@dataclass(frozen=True)
class Drawn(InZoos):
    """A generated zoo. `settings` are of the section generate:, as JSON; `tasks` those to generate for, `all` for every
    one that the run's zoo has.
    """

    stage: ClassVar[str] = "generate"
    run: Trained
    settings: str = "{}"
    tasks: tuple[str, ...] = ()

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.run.name}-generated{tag([self.settings, self.tasks] if self.asked or self.tasks else None)}"

    @property
    def asked(self) -> dict[str, Any]:
        return dict(json.loads(self.settings))

    def needs(self) -> list[Step]:
        return [self.run]

    def command(self) -> list[str]:
        flags = {"n": "-n"} | {key: f"--{key}" for key in self.asked if key != "n"}
        words = [word for key, value in self.asked.items() for word in (flags[key], str(value))]
        tasks = [word for task in self.tasks for word in ("--condition", task)]
        return ["rpg", "generate", str(self.run.place), *words, *tasks, "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        self._plan(machine).carry_out()

    def refuse_another(self, machine: Machine) -> None:
        """Raise ValueError where these networks were drawn otherwise, or from another run than is there now."""
        self._plan(machine)

    def _plan(self, machine: Machine) -> Generation:
        settings, run = self.asked, load(self.run.place)
        if self.tasks == ("all",):
            settings["conditions"] = [c for tasks in run.record().conditions.values() for c in tasks]
        elif self.tasks:
            settings["conditions"] = list(self.tasks)
        return plan_generation(
            run, settings, out=self.place, data_root=machine.data_root, device=machine.device, command=COMMAND
        )

    def cost(self, device: Device) -> Cost:
        recipe = recipe_of(self.run.zoo.recipe, self.run.all_overrides, self.run.method)
        draw: Any = recipe.generate
        count = int(self.asked.get("n", draw.n)) * (self.run.zoo.trainings if "all" in self.tasks else 1)
        count *= 1 if "all" in self.tasks or not self.tasks else len(self.tasks)
        each = self.run.figures(device).get("sampling", {}).get("hours_per_network")
        size = FLOAT_BYTES * count * values_of(self.run.zoo.recipe, self.run.zoo.overrides)
        return Cost(None if each is None else each * count, size)


Networks: TypeAlias = Collected | Drawn | Noised | Swapped


@dataclass(frozen=True)
class Scored:
    """Scores of all networks of a zoo on their task's test data."""

    stage: ClassVar[str] = "score"
    of: Networks

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def place(self) -> Path:
        return Path("scores") / self.name

    @property
    def done(self) -> bool:
        return False  # which of the scores are there is known to the scorer, who makes the missing ones

    @property
    def on_record(self) -> bool:
        """Whether every network has a score. Only with the data is it known whether these are today's."""
        if not self.of.done:
            return False
        entries = Zoo.open(self.of.place).entries
        return len(scores_among(read_scores(self.place), entries, self.under)) == len(entries)

    def refuse_another(self, machine: Machine) -> None:
        """What is there is known to whoever makes it, who refuses what is of other networks."""

    def needs(self) -> list[Step]:
        return [self.of]

    def command(self) -> list[str]:
        return ["rpg-zoo", "score", str(self.of.place), "--out", str(self.place)]

    def carry_out(self, machine: Machine) -> None:
        scores = api.score(self.of.place, out=self.place, data_root=machine.data_root, device=machine.device)
        under = [scores[0].evaluator, scores[0].protocol]
        write_bytes(self.place / UNDER, json.dumps(under).encode())

    @property
    def under(self) -> tuple[str, str] | None:
        """The evaluator and protocol of the scores that this step has made: others may lie beside them, as of another
        precision. None where it has not.
        """
        path = self.place / UNDER
        if not path.is_file():
            return None
        evaluator, protocol = parse_json(read_limited(path, MANIFEST_BYTES), path)
        return evaluator, protocol

    def cost(self, device: Device) -> Cost:
        return Cost(None)


@dataclass(frozen=True)
class Reported:
    """A report on a generated zoo beside its originals and baselines."""

    stage: ClassVar[str] = "report"
    of: Drawn

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def place(self) -> Path:
        return Path("reports") / self.name

    @property
    def done(self) -> bool:
        return False  # whether what is there is of today's networks and data is known to whoever makes it

    @property
    def on_record(self) -> bool:
        """Whether there is a report."""
        return (self.place / REPORT).is_file()

    def refuse_another(self, machine: Machine) -> None:
        """What is there is known to whoever makes it, who refuses what is of other networks or data."""

    def needs(self) -> list[Step]:
        return [self.of.run.zoo, self.of]

    def command(self) -> list[str]:
        originals = ["--originals", str(self.of.run.zoo.place)]
        return ["rpg", "report", str(self.of.place), *originals, "--out", str(self.place)]

    def _is_of_today(self, machine: Machine) -> bool:
        """Whether the report there is of these networks and data, as far as these are at hand."""
        path = self.place / REPORT
        inputs = parse_json(read_limited(path, REPORT_BYTES), path)["inputs"].values()
        task = task_of(Zoo.open(self.of.run.zoo.place).manifest.origin)
        try:
            protocol = task.build(machine.data_root, pick_device(machine.device)).protocol
        except MissingData:
            protocol = None
        return networks([Zoo.open(self.of.place).entries]) in inputs and (protocol is None or protocol in inputs)

    def carry_out(self, machine: Machine) -> None:
        if self.on_record:
            if self._is_of_today(machine):
                return
            discard(self.place)
        plan_report(
            [self.of.place],
            originals=self.of.run.zoo.place,
            out=self.place,
            runs=[str(self.of.run.place)],
            data_root=machine.data_root,
            device=machine.device,
            command=COMMAND,
        ).carry_out()

    def cost(self, device: Device) -> Cost:
        return Cost(None)


Step: TypeAlias = Collected | Trained | Drawn | Noised | Aligned | Swapped | Scored | Reported


def in_order(wanted: Sequence[Step]) -> list[Step]:
    """These steps and all they need, each once, what is needed before what needs it."""

    def walk(step: Step) -> Iterator[Step]:
        for needed in step.needs():
            yield from walk(needed)
        yield step

    return list(dict.fromkeys(step for one in wanted for step in walk(one)))


def require_same(step: Step, machine: Machine) -> None:
    """Raise ValueError where what is there was made otherwise. What stages advise, another --out, is not what helps."""
    try:
        step.refuse_another(machine)
    except ValueError as error:
        raise ValueError(
            f"{str(error).partition('; choose another')[0]}; zoos and runs are made where this is called, "
            "whatever --out: call it in another directory, or remove what is there"
        ) from error


def shown(step: Step) -> str:
    """The command that does what a step does."""
    return shlex.join(step.command())
