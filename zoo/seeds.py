"""Randomness by name: every draw comes from a generator whose seed is a function of one recorded number and a path.

`generator(seed, "collect", 3, "batch", 120)` gives the same stream on every machine, in every process and after every
restart, so nothing about randomness has to be saved to resume a run.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A recorded seed, as a recipe or an option gives it."""


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed, independent for every (seed, path): the head of SHA-256 over both."""
    digest = hashlib.sha256(json.dumps([seed, *path]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for this (seed, path)."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *path))


@contextmanager
def global_seed(seed: int, *path: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    For libraries that draw from the global generator and take no other (initialisation, dropout, torchvision
    transforms).
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, *path))
        yield


@contextmanager
def library_seed(seed: int, *path: str | int) -> Iterator[None]:
    """`cpu_seed` that also seeds and restores `random` and numpy's global generator: for libraries that augment by all
    three.
    """
    states = random.getstate(), np.random.get_state()
    number = derive_seed(seed, *path)
    random.seed(number)
    np.random.seed(number % 2**32)
    try:
        with cpu_seed(seed, *path):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def cpu_seed(seed: int, *path: str | int) -> Iterator[None]:
    """`global_seed` for draws on the CPU alone: leaves CUDA untouched, as a data loader's forked worker must."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *path))
        yield
