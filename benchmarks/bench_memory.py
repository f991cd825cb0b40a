"""Peak memory of `rpg train` for zoos of 5, 50 and 500 checkpoints of one network of a million values, and of a
comparison by weights (`rpg report`) for 5, 50 and 200 of four million: it stays flat.

Each size is a process of its own: it opens the zoo, then fits the layout, writes the tokens, and trains a small
generator for a few steps; or sums the distances of 10 other networks to all of them, and of all to one another. Its
resident memory (Linux) has two parts, reported apart:

- anonymous memory is what the process has allocated, before (imports alone) and at its peak. The growth between them
  must not depend on the zoo: goal, within 10% for training, below 64 MB for a comparison, which holds pieces of the
  networks and a few numbers for every pair of them.
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

from harness import Bench, Memory, arguments, watch
from rpg.api import Training
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.rpg.config import GenerateConfig, GeneratorConfig, RPGConfig, TrainConfig
from rpg.methods.rpg.learnt import Learnt
from rpg.reports.compare import Candidate, Comparison, compare
from rpg.run import Run
from zoo.manifest import Origin, settings_of
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="benchmark", kind="collected", task={"name": "none"}, command=("bench",), versions={})
CONFIG = RPGConfig(
    name="rpg",
    generator=GeneratorConfig(token_size=2048, d_model=512, channels=(1, 8, 1)),
    train=TrainConfig(batch_size=2, diffusion_batch=64, steps=5, precision="float32"),
)
LAYERS, WIDTH = 16, 250  # a network of a million values
COMPARED_WIDTH = 500  # of four million
CANDIDATES = 10


def make_zoo(path: Path, count: int, width: int, seed: int = 0) -> Zoo:
    rng = generator(seed, "bench_memory")
    structure = None
    for index in range(count):
        weights = {f"{i}.weight": torch.randn(width, width, generator=rng).bfloat16() for i in range(LAYERS)}
        weights["running_var"] = torch.rand(width, generator=rng)
        if structure is None:
            structure = Structure.of(weights)
            writer = ZooWriter(path, ORIGIN, structure)
        writer.add(f"net-{index:04d}", weights, seed=index, split="train")
    return writer.finish()


def train_some(path: Path, count: int, out: Path, device: torch.device) -> float:
    """What is watched; returns its seconds."""
    start = time.perf_counter()
    zoo = Zoo.open(path)
    data = TrainingSet(zoo, "train", zoo.entries[:count])
    settings = {"split": "train", "method": settings_of(CONFIG)}
    origin = ORIGIN.model_copy(update={"kind": "trained", "settings": settings, "parents": (zoo.sha256,)})
    Training(CONFIG, GenerateConfig(), data, origin, out, Machine(device)).carry_out()
    return time.perf_counter() - start


def compare_some(path: Path, candidates: Path, count: int, out: Path) -> tuple[float, Comparison]:
    """What is watched; returns its seconds and what it found."""
    start = time.perf_counter()
    zoo = Zoo.open(path)
    zoo = Zoo(path, zoo.manifest.model_copy(update={"entries": zoo.entries[:count]}), zoo.sha256)
    found = compare(zoo, "train", [Candidate("made", Zoo.open(candidates), "generated")], None, out)
    return time.perf_counter() - start, found


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


def expected_distance(zoo: Zoo, candidates: Zoo, count: int) -> float:
    """The distance of the first candidate to its nearest checkpoint, from whole networks."""

    def values(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.double().reshape(-1) for tensor in weights.values()])

    made = values(candidates.load(candidates.entries[0]))
    return min(float((made - values(weights)).norm()) for weights in zoo.checkpoints(zoo.entries[:count]))


class Growths:
    """Rows of the table, whose last column sets the growth beside that of the smallest zoo of the same work."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.first: dict[str, int] = {}

    def row(self, what: str, count: int, zoo: Zoo, before: Memory, peak: Memory, seconds: float) -> None:
        growth = peak.anonymous - before.anonymous
        first = self.first.setdefault(what, growth)
        self.bench.row(
            what=what,
            checkpoints=count,
            zoo_mb=2 * zoo.structure.numel * count / 1e6,
            before_mb=before.anonymous / 1e6,
            peak_mb=peak.anonymous / 1e6,
            growth_mb=growth / 1e6,
            growth_over_first=growth / first,
            file_pages_mb=peak.file / 1e6,
            seconds=seconds,
        )


def bench_training(bench: Bench, folder: Path, growths: Growths) -> None:
    counts = (2, 6) if bench.quick else (5, 50, 500)
    zoo = make_zoo(folder / "zoo", counts[-1], 40 if bench.quick else WIDTH)
    for count in counts:
        run = Run(folder / f"run-{count}")
        before, peak, seconds = watch(train_some, zoo.path, count, run.path, bench.device)
        same = Learnt(run).record().files["tokens.npy"].sha256 == expected_hash(zoo, run, count)
        bench.check(f"{count} checkpoints: the tokens are the encoded checkpoints, a row each", same)
        growths.row("train", count, zoo, before, peak, seconds)


def bench_comparison(bench: Bench, folder: Path, growths: Growths) -> None:
    counts = (2, 6) if bench.quick else (5, 50, 200)
    width = 40 if bench.quick else COMPARED_WIDTH
    zoo, made = make_zoo(folder / "originals", counts[-1], width), make_zoo(folder / "made", CANDIDATES, width, seed=1)
    for count in counts:
        before, peak, (seconds, found) = watch(compare_some, zoo.path, made.path, count, folder / "report")
        expected = expected_distance(zoo, made, count)
        same = abs(found.group("made").nearest[0] / expected - 1) < 1e-9
        bench.check(f"{count} checkpoints: the nearest distance is that of whole networks", same)
        growths.row("compare", count, zoo, before, peak, seconds)


def main() -> None:
    bench = Bench("memory", arguments(__doc__).parse_args())
    growths = Growths(bench)
    for work in (bench_training, bench_comparison):
        with tempfile.TemporaryDirectory() as folder:
            work(bench, Path(folder), growths)
    bench.finish()


if __name__ == "__main__":
    main()
