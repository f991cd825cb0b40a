"""Zoos of networks for handwritten digits, for tests of methods whose tokens are parts of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators.metrics import Metric
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks.classification import ClassificationTask, Config
from zoo.writer import ZooWriter

TASK: dict[str, Any] = {"name": "classification", "model": "cnn_digits", "data": "digits"}


def digits_task() -> ClassificationTask:
    return Config.model_validate(TASK).build(None, torch.device("cpu"))


def digits_networks(count: int) -> list[dict[str, Tensor]]:
    """Networks that all lie near one of two, untrained ones, with statistics of BatchNorm that are not all alike."""
    config, found = Config.model_validate(TASK), []
    for seed in range(count):
        weights = config.network(seed % 2, pretrained=False).state_dict()
        rng = torch.Generator().manual_seed(seed)
        for name, value in weights.items():
            if value.is_floating_point():
                noise = 0.05 * torch.randn(value.shape, generator=rng)
                large = 5 * value if value.ndim > 1 else value  # so that little training tells the two apart
                weights[name] = value * (1 + noise) if name.endswith("running_var") else large + noise
        found.append({name: value.clone() for name, value in weights.items()})
    return found


def digits_zoo(path: Path, count: int = 10, scores: bool = True, task: dict[str, Any] = TASK) -> Zoo:
    """These as a zoo; network k has the validation score 50 + k."""
    networks = digits_networks(count)
    origin = Origin(name="digits", kind="collected", task=task, command=("x",), versions={})
    with ZooWriter(path, origin, Structure.of(networks[0])) as writer:
        for k, weights in enumerate(networks):
            metrics = [Metric("top1", 50.0 + k, 100, 1.0)] if scores else []
            writer.add(f"net-{k:03d}", weights, seed=k, split="train", metrics=metrics)
        return writer.finish()
