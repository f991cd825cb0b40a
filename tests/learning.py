"""Trains and generates as the Python API does, from settings that a test has at hand instead of a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

import killing
from rpg.api import Training, plan_generation
from rpg.methods.base import DrawConfig, Machine, MethodConfig, TrainingSet
from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from rpg.run import Run
from zoo.manifest import Origin, Source, settings_of
from zoo.store import Zoo


def train(
    config: MethodConfig,
    zoo: Zoo,
    path: Path,
    *,
    split: str = "train",
    trackers: Sequence[str] = (),
    request: DrawConfig | None = None,
) -> Run:
    """A run at `path`, trained on a split of the zoo on the CPU, or continued."""
    source = Source(zoo=zoo.sha256, name=zoo.name, split=split)
    origin = Origin(
        name=zoo.manifest.origin.name,
        kind="trained",
        task=zoo.manifest.origin.task,
        settings={"split": split, "method": settings_of(config)},
        parents=(zoo.sha256,),
        source=source,
        command=("test",),
        versions={},
    )
    data = TrainingSet.of(zoo, split, config.along)
    draw = request or config.draw_config()
    return Training(config, draw, data, origin, path, Machine(torch.device("cpu"), tuple(trackers))).carry_out()


def rpg_config(**sections: object) -> RPGConfig:
    """Settings of RPG out of plain mappings: `generator={...}, train={...}`."""
    return RPGConfig.model_validate({"name": "rpg", **sections}, strict=False)


def content(path: Path) -> dict[str, bytes]:
    """The files of a directory by their paths there, without what making them took, which differs each time."""
    found = killing.content(path)
    for name, data in found.items():
        if name.rpartition("/")[2] in ("manifest.json", "trained.json"):
            found[name] = json.dumps({**json.loads(data), "spent": None}).encode()
    return found


def generate(run: Run, path: Path, request: DrawConfig | None = None) -> Zoo:
    """Networks of a trained run at `path`."""
    asked = request or GenerateConfig()
    return plan_generation(run, asked.model_dump(mode="json"), out=path, device="cpu").carry_out()
