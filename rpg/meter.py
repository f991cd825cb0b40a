"""What a computation costs, found by running it on tensors without memory: FLOPs and the most bytes alive at once.

The code that is measured is the code that trains and samples, so the numbers follow it when it changes.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True)
class Cost:
    """`flops` of matrix products and convolutions; `peak` bytes of tensors made inside that were alive together;
    `launches`, how many operations were started, views apart.
    """

    flops: int
    peak: int
    launches: int


@contextmanager
def without_memory() -> Iterator[None]:
    """Inside, tensors have shapes, dtypes and devices, but no values."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def cost_of(work: Callable[[], object]) -> Cost:
    """Run `work` and count. Its result is alive until it returns."""
    aten = torch.ops.aten
    counted = {
        aten.convolution_backward: _convolution_backward,
        # which not every torch counts
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    flops, memory = FlopCounterMode(display=False, custom_mapping=counted), _LiveBytes()
    with _without_onednn(), flops, memory:
        work()
    return Cost(flops.get_total_flops(), memory.peak, memory.launches)


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes alone. Counting FLOPs holds on to what modules give, and so to more than recomputation keeps."""
    memory = _LiveBytes()
    with _without_onednn(), memory:
        work()
    return memory.peak


def _convolution_backward(
    gradient: Sequence[int], inputs: object, weight: Sequence[int], *others: Any, **out: object
) -> int:
    """From shapes: each of the gradients of input and weight costs what the forward pass does. (torch's own count takes
    the weight's gradient for a dense one where there are groups: hundreds of times too much for a depthwise one.)
    """
    output_mask = others[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * (output_mask[0] + output_mask[1])


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **out: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **out: object
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


@contextmanager
def _without_onednn() -> Iterator[None]:
    """oneDNN has a whole LSTM in one operation, which the counter does not know; without it, it is matrix products."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # said when any flag is set
        with torch.backends.mkldnn.flags(enabled=False):
            yield


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that were made inside and are not yet freed: `live` now, `peak` at most. `launches` are the
    operations that were started.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.launches = 0
        self.storages: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        self.launches += not function.is_view
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in known:  # not a view of something older
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.storages:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
