"""Builds networks on torch's meta device: names, shapes and dtypes, without values and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """What is built inside has no values; except for `linspace`, from which libraries read drop path rates."""
    with torch.device("meta"), _NumbersOnCPU():
        yield


class _NumbersOnCPU(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
