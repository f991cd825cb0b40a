"""Scoring many checkpoints in one process: against one process each, and against their forward passes alone.

    OMP_NUM_THREADS=1 RPG_DATA=DIR python benchmarks/bench_evaluate.py [RECIPE...] [--json FILE]

50 networks with random weights on CIFAR-10's 10,000 test images; without RPG_DATA on random images of that shape.
Goals: `rpg eval ZOO` at least 5 times faster than `rpg eval FILE` for each checkpoint (3 of them are run, and scaled
to 50), and scoring within 10% of the forward passes. Both sides must give the same metrics.
"""

from __future__ import annotations

import argparse
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

from zoo.checkpoint import save_tensors
from zoo.console import open_task
from zoo.recipe import load_recipe
from zoo.scoring import score
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure
from zoo.tasks.base import Task

RECIPES = ("cifar10-cnn-small", "cifar10-cnn-medium")
SINGLES = 3  # checkpoints that get a process each
ROUNDS = 5  # scoring and forward passes take turns, so that both see the same load of the machine


def random_cifar10(root: Path) -> None:
    """Random images in the layout of uoft-cs/cifar10: 10,000 to train on and 10,000 to test on."""
    rng = np.random.default_rng(0)
    folder = root / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images = []
        for pixels in rng.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8):
            Image.fromarray(pixels).save(file := io.BytesIO(), "PNG", compress_level=1)
            images.append({"bytes": file.getvalue(), "path": None})
        table = {"img": images, "label": rng.integers(0, 10, 10_000)}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"{split}-00000-of-00001.parquet")


def random_zoo(recipe_name: str, task: Task, count: int, path: Path) -> Zoo:
    origin = load_recipe(recipe_name).origin("collected", ("bench_evaluate",))
    with ZooWriter(path, origin, Structure.of(task.weights(task.build(0)))) as writer:
        for seed in range(count):
            writer.add(f"random-{seed:03d}", task.weights(task.build(seed)), seed=seed, split="train")
        return writer.finish()


def rpg_eval(recipe: str, weights: Path, data: Path, out: Path | None = None) -> tuple[float, dict[str, Any]]:
    """Seconds and metrics by content hash of one `rpg eval` process."""
    code = "from rpg.cli import main; main()"
    command = [sys.executable, "-c", code, "eval", str(weights), "--task", recipe, "--data-root", str(data), "--json"]
    command += ["--device", "cpu"] + (["--out", str(out)] if out else [])
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
        seconds += time.perf_counter() - start
    return seconds


def bench(recipe: str, count: int, data: Path, place: Path) -> dict[str, Any]:
    task: Any = open_task(load_recipe(recipe), data, "cpu")
    zoo = random_zoo(recipe, task, count, place / recipe)
    model = task.build(0)
    task.evaluate(model, "test")  # prepares the batches
    batches = task._evaluation_batches["test"]
    forward, scoring = [], []
    for turn in range(ROUNDS):
        entries = zoo.entries[turn::ROUNDS]
        forward.append(forward_seconds(zoo, task, model, entries, batches))
        start = time.perf_counter()
        score(zoo, task, place / f"{recipe}-scores-{turn}", entries)
        scoring.append(time.perf_counter() - start)

    together, many = rpg_eval(recipe, zoo.path, data, place / f"{recipe}-scores")
    singles = []
    for entry in zoo.entries[:SINGLES]:
        file = place / f"{recipe}-{entry.id}.safetensors"
        save_tensors(file, zoo.load(entry))
        seconds, alone = rpg_eval(recipe, file, data)
        assert alone == {entry.sha256: many[entry.sha256]}, "one process each and one for all give different metrics"
        singles.append(seconds)
    return {
        "recipe": recipe,
        "checkpoints": count,
        "images": len(task.images.test),
        "one_process_seconds": together,
        "process_each_seconds": count * statistics.median(singles),
        "process_each_is": f"{count} times the median of {SINGLES}",
        "times_faster": count * statistics.median(singles) / together,
        "forward_seconds": sum(forward),
        "scoring_seconds": sum(scoring),
        "scoring_over_forward": statistics.median(s / f for s, f in zip(scoring, forward, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if not os.environ.get("RPG_DATA"):
            random_cifar10(place)
        data = Path(os.environ.get("RPG_DATA") or place)
        rows = [bench(recipe, arguments.checkpoints, data, place) for recipe in arguments.recipes]
    result = {
        "benchmark": "evaluate",
        "data": "CIFAR-10" if os.environ.get("RPG_DATA") else "random images",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "goals": {"times_faster": 5.0, "scoring_over_forward": 1.1},
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{arguments.checkpoints} checkpoints, {result['data']}, torch {result['torch']}, {result['threads']} thread(s)"
    )
    print(
        f"{'recipe':<22}{'process each*':>14}{'one process':>13}{'times':>8}{'forward':>10}{'scoring':>10}{'ratio':>8}"
    )
    for row in rows:
        print(
            f"{row['recipe']:<22}{row['process_each_seconds']:>12.1f} s{row['one_process_seconds']:>11.1f} s"
            f"{row['times_faster']:>8.1f}{row['forward_seconds']:>8.1f} s{row['scoring_seconds']:>8.1f} s"
            f"{row['scoring_over_forward']:>8.3f}"
        )
    print(f"* {arguments.checkpoints} times the median of {SINGLES} processes. The metrics of both are identical.")


if __name__ == "__main__":
    main()
