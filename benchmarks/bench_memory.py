"""Peak memory of `rpg train` for zoos of 5, 50 and 500 checkpoints of one network of a million values: it stays flat.

Each size is a process of its own: it opens the zoo, then fits the layout, writes the tokens, and trains a small
generator for a few steps. Its resident memory (Linux) has two parts, reported apart:

- anonymous memory is what the process has allocated, before (imports alone) and at its peak. The growth between them
  must not depend on the zoo: goal, within 10%.
- mapped file pages are the system's own cache of checkpoints, tokens and libraries, counted to whoever maps them. They
  need no room of their own: the system drops them when a program asks for memory.

Weights are bfloat16, so that 500 checkpoints with their tokens fit on 3 GB of disk; they are deleted at the end.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from harness import Bench, arguments, watch
from rpg.api import Training
from rpg.config import GenerateConfig, GeneratorConfig, RPGConfig, TrainConfig
from rpg.learnt import Learnt
from rpg.methods.base import Machine, TrainingSet
from rpg.run import Run
from zoo.manifest import Origin, settings_of
from zoo.seeds import generator
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure

ORIGIN = Origin(name="benchmark", kind="collected", task={"name": "none"}, command=("bench",), versions={})
CONFIG = RPGConfig(
    name="rpg",
    generator=GeneratorConfig(token_size=2048, d_model=512, channels=(1, 8, 1)),
    train=TrainConfig(batch_size=2, diffusion_batch=64, steps=5, precision="float32"),
)
LAYERS, WIDTH = 16, 250  # a network of a million values


def make_zoo(path: Path, count: int, width: int) -> Zoo:
    rng = generator(0, "bench_memory")
    structure = None
    for index in range(count):
        weights = {f"{i}.weight": torch.randn(width, width, generator=rng).bfloat16() for i in range(LAYERS)}
        weights["running_var"] = torch.rand(width, generator=rng)
        if structure is None:
            structure = Structure.of(weights)
            writer = ZooWriter(path, ORIGIN, structure)
        writer.add(f"net-{index:04d}", weights, seed=index, split="train")
    return writer.finish()


def train_some(path: Path, count: int, out: Path) -> float:
    """What is watched; returns its seconds."""
    start = time.perf_counter()
    zoo = Zoo.open(path)
    data = TrainingSet(zoo, "train", zoo.entries[:count])
    settings = {"split": "train", "method": settings_of(CONFIG)}
    origin = ORIGIN.model_copy(update={"kind": "trained", "settings": settings, "parents": (zoo.sha256,)})
    Training(CONFIG, GenerateConfig(), data, origin, out, Machine(torch.device("cpu"))).carry_out()
    return time.perf_counter() - start


def expected_hash(zoo: Zoo, run: Run, count: int) -> str:
    """SHA-256 of the tokens file as numpy would write it, a checkpoint after the other."""
    layout = Learnt(run).layout()
    digest = hashlib.sha256()
    shape = (count, layout.num_tokens, layout.token_size)
    with tempfile.TemporaryFile() as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.seek(0)
        digest.update(file.read())
    for entry in zoo.entries[:count]:
        digest.update(layout.encode(zoo.load(entry)).numpy().data)
    return digest.hexdigest()


def main() -> None:
    bench = Bench("memory", arguments(__doc__).parse_args())
    counts = (2, 6) if bench.quick else (5, 50, 500)
    first = 0
    with tempfile.TemporaryDirectory() as folder:
        zoo = make_zoo(Path(folder) / "zoo", counts[-1], 40 if bench.quick else WIDTH)
        for count in counts:
            run = Run(Path(folder) / f"run-{count}")
            before, peak, seconds = watch(train_some, zoo.path, count, run.path)
            same = Learnt(run).record().files["tokens.npy"].sha256 == expected_hash(zoo, run, count)
            bench.check(f"{count} checkpoints: the tokens are the encoded checkpoints, a row each", same)
            growth = peak.anonymous - before.anonymous
            first = first or growth
            bench.row(
                checkpoints=count,
                zoo_mb=2 * zoo.structure.numel * count / 1e6,
                before_mb=before.anonymous / 1e6,
                peak_mb=peak.anonymous / 1e6,
                growth_mb=growth / 1e6,
                growth_over_first=growth / first,
                file_pages_mb=peak.file / 1e6,
                seconds=seconds,
            )
    bench.finish()


if __name__ == "__main__":
    main()
