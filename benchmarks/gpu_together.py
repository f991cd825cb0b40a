"""Many small networks at once: those of binary tasks by vmap, in one pass, against in turn, on the same batches.

CNN (s) and CNN (m) on random images in the shape of CIFAR-10. `apart` is the largest distance between the weights of
both ways, as a share of how far training has moved them: rounding alone, which Adam makes larger where gradients are
nearly nothing.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench_ensemble import Case, flat
from bench_evaluate import random_cifar10
from torch import Tensor

from harness import Bench, arguments
from rpg.devices import GB
from zoo import cuda
from zoo.networks.classifiers import create_network
from zoo.training.collect import Checkpoint, jobs
from zoo.training.together import train_together

WAYS = {"in turn": False, "by vmap": True}
SAME = 0.1


def train(case: Case, stacked: bool) -> tuple[float, list[Tensor]]:
    """Seconds of training, and the weights of every network."""
    task, config = case.task(), case.config()
    chosen = jobs(config, task.conditions)
    cuda.synchronise_all()
    start = time.perf_counter()
    events = list(train_together(config, task, chosen, [None] * len(chosen), (), stacked))
    cuda.synchronise_all()
    seconds = time.perf_counter() - start
    return seconds, [flat(event.tensors).cpu() for _, event in events if isinstance(event, Checkpoint)]


def compare(bench: Bench, case: Case) -> None:
    """A row for both ways, each warmed up."""
    found, peaks = {}, {}
    for way, stacked in WAYS.items():
        train(case, stacked)
        cuda.reset_peak(bench.device)
        found[way] = train(case, stacked)
        peaks[way] = cuda.peak(bench.device)
    start = flat(create_network(case.model, 2, 3, case.config().seed).state_dict())
    (turn_s, one), (vmap_s, other) = found.values()
    apart = max(float((a - b).norm() / (a - start).norm()) for a, b in zip(one, other, strict=True))
    bench.row(
        model=case.model,
        networks=case.networks,
        steps=case.steps,
        turn_per_minute=60 * case.networks / turn_s,
        vmap_per_minute=60 * case.networks / vmap_s,
        speedup=turn_s / vmap_s,
        turn_gb=None if peaks["in turn"] is None else peaks["in turn"] / GB,
        vmap_gb=None if peaks["by vmap"] is None else peaks["by vmap"] / GB,
        apart=apart,
    )
    bench.save()
    bench.check(f"{case.model}, {case.networks}: both ways train the same weights (within {SAME:.0%})", apart < SAME)


def main() -> None:
    bench = Bench("gpu_together", arguments(__doc__).parse_args())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        random_cifar10(place, 400 if bench.quick else 10_000, 100)
        for model in ("cnn_small",) if bench.quick else ("cnn_small", "cnn_medium"):
            for networks in (2,) if bench.quick else (8, 32):
                steps = 2 if bench.quick else 60
                compare(bench, Case(model, place, networks, steps, 128, place / "index.pt", str(bench.device)))
    bench.finish()


if __name__ == "__main__":
    main()
