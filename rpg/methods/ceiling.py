"""The ceiling of a codec: what encoding and decoding networks alone costs, before anything new is made.

Users of autoencoders for weights have searched for weeks for why generated networks fail where it was the autoencoder:
reconstructions of 89% networks scored 10%.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import TypeVar

import torch
from torch import Tensor

from rpg.methods.base import Machine, TrainingSet
from rpg.methods.task_data import data_place
from rpg.methods.vectors import Codec, reconstructed
from rpg.run import Run
from zoo.errors import Corrupt, MissingData, MissingExtra, brief
from zoo.manifest import Entry, Origin
from zoo.recipe import task_of
from zoo.store import Zoo, derivation
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)

T = TypeVar("T")

ENOUGH = 90.0  # percent of the originals' accuracy that a round trip should leave
NETWORKS = 4  # that are looked at after training


def codec_of(run: Run) -> Codec | None:
    """The method of a run, if it encodes and decodes."""
    method = run.method()
    return method if isinstance(method, Codec) and method.encodes else None


def reconstruct(run: Run, codec: Codec, zoo: Zoo, entries: list[Entry], path: Path, device: torch.device) -> Zoo:
    """A zoo at `path`, or the rest of it, of these networks after encoding and decoding, under their own ids."""
    made_by = derivation(zoo, entries, "reconstruct", {"run": run.sha256, "networks": len(entries)})
    origin: Origin = zoo.manifest.origin.model_copy(update=made_by)
    with ZooWriter(path, origin, zoo.structure, zoo.frozen()) as writer:
        todo = [entry for entry in entries if entry.id not in writer.done]
        for entry, weights in zip(todo, reconstructed(codec, run, zoo, todo, device), strict=True):
            writer.add(
                entry.id,
                weights,
                seed=entry.seed,
                split=entry.split,
                step=entry.step,
                condition=entry.condition,
                parents=(entry.sha256,),
            )
        return writer.finish()


def spread_out(networks: list[T], count: int) -> list[T]:
    """At most so many of them, at equal steps."""
    return [networks[k * len(networks) // count] for k in range(count)] if len(networks) > count else networks


def warn_of_codec(run: Run, data: TrainingSet, machine: Machine) -> None:
    """Log a warning when a run's round trip of training networks scores below ENOUGH percent of what they score, on
    validation data. Says nothing of a method that has no codec, or of networks without a task. Data are those where the
    machine has them, or under RPG_DATA, and those that come with a library; nothing is downloaded for this, and where
    they are not at hand it is said that nobody checked.
    """
    codec, zoo = codec_of(run), data.zoo
    if codec is None or not zoo.manifest.origin.task:
        return
    entries = spread_out(list(data.entries), NETWORKS)
    try:
        score, metric = _validation(zoo, machine)
        before = mean(score(entry, zoo.load(entry)) for entry in entries)
    except (ValueError, MissingData, MissingExtra, Corrupt) as error:
        on_hub = isinstance(error, MissingData) and not data_place(machine.data_root)
        why = "the task's data are not on this machine, as far as it was told" if on_hub else brief(error)
        log.info(
            f"{run.path}: what encoding and decoding networks costs was not checked: {why}; `rpg report` of generated "
            "networks shows it, and so does training where --data-root, or RPG_DATA, says where the data are"
        )
        return
    rebuilt = reconstructed(codec, run, zoo, entries, machine.device)
    after = mean(score(entry, weights) for entry, weights in zip(entries, rebuilt, strict=True))
    if 100 * after < ENOUGH * before:
        log.warning(
            f"{run.path}: encoding and decoding {len(entries)} training networks takes {metric} from {before:.2f} to "
            f"{after:.2f} on validation data, and what is generated can hardly be better; give the codec more room "
            "(rank, width) or more steps"
        )


def _validation(zoo: Zoo, machine: Machine) -> tuple[Callable[[Entry, Mapping[str, Tensor]], float], str]:
    """What scores a network of the zoo on validation data by the headline metric, and the metric's name. Raises
    ValueError where none are kept, MissingData, MissingExtra and Corrupt as tasks do, some of them while scoring.
    """
    config = task_of(zoo.manifest.origin)
    if not config.validation:
        raise ValueError("no validation data are kept; set task.validation")
    root = data_place(machine.data_root) or Path(os.devnull)  # without a place, the Hub is asked
    task = config.build(root, machine.device)
    frozen, model = zoo.frozen(), task.build(0)

    def score(entry: Entry, weights: Mapping[str, Tensor]) -> float:
        task.load(model, {**weights, **frozen})
        its = task if entry.condition is None else task.for_condition(entry.condition)
        found = its.evaluate(model, "validation")
        return next(metric.value for metric in found.metrics if metric.name == task.main_metric)

    return score, task.main_metric
