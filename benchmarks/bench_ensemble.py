"""Training the networks of many binary tasks at once, against a plain script for each task.

CNN (s) and CNN (m) on CIFAR-10 (`--data-root`, or RPG_DATA); without it, on random images of that shape. The plain
script has its own DataLoader, which decodes every image when asked for it, augments and standardises each batch, and
trains with torch.optim.AdamW. Each side is a fresh process with one thread; starting it does not count. Decoding the
data set beforehand, as the ensemble does, is charged to it as a share of 1022 tasks. Goal: 3 times the networks per
minute. Both sides must train the same weights.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from bench_evaluate import random_cifar10
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from harness import Bench, Timing, arguments
from zoo.conditions import all_conditions, bits
from zoo.data.augment import random_flip
from zoo.data.images import STATISTICS, standardize
from zoo.data.loading import epochs
from zoo.networks.classifiers import create_network
from zoo.seeds import cpu_seed
from zoo.tasks import binary
from zoo.training.collect import Checkpoint, CollectConfig, Job, jobs
from zoo.training.malloc import keep_freed_memory
from zoo.training.together import train_together

TASKS = 1022  # which share the data
SAME = 0.02  # distance between the weights of both sides, as a share of how far training has moved them


@dataclass(frozen=True)
class Case:
    """What both sides train."""

    model: str
    data: Path
    networks: int
    steps: int
    batch_size: int
    index: Path
    device: str

    def task(self) -> binary.BinaryTask:
        config = binary.Config(
            name="binary", model=self.model, data="cifar10", augment="flip", validation=0.02, focal=0
        )
        return config.build(self.data, torch.device(self.device))

    def config(self) -> CollectConfig:
        numbers = torch.linspace(0, TASKS - 1, self.networks).long().tolist()
        return CollectConfig(
            init="shared",
            optimizer="adamw",
            learning_rate=1e-3,
            save_learning_rate=1e-3,
            weight_decay=1e-2,
            epochs=0,
            checkpoints=1,
            save_every=self.steps,
            batch_size=self.batch_size,
            conditions=tuple(all_conditions()[number] for number in numbers),
        )


Side = tuple[float, float, list[dict[str, Tensor]]]
"""Seconds to get ready, seconds to train, weights."""


def ensemble(case: Case) -> Side:
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.perf_counter()
    task, config = case.task(), case.config()
    chosen = jobs(config, task.conditions)
    ready = time.perf_counter()
    events = list(train_together(config, task, chosen, [None] * len(chosen), ()))
    done = time.perf_counter()
    found = {number: event.tensors for number, event in events if isinstance(event, Checkpoint)}
    weights = [{name: tensor.cpu() for name, tensor in found[number].items()} for number in range(len(chosen))]
    return ready - start, done - ready, weights


class Encoded(Dataset[tuple[Tensor, int]]):
    """The training images of CIFAR-10 as its files have them."""

    def __init__(self, data: Path) -> None:
        files = sorted((data / "cifar10" / "plain_text").glob("train-*.parquet"))
        tables = [pyarrow.parquet.read_table(file, columns=["img", "label"]) for file in files]
        self.images = [row["bytes"] for table in tables for row in table["img"].to_pylist()]
        self.labels = [label for table in tables for label in table["label"].to_pylist()]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(io.BytesIO(self.images[index])).convert("RGB")
        return pil_to_tensor(image), self.labels[index]


def plain(case: Case) -> Side:
    torch.set_num_threads(1)
    start = time.perf_counter()
    encoded = Encoded(case.data)
    index = torch.load(case.index, weights_only=True)
    chosen = jobs(case.config(), all_conditions())
    ready = time.perf_counter()
    weights = [plain_script(case, encoded, index, job) for job in chosen]
    return ready - start, time.perf_counter() - ready, weights


def plain_script(case: Case, encoded: Encoded, index: Tensor, job: Job) -> dict[str, Tensor]:
    model: Any = create_network(case.model, 2, 3, job.start).to(case.device)
    model.train()
    config = case.config()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    per_epoch = -(-len(index) // case.batch_size)
    plan = epochs(index, per_epoch, job.seed, 0)
    draws = [next(plan) for _ in range(case.steps)]
    loader = DataLoader(encoded, batch_sampler=[part.tolist() for _, _, part in draws])
    labels = bits(str(job.condition)).long()
    for (epoch, step, _), (images, classes) in zip(draws, loader, strict=True):
        with cpu_seed(job.seed, "augment", epoch, step):  # the same draws, for the same weights
            images = random_flip(images)
        pixels, targets = standardize(images, *STATISTICS["cifar10"]).to(case.device), labels[classes].to(case.device)
        loss = torch.nn.functional.cross_entropy(model(pixels), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in weights.values()])


def in_fresh_process(side: Callable[[Case], Side], case: Case) -> Side:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(side, case).result()


def bench(report: Bench, case: Case, rounds: int) -> None:
    plain_s, ensemble_s, ready_s = [], [], []
    for _ in range(rounds):
        _, seconds, expected = in_fresh_process(plain, case)
        plain_s.append(seconds / case.networks)
        ready, seconds, found = in_fresh_process(ensemble, case)
        ready_s.append(ready)
        ensemble_s.append(seconds / case.networks + ready / TASKS)
        start = flat(create_network(case.model, 2, 3, case.config().seed).state_dict())
        apart = max(
            float((flat(one) - flat(other)).norm() / (flat(other) - start).norm())
            for one, other in zip(found, expected, strict=True)
        )
        # Adam steps as far for gradients that are rounding errors, so that single weights may differ by a step.
        same = apart < SAME
        report.check(f"{case.model}: both sides train the same weights (within {SAME:.0%} of their way)", same)
    alone, together = Timing(tuple(plain_s)), Timing(tuple(ensemble_s))
    report.row(
        model=case.model,
        networks=case.networks,
        images_each=case.steps * case.batch_size,
        plain_per_minute=60 / alone.median,
        ensemble_per_minute=60 / together.median,
        speedup=together.speedup_over(alone),
        decoding_s=Timing(tuple(ready_s)).median,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("RPG_DATA"), help="where CIFAR-10 is")
    options = parser.parse_args()
    report = Bench("ensemble", options)
    models, networks, steps, rounds = (
        (("cnn_small",), 2, 2, 1) if report.quick else (("cnn_small", "cnn_medium"), 8, 16, 2)
    )
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = Path(options.data_root) if options.data_root else place
        if options.data_root is None:
            random_cifar10(place, 600 if report.quick else 50_000)
        for model in models:
            case = Case(model, data, networks, steps, 128, place / f"{model}.pt", str(report.device))
            torch.save(case.task().train_index, case.index)
            bench(report, case, rounds)
    report.finish(data="CIFAR-10" if options.data_root else "random images", load_before=load)


if __name__ == "__main__":
    main()
