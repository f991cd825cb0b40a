"""Plans of batches, and reading them by worker processes."""

from __future__ import annotations

import os
import resource
import shutil
from collections import namedtuple
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from zoo.data.loading import MAX_WORKERS, KeptBatches, epochs, keys, load, loader_workers, usable_cores
from zoo.errors import Corrupt

INDEX = torch.arange(100, 117)


def taken(first_step, count, seed=0):
    plan = islice(epochs(INDEX, steps=5, seed=seed, first_step=first_step), count)
    return [(epoch, step, index.tolist()) for epoch, step, index in plan]


def test_an_epoch_visits_every_sample_once_in_batches_of_almost_equal_size():
    for epoch in range(3):
        batches = [index for _, _, index in taken(5 * epoch, 5)]
        assert sorted(i for batch in batches for i in batch) == INDEX.tolist()
        assert {len(batch) for batch in batches} == {3, 4}


def test_a_batch_depends_on_seed_and_number_alone():
    plan = taken(0, 12)
    for first in range(12):
        assert taken(first, 12 - first) == plan[first:]
    assert taken(0, 12, seed=1) != plan
    assert plan[0][2] != plan[5][2]


class Squares(Dataset):
    def __getitem__(self, key):
        epoch, i = key
        if i == 13:
            raise Corrupt("sample 13 is broken")
        return torch.tensor([epoch, i * i])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_and_damage_in_one_line(workers):
    plan = [(0, 0, torch.tensor([3, 1])), (2, 0, torch.tensor([5]))]
    before = torch.get_rng_state()
    found = [batch.tolist() for batch in load(Squares(), keys(plan), workers)]
    assert found == [[[0, 9], [0, 1]], [[2, 25]]]
    assert torch.equal(torch.get_rng_state(), before)
    summed = list(load(Squares(), keys(plan), workers, collate=lambda items: int(sum(map(torch.sum, items)))))
    assert summed == [10, 27]
    with pytest.raises(Corrupt) as caught:
        list(load(Squares(), [[(0, 13)]], workers))
    assert str(caught.value) == "sample 13 is broken"


class Reads:
    """Batches of three sizes, counting how often they are read."""

    def __init__(self):
        self.passes = 0
        rng = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randint(256, (b, 3, 5, 7), generator=rng, dtype=torch.uint8), torch.arange(b)) for b in (4, 4, 1)
        ]

    def __call__(self):
        self.passes += 1
        yield from self.batches


def assert_same(found, expected):
    for (images, labels), (others, theirs) in zip(found, expected, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, theirs)


def test_batches_are_read_once_and_then_come_from_the_file(caplog):
    reads = Reads()
    kept = KeptBatches(reads, size=9 * 105)
    next(iter(kept))  # a pass that is broken off keeps nothing
    for passes in (2, 2, 2):
        assert_same(list(kept), reads.batches)
        assert reads.passes == passes
    assert not caplog.records


def test_without_room_every_pass_reads_anew_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(2 * 9 * 105 - 1))
    reads = Reads()
    kept = KeptBatches(reads, size=9 * 105)
    for passes in (1, 2):
        assert_same(list(kept), reads.batches)
        assert reads.passes == passes
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no room" in record.message
    assert "TMPDIR" in record.message


def test_a_disk_that_fills_meanwhile_costs_the_copy_not_the_pass(caplog):
    """As by a limit on the size of files: what does not fit is not written again when the file is closed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    reads = Reads()
    kept = KeptBatches(reads, size=9 * 105)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))  # the second batch ends at byte 840
    try:
        assert_same(list(kept), reads.batches)
        assert "File too large" in caplog.text
        assert_same(list(kept), reads.batches)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (reads.passes, caplog.text.count("File too large")) == (2, 1)


class Numbers(Dataset):
    def __getitem__(self, key):
        return torch.full((3, 4, 4), key, dtype=torch.uint8), torch.tensor(key)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nowhere to count open files")
def test_kept_batches_have_one_file_open_however_many_they_are():
    """A pass over ImageNet has 500 batches, and a process mostly 1,024 files."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = KeptBatches(lambda: load(Numbers(), ([key] for key in range(60)), workers=1), size=60 * 48)
    for _ in range(2):
        for number, (images, labels) in enumerate(kept):
            assert (labels.tolist(), images.unique().tolist()) == ([number], [number])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 10


def test_cores_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7})
    assert usable_cores() == loader_workers() == 3


@pytest.mark.parametrize(("cores", "usable", "workers"), [(12, 12, 12), (64, 64, MAX_WORKERS), (None, 1, 1)])
def test_where_the_system_does_not_say_it_is_all_of_them(monkeypatch, cores, usable, workers):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert (usable_cores(), loader_workers()) == (usable, workers)
