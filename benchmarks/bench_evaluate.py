"""Scoring many checkpoints in one process: against one process each, and against their forward passes alone.

50 networks with random weights on CIFAR-10's 10,000 test images (`--data-root`, or RPG_DATA); without one, on random
images of that shape. Goals: `rpg eval ZOO` at least 5 times faster than `rpg eval FILE` for each checkpoint (3 of them
are run, and scaled), and scoring within 10% of the forward passes. Both sides must give the same metrics.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from harness import Bench, arguments
from zoo import cuda
from zoo.checkpoint import save_tensors
from zoo.recipe import load_recipe
from zoo.scoring import score
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks.base import Task
from zoo.writer import ZooWriter

RECIPES = ("cifar10-cnn-small", "cifar10-cnn-medium")
SINGLES = 3  # checkpoints that get a process each
ROUNDS = 5  # scoring and forward passes take turns, so that both see the same load of the machine


def random_cifar10(root: Path, count: int, tested: int | None = None) -> None:
    """Random images in the layout of uoft-cs/cifar10: `count` to train on, and `tested` to test on (None: as many)."""
    rng = np.random.default_rng(0)
    folder = root / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    for split, number in (("train", count), ("test", count if tested is None else tested)):
        images = []
        for pixels in rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8):
            Image.fromarray(pixels).save(file := io.BytesIO(), "PNG", compress_level=1)
            images.append({"bytes": file.getvalue(), "path": None})
        table = {"img": images, "label": rng.integers(0, 10, number)}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"{split}-00000-of-00001.parquet")


def random_zoo(recipe_name: str, task: Task, count: int, path: Path) -> Zoo:
    origin = load_recipe(recipe_name).collected(("bench_evaluate",))
    with ZooWriter(path, origin, Structure.of(task.weights(task.build(0)))) as writer:
        for seed in range(count):
            writer.add(f"random-{seed:03d}", task.weights(task.build(seed)), seed=seed, split="train")
        return writer.finish()


def rpg_eval(
    recipe: str, weights: Path, data: Path, device: str, out: Path | None = None
) -> tuple[float, dict[str, Any]]:
    """Seconds and metrics by content hash of one `rpg eval` process."""
    code = "from rpg.cli import main; main()"
    command = [sys.executable, "-c", code, "eval", str(weights), "--task", recipe, "--data-root", str(data), "--json"]
    command += ["--device", device] + (["--out", str(out)] if out else [])
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    return seconds, {row["sha256"]: row["metrics"] for row in json.loads(done.stdout)["checkpoints"]}


def forward_seconds(zoo: Zoo, task: Any, model: torch.nn.Module, entries: Any, batches: Any) -> float:
    """The forward passes of these checkpoints over all batches, and nothing else."""
    seconds = 0.0
    for entry in entries:
        task.load(model, zoo.load(entry))
        start = time.perf_counter()
        with torch.no_grad():
            for images, _ in batches:
                model(images)
        cuda.synchronise_all()
        seconds += time.perf_counter() - start
    return seconds


def bench(report: Bench, recipe: str, count: int, data: Path, place: Path) -> None:
    task: Any = load_recipe(recipe).task.build(data, report.device)
    zoo = random_zoo(recipe, task, count, place / recipe)
    model = task.build(0)
    batches = list(task._evaluation("test"))
    forward, scoring = [], []
    for turn in range(min(ROUNDS, count)):
        entries = zoo.entries[turn::ROUNDS]
        forward.append(forward_seconds(zoo, task, model, entries, batches))
        start = time.perf_counter()
        score(zoo, task, place / f"{recipe}-scores-{turn}", entries)
        scoring.append(time.perf_counter() - start)

    together, many = rpg_eval(recipe, zoo.path, data, str(report.device), place / f"{recipe}-scores")
    singles = []
    for entry in zoo.entries[:SINGLES]:
        file = place / f"{recipe}-{entry.id}.safetensors"
        save_tensors(file, zoo.load(entry))
        seconds, alone = rpg_eval(recipe, file, data, str(report.device))
        same = alone == {entry.sha256: many[entry.sha256]}
        report.check(f"{recipe}, {entry.id}: a process of its own gives the same metrics", same)
        singles.append(seconds)
    each = count * statistics.median(singles)
    report.row(
        recipe=recipe,
        checkpoints=count,
        images=len(task.images.test_labels),
        process_each_s=each,  # scaled
        one_process_s=together,
        speedup=each / together,
        forward_s=sum(forward),
        scoring_s=sum(scoring),
        scoring_over_forward=statistics.median(s / f for s, f in zip(scoring, forward, strict=True)),
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RPG_DATA"), help="where CIFAR-10 is")
    options = parser.parse_args()
    report = Bench("evaluate", options)
    recipes, count = (RECIPES[:1], 2) if report.quick else (RECIPES, 50)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if options.data_root is None:
            random_cifar10(place, 200 if report.quick else 10_000)
        for recipe in recipes:
            bench(report, recipe, count, options.data_root or place, place)
    report.finish(data="CIFAR-10" if options.data_root else "random images")


if __name__ == "__main__":
    main()
