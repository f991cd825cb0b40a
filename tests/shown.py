"""A directory with an artefact of every kind, each of the last two kinds made up, for the tests of the board."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import torch

import rpg
import zoo
from evaluators.metrics import Metric
from made_up import comparison, replaced, task_comparison
from rpg.reports.inputs import networks
from rpg.reports.report import write_report
from rpg.reports.task_report import write_task_report
from zoo.scoring import Score
from zoo.store import Zoo

PROVENANCE = {"command": "rpg report made-up", "date": "2026-01-01 00:00 UTC"}
COUNT = 4


def network(seed: int) -> dict[str, torch.Tensor]:
    """Two layers, a tensor of integers, and one whose name is none for a path."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"first.weight": (24, 10), "first.bias": (24,), "../<b>&?#%2f head": (3, 24)}
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()} | {"seen": torch.tensor(7)}


def make(place: Path) -> Path:
    """Zoo `mine`, run `mine-gaussian` with losses, run `other`, zoo `mine-gaussian-generated`, its scores, reports
    `made-up` (of groups), `mine-gaussian-generated` (the same with another generator, of these networks) and `tasks`.
    """
    originals = zoo.from_state_dicts([network(k) for k in range(COUNT)], "mine", out=place / "zoos" / "mine")
    made = None
    for name, method in (("mine-gaussian", "gaussian"), ("other", "kde")):
        run = rpg.train(originals, method=method, out=place / "runs" / name)
        lines = [{"step": step, "loss": 2.0 / step + len(name) / 100} for step in range(10, 1010, 10)]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made = made or rpg.generate(run, n=2, out=place / "zoos" / "mine-gaussian-generated")
    assert made
    _write_scores(made, place / "scores" / made.name)
    first = replaced(comparison(), "mine", name="generated")
    other = replaced(comparison((95.0, 0.5, 3.0)), "mine", name="generated")
    other = other.model_copy(
        update={
            "inputs": first.inputs | {"generated": networks([made.entries]), "originals": networks([originals.entries])}
        }
    )
    losses = {"generated": [(10, 1.0), (20, 0.5)]}
    write_report(first, losses, PROVENANCE, place / "reports" / "made-up")
    write_report(other, losses, PROVENANCE, place / "reports" / made.name)
    write_task_report(task_comparison(), losses, PROVENANCE, place / "reports" / "tasks")
    return place


def _write_scores(scored: Zoo, place: Path) -> None:
    rng = np.random.default_rng(0)
    place.mkdir(parents=True)
    with (place / "scores.jsonl").open("w") as file:
        for entry in scored.entries:
            right = rng.random(100) < 0.8
            metric = Metric(name="top1", value=100 * float(right.mean()), stderr=4.0, n=100)
            score = Score(
                id=entry.id,
                sha256=entry.sha256,
                evaluator="made-up/1",
                protocol="made-up/test",
                metrics={"top1": metric},
                samples=100,
                correct=base64.b64encode(np.packbits(right).tobytes()).decode(),
                versions={},
            )
            file.write(score.to_json() + "\n")
