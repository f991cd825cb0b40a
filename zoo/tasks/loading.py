"""Which samples each training batch takes, and reading them from their files in worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.errors import Corrupt
from zoo.seeds import generator

PREFETCH = 4  # batches that each worker prepares ahead
MAX_WORKERS = 16

Draw: TypeAlias = tuple[int, int, Tensor]
"""A training batch before it is read: epoch, number within the epoch, sample indices int64 (B,)."""


def epochs(index: Tensor, steps: int, seed: int, first_step: int) -> Iterator[Draw]:
    """The training batches from number `first_step` on, without end, over the samples `index`, int64 (N,).

    Every epoch visits every sample once, in a new order that depends on (seed, epoch) alone. It is cut into `steps`
    batches whose sizes differ by one at most, rather than into full ones and a rest: a rest of one sample would break
    BatchNorm.
    """
    epoch, skip = divmod(first_step, steps)
    while True:
        order = torch.randperm(len(index), generator=generator(seed, "epoch", epoch))
        for step, part in enumerate(index[order].tensor_split(steps)):
            if step >= skip:
                yield epoch, step, part
        epoch, skip = epoch + 1, 0


def keys(plan: Iterable[Draw]) -> Iterator[list[tuple[int, int]]]:
    """The planned batches as keys (epoch, index) of a data set whose draws depend on the key alone."""
    return ([(epoch, i) for i in index.tolist()] for epoch, _, index in plan)


def loader_workers() -> int:
    """One per core, within reason; none where a process may not have children."""
    if multiprocessing.current_process().daemon:
        return 0
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def load(
    dataset: Dataset[Any],
    batches: Iterable[Sequence[Any]],
    workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """The batches of these keys, in their order, read by worker processes; `collate` as torch's DataLoader has it.

    Raises Corrupt where the data set does.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists of keys does
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=collate,
        generator=torch.Generator(),  # so that the global one is left alone
    )
    try:
        yield from loader
    except Corrupt as error:  # from a worker it comes with the worker's traceback
        raise Corrupt(str(error).strip().splitlines()[-1].rpartition("Corrupt: ")[2]) from None
