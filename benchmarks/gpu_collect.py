"""Collecting `cifar10-resnet18` for a few epochs: images per second, on the data set (`--data-root`, or RPG_DATA) or on
random images of its shape, which the record then says.

One epoch is collected twice, of which the first loads libraries and kernels, then a few, from random weights, with two
checkpoints each. `epoch_s` is what a further epoch took: what begins and ends a collection does not count in it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bench_evaluate import random_cifar10

import zoo
from harness import Bench, arguments
from rpg.devices import GB
from zoo import cuda
from zoo.store import Zoo

RECIPE = "cifar10-resnet18"
TRAINED, RANDOM, QUICK = 50_000, 20_000, 40  # images: of CIFAR-10; random ones, and in small
EPOCHS = 3


def collect(bench: Bench, place: Path, data: Path, epochs: int) -> tuple[Zoo, float]:
    """The zoo, and the seconds that it took."""
    small = ["task.image_size=32", "zoo.batch_size=10"] if bench.quick else []
    changed = ["task.pretrained=false", f"zoo.epochs={epochs}", "zoo.checkpoints=2", "zoo.save_every=1", *small]
    start = time.perf_counter()
    made = zoo.collect(RECIPE, out=place, overrides=changed, data_root=data, device=str(bench.device))
    return made, time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RPG_DATA"), help="where CIFAR-10 is")
    options = parser.parse_args()
    bench = Bench("gpu_collect", options)
    with tempfile.TemporaryDirectory() as folder:
        place, real = Path(folder), bool(options.data_root and (Path(options.data_root) / "cifar10").is_dir())
        data = Path(options.data_root) if real else place
        trained = TRAINED if real else QUICK if bench.quick else RANDOM
        if not real:
            random_cifar10(place, trained, trained // 10)
        zoos, seconds = [], []
        for number, epochs in enumerate((1, 1, EPOCHS)):
            cuda.reset_peak(bench.device)
            made, taken = collect(bench, place / f"zoo-{number}", data, epochs)
            peak = cuda.peak(bench.device)
            zoos.append(made)
            seconds.append(taken)
            epoch = (taken - seconds[1]) / (epochs - 1) if epochs > 1 else None
            bench.row(
                recipe=RECIPE,
                images="CIFAR-10" if real else "random",
                trained_on=trained,
                epochs=epochs,
                cold=number == 0,
                seconds=taken,
                epoch_s=epoch,
                images_per_s=trained / epoch if epoch else None,
                memory_gb=None if peak is None else peak / GB,
            )
            bench.save(synthetic=not real)
        weights = [list(made.load(made.entries[-1]).values()) for made in zoos]
        same = [all(a.equal(b) for a, b in zip(weights[1], other, strict=True)) for other in (weights[0], weights[2])]
        bench.check("more epochs give other weights", not same[1])
    bench.finish(synthetic=not real, once_more_the_same=same[0])


if __name__ == "__main__":
    main()
