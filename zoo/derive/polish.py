"""A little training for networks that are there already: what a few steps on training images make of them.

A generated network that a twentieth of a training brings to the originals' accuracy has spared the other nineteen. The
same steps from random starts say what they are worth by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, JsonValue, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.console import pick_device
from zoo.errors import Failed
from zoo.health import report_health
from zoo.manifest import Entry, Origin, changed, settings_of
from zoo.progress import Bar, progress
from zoo.recipe import task_of, validate
from zoo.scoring import require_labels
from zoo.seeds import Seed
from zoo.store import Zoo, derivation
from zoo.structure import Frozen
from zoo.tasks.base import Task
from zoo.training.collect import Checkpoint, CollectConfig, Job, Training
from zoo.training.malloc import keep_freed_memory
from zoo.training.together import MOST, MOST_VALUES
from zoo.writer import ZooWriter, refuse_another

LAST_RATE = 0.01  # of the learning rate: what the cosine ends at


class PolishConfig(Frozen):
    """`steps` of the task's own training, on batches of its training data that are the same for all networks, with a
    fresh optimiser; the learning rate falls along a cosine from `learning_rate`, the only one of a single step, to a
    hundredth of that.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: PositiveInt = 125
    seed: Seed = 0


@dataclass(frozen=True)
class Polishing:
    """What `rpg polish` does, before it is done: `origin` (`origin_of`) is that of the zoo that is made, at `path`."""

    zoo: Zoo
    config: PolishConfig
    entries: Sequence[Entry]
    task: Task
    origin: Origin
    path: Path

    def check(self) -> None:
        """Raise ValueError when the place holds something else."""
        refuse_another(self.path, self.origin)

    def carry_out(self) -> Zoo:
        """The zoo of these networks after so many steps, each under its old id and with it as its parent, or the
        continuation of one. Networks that are polished together share their batches; it does not matter which are.
        Raises Failed when a training diverges; networks that are finished are kept.
        """
        steps, together = self.config.steps, max(1, min(MOST, MOST_VALUES // max(self.zoo.structure.numel, 1)))
        with ZooWriter(self.path, self.origin, self.zoo.structure, self.zoo.frozen()) as writer:
            todo = [entry for entry in self.entries if entry.id not in writer.done]
            with progress(f"polishing {self.path}", len(self.entries) * steps) as bar:
                bar.skip((len(self.entries) - len(todo)) * steps)
                for start in range(0, len(todo), together):
                    group = todo[start : start + together]
                    for entry, made in _train(self.config, self.zoo, group, self.task, bar):
                        writer.add(
                            entry.id,
                            made.tensors,
                            seed=entry.seed,
                            split="polished",
                            condition=entry.condition,
                            parents=(entry.sha256,),
                            step=steps,
                            metrics=made.metrics,
                        )
            made_zoo = writer.finish()
        report_health(made_zoo, self.task.chance, "take more --steps, or another --learning-rate")
        return made_zoo


def plan_polish(
    zoo: Zoo,
    settings: Mapping[str, Any],
    path: Path,
    command: tuple[str, ...],
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
) -> Polishing:
    """What polishing the networks of a split (`train`, or the only one there is) would do; `settings` are fields of
    PolishConfig. Raises ValueError for one that does not exist, or when nobody knows what the networks do, MissingData
    when the data are not there.
    """
    config = validate(PolishConfig, settings, "")
    splits = {entry.split for entry in zoo.entries}
    entries = zoo.select(split or (splits.pop() if len(splits) == 1 else "train"))
    own, used = (task_of(zoo.manifest.origin, given) for given in ((), overrides))
    task = used.build(data_root, pick_device(device))
    require_labels(zoo, entries, task)
    return Polishing(zoo, config, entries, task, origin_of(config, zoo, entries, command, changed(own, used)), path)


def origin_of(
    config: PolishConfig,
    zoo: Zoo,
    entries: Sequence[Entry],
    command: tuple[str, ...],
    altered: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Origin:
    """Of these networks after polishing, with settings of the task that are `altered`; setting `after` is what they
    were polished with before. What was generated stays generated, and what was learnt or derived from a zoo stays so:
    reports set it beside that zoo, and what one run made is of one seed.
    """
    before, settings = zoo.manifest.origin, settings_of(config) | ({"task": dict(altered)} if altered else {})
    if "polish" in before.settings:
        settings |= {"after": before.settings["polish"]}
    made_by = derivation(zoo, entries, "polish", settings) | {"command": command}
    if before.source is not None:
        made_by |= {
            "kind": before.kind,
            "parents": (*before.parents, zoo.sha256),
            "source": before.source,
            "settings": {**before.settings, **made_by["settings"]},
        }
    return before.model_copy(update=made_by)


def images_seen(config: PolishConfig) -> int:
    """How many training samples each network sees."""
    return config.steps * config.batch_size


def _train(
    config: PolishConfig, zoo: Zoo, entries: Sequence[Entry], task: Task, bar: Bar
) -> Iterator[tuple[Entry, Checkpoint]]:
    """These networks, trained on the same batches."""
    keep_freed_memory()
    settings, frozen = _as_collected(config, task), zoo.frozen()
    members = []
    for entry in entries:
        job = Job(config.seed, "polished", config.seed, entry.condition)
        members.append(Training(settings, task, job, _state({**frozen, **zoo.load(entry)}), done=()))
    batches = task.batches(config.seed, 0, config.batch_size)
    for _ in range(config.steps):
        batch = next(batches)
        for entry, member in zip(entries, members, strict=True):
            member.begin()
            loss = member.backward(batch)
            try:
                events = list(member.end(loss))
            except Failed as error:
                reason = f"{entry.id} of {zoo.path} diverged: its loss or weights are not finite"
                raise Failed(f"{reason}; lower --learning-rate") from error
            for event in events:
                if isinstance(event, Checkpoint):
                    yield entry, event
            bar.advance(1, f"loss {loss.item():.4f}")


def _as_collected(config: PolishConfig, task: Task) -> CollectConfig:
    """As a training that saves one checkpoint: its last step is the one that saves."""
    return CollectConfig(
        checkpoints=1,
        save_every=1,
        seed=config.seed,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        save_learning_rate=config.learning_rate * (LAST_RATE if config.steps > 1 else 1),
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        epochs=(config.steps - 1) / task.steps_per_epoch(config.batch_size),
    )


def _state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a training starts from that has these weights and has not begun (zoo.training.state)."""
    return {**{f"model.{name}": tensor for name, tensor in weights.items()}, "step": torch.tensor(0)}
