"""Which samples each training batch takes; reading them in worker processes, and keeping what was read.

Shape suffixes: B samples of a batch.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.errors import Corrupt
from zoo.seeds import generator
from zoo.tasks.base import Batch

log = logging.getLogger(__name__)

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
    return min(usable_cores(), MAX_WORKERS)


def usable_cores() -> int:
    """How many cores this process may use; all of the machine where the system does not say (macOS, Windows)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


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


class KeptBatches:
    """Batches that are read once for many networks: the first whole pass keeps the images in a temporary file without a
    name, memory-mapped, from which later passes take them. Where that file would fill more than half of what is free,
    a line is logged and every pass reads anew.

    `read` gives images uint8 (B, ...) and labels (B,); `size` is how many bytes all images have.
    """

    def __init__(self, read: Callable[[], Iterable[Batch]], size: int) -> None:
        self._read = read
        self._size = size
        self._kept: list[Batch] | None = None
        self._keep = True

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if self._keep and 2 * self._size > free:
            self._give_up(f"{free / 2**30:.1f} GiB are free")
        return self._first() if self._keep else iter(self._read())

    def _first(self) -> Iterator[Batch]:
        """A pass that keeps what it reads; only a pass to the end counts."""
        kept: list[tuple[torch.Size, Tensor]] = []
        with tempfile.TemporaryFile(buffering=0) as file:  # a buffer would be written, and fail, once more at the end
            for images, labels in self._read():
                if self._keep:
                    try:
                        _append(file, images)
                    except OSError as error:  # others have filled the disk meanwhile
                        self._give_up(str(error))
                    # A worker's own tensor keeps a file open for as long as it is kept.
                    kept.append((images.shape, labels.clone()))
                yield images, labels
            if self._keep:
                try:
                    self._kept = _mapped(file, kept)
                except OSError as error:
                    self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self._keep = False
        log.warning(
            f"{tempfile.gettempdir()} has no room for {self._size / 2**30:.1f} GiB of decoded images ({reason}), so "
            "they are decoded again for each network; TMPDIR names another place"
        )


def _append(file: IO[bytes], images: Tensor) -> None:
    data = images.contiguous().view(-1).numpy().data
    while len(data):
        data = data[file.write(data) :]


def _mapped(file: IO[bytes], kept: Sequence[tuple[torch.Size, Tensor]]) -> list[Batch]:
    """The images in the file, of these shapes, uint8, and their labels. They share one map of it, which keeps the file:
    each map has a file open, and there are more batches than a process may have files.
    """
    if not kept:
        return []
    # Copy on write: torch wants memory that it may write to, and the file stays as it is.
    pixels = torch.from_numpy(np.memmap(file, np.uint8, "c"))
    parts = pixels.split([shape.numel() for shape, _ in kept])
    return [(part.view(shape), labels) for part, (shape, labels) in zip(parts, kept, strict=True)]
