"""The stage that aligns: an aligned zoo, and what that is worth, measured on the task's test data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.console import pick_device, say
from zoo.derive.align import align, read_alignment, unalign
from zoo.derive.alignment import AlignConfig, check_reference
from zoo.derive.on_images import images_of, measure_of, record_of
from zoo.derive.worth import Pair, Worth, read_worth, table, worth, write_worth
from zoo.errors import MissingData, MissingExtra
from zoo.listing import derived_place, describe
from zoo.recipe import task_of, validate
from zoo.store import Zoo
from zoo.symmetry.specification import Specification
from zoo.tasks.base import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aligned:
    """An aligned zoo, and what that is worth where there are two runs to align."""

    zoo: Zoo
    worth: Worth | None

    def text(self) -> str:
        """For people."""
        made = f"{len(self.zoo.entries)} checkpoints in {self.zoo.path}"
        return f"{table(self.worth)}\n\n{made}" if self.worth else made

    def to_json(self) -> dict[str, object]:
        return describe(self.zoo) | {"worth": self.worth and self.worth.model_dump(mode="json")}


@dataclass(frozen=True)
class Aligning:
    """What `rpg-zoo align` does, before it is done. With `measure` accuracies are measured, too."""

    zoo: Zoo
    config: AlignConfig
    path: Path
    scores: Path
    command: tuple[str, ...]
    data_root: Path | None = None
    device: str = "auto"
    measure: bool = True

    @cached_property
    def _task(self) -> Task:
        return task_of(self.zoo.manifest.origin).build(self.data_root, pick_device(self.device))

    @cached_property
    def _specification(self) -> Specification:
        return known_symmetries(self.zoo)

    def check(self) -> None:
        """Raise ValueError for what can be seen without data to be impossible."""
        pick_device(self.device)
        check_reference(self.config, self.zoo)
        self._specification.check(self.zoo.structure)

    def carry_out(self) -> Aligned:
        """Align, or continue, into `path`; what it is worth goes into `scores`, and is measured once.

        Raises ValueError when nobody knows what the networks do or which symmetries they have, and for what their task
        does not allow; MissingData when data are wanted to match or refine by, and are not there.
        """
        self.check()
        config, seed = self.config, self.config.seed
        origin, specification = self.zoo.manifest.origin, self._specification
        record = None if config.match == "weights" else record_of(self.zoo, self._task, specification, seed)
        images = None if config.refine is None else images_of(self.zoo, self._task, seed)
        origin = origin.model_copy(update={"command": self.command})
        made = align(config, self.zoo, specification, origin, self.path, record, images)
        return Aligned(made, self._worth(made))

    def _worth(self, made: Zoo) -> Worth | None:
        about = read_alignment(made)
        if not about.shares:  # checkpoints of one run move together
            log.warning("%s has networks of one run to train on: there is nothing to align them with", self.zoo.path)
            return None
        measure, protocol = None, None
        if self.measure:
            try:
                measure, protocol = measure_of(self.zoo, self._task), self._task.protocol
            except (ValueError, MissingData, MissingExtra) as error:
                log.warning("accuracies of averages are not measured: %s", error)
        known = read_worth(self.scores, made)
        if known is None or (measure is not None and known.protocol != protocol):
            objective = Pair(raw=about.before, aligned=about.shares[-1])
            known = worth(self.zoo, made, objective, measure, protocol)
            write_worth(self.scores, known)
        return known


def known_symmetries(zoo: Zoo) -> Specification:
    """The specification of a zoo's networks. Raises ValueError, saying what to do, where there is none."""
    from zoo.symmetry.architectures import unknown_because  # which imports networks

    origin = zoo.manifest.origin
    config = task_of(origin)
    specification = config.symmetries()
    if specification is None:
        raise ValueError(
            f"the symmetries of the networks of {zoo.path} ({origin.name}) are not known: {unknown_because(config)}; "
            "expected image classifiers that torch.export can trace (no branch may depend on data), adapters, or a "
            "task of your own that says TaskConfig.symmetries; any method learns the zoo as it is"
        )
    return specification


def plan_alignment(
    zoo: Zoo,
    settings: dict[str, Any],
    command: tuple[str, ...],
    path: Path,
    **where: Any,
) -> Aligning:
    """`settings` are those of AlignConfig, `refine` the number of steps or 0. Raises ValueError for others."""
    steps = settings.get("refine")
    config = validate(AlignConfig, settings | {"refine": {"steps": steps} if steps else None}, "")
    if config.refine is not None and config.to != "universe":
        raise ValueError(f"--refine lowers the loss of means of all networks; expected --to universe, got {config.to}")
    return Aligning(zoo, config, path, Path("scores") / path.name, command, **where)


def carry_out(
    place: str,
    settings: dict[str, Any],
    command: tuple[str, ...],
    out: Path | None,
    undo: bool,
    dry_run: bool,
    where: dict[str, Any],
) -> tuple[dict[str, object], str]:
    """What `rpg-zoo align` does and prints, as JSON and for people."""
    zoo = Zoo.open(place)
    target = derived_place(place, zoo, "original" if undo else "aligned", out)
    if undo:
        read_alignment(zoo)
        usual = {**AlignConfig().model_dump(), "refine": 0}
        if ignored := [f"--{name}" for name, value in settings.items() if value != usual[name]]:
            say(f"{', '.join(ignored)} ignored: --undo takes back what was done")
    else:
        plan = plan_alignment(zoo, settings, command, target, **where)
        plan.check()
    if dry_run:
        what = "undo the alignment of" if undo else "align"
        about: dict[str, object] = {"out": str(target), **({} if undo else settings)}
        return about, f"would {what} {len(zoo.entries)} networks into {target}"
    if undo:
        made = unalign(zoo, zoo.manifest.origin.model_copy(update={"command": command}), target)
        return describe(made), f"{len(made.entries)} checkpoints in {target}"
    found = plan.carry_out()
    return found.to_json(), found.text()
