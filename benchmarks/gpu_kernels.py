"""The scan of Mamba-2: mamba-ssm's kernels against that in PyTorch, forward and backward, at the widths of Table 12.

Where mamba-ssm is not installed, or the device is a CPU, where its kernels do not run, the table says so and times the
scan in PyTorch alone. Memory is what both passes take beside their inputs. `apart` is the distance of outputs and of
the gradient of x, relative: the kernels multiply in TF32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness import Bench, arguments
from rpg.devices import GB
from rpg.methods.rpg.models.kernels import fast_scan
from rpg.methods.rpg.models.ssd import CHUNK_SIZE, ssd_scan
from zoo import cuda

HEAD = 64
SIZES = (  # sequences, length, heads, states: a batch of the four sizes on networks that they are for, or a part of it
    ("RPG-Tiny", 16, 18, 8, 32),
    ("RPG-Small", 8, 1490, 128, 128),
    ("RPG-Base", 8, 808, 256, 128),
    ("RPG-Large", 1, 5378, 384, 128),
)
QUICK = (("quick", 2, 70, 2, 16),)
ROUNDS = 5
SAME = 1e-2


def inputs_of(rows: int, length: int, heads: int, states: int, device: torch.device) -> list[Tensor]:
    """x, dt, A, B, C, drawn on the device."""
    rng = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, length, heads, HEAD, generator=rng, device=device)
    dt = torch.rand(rows, length, heads, generator=rng, device=device) * 0.1
    A = -1 - torch.rand(heads, generator=rng, device=device)
    B, C = torch.randn(2, rows, length, states, generator=rng, device=device)
    return [tensor.requires_grad_() for tensor in (x, dt, A, B, C)]


def both_passes(scan: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of x."""
    y = scan(*inputs)
    return y.detach(), torch.autograd.grad(y.square().sum(), inputs[:1])[0]


def timed(scan: Callable[..., Tensor], inputs: list[Tensor], device: torch.device) -> tuple[float, float | None]:
    """The least milliseconds of a few rounds, and GB."""
    both_passes(scan, inputs)  # loads or compiles kernels
    cuda.reset_peak(device)
    before = cuda.peak(device)
    seconds = []
    for _ in range(ROUNDS):
        cuda.synchronise(device)
        start = time.perf_counter()
        both_passes(scan, inputs)
        cuda.synchronise(device)
        seconds.append(time.perf_counter() - start)
    after = cuda.peak(device)
    return 1e3 * min(seconds), None if after is None or before is None else (after - before) / GB


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan as it is defined, token by token."""
    state, y = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]), []
    for t in range(x.shape[1]):
        state = state * (dt[:, t] * A).exp()[..., None, None]
        state = state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None]
        y.append((state * C[:, t, None, None]).sum(-1))
    return torch.stack(y, dim=1)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


def main() -> None:
    bench = Bench("gpu_kernels", arguments(__doc__).parse_args())

    def plain(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return ssd_scan(x, dt, A, B, C, CHUNK_SIZE)

    small = inputs_of(2, 100, 2, 16, bench.device)
    bench.check("the scan in PyTorch is the recurrence", apart(plain(*small), recurrence(*small)) < 1e-4)
    fast = fast_scan() if bench.device.type == "cuda" else None
    absent = "mamba-ssm is not installed" if bench.device.type == "cuda" else "its kernels need CUDA"
    for size, rows, length, heads, states in QUICK if bench.quick else SIZES:
        inputs = inputs_of(rows, length, heads, states, bench.device)
        plain_ms, plain_gb = timed(plain, inputs, bench.device)
        found: dict[str, Any] = {"kernels_ms": None, "kernels_gb": None, "speedup": None, "apart": None, "note": absent}
        if fast:
            kernels_ms, kernels_gb = timed(fast, inputs, bench.device)
            pairs = zip(both_passes(fast, inputs), both_passes(plain, inputs), strict=True)
            distance = max(apart(one, other) for one, other in pairs)
            found = {"kernels_ms": kernels_ms, "kernels_gb": kernels_gb, "speedup": plain_ms / kernels_ms}
            found |= {"apart": distance, "note": ""}
        shape: dict[str, Any] = {"size": size, "sequences": rows, "tokens": length, "heads": heads, "states": states}
        bench.row(**shape, plain_ms=plain_ms, plain_gb=plain_gb, **found)
        bench.save()
        if fast:
            bench.check(f"{size}: the kernels give what PyTorch gives", found["apart"] < SAME)
    bench.finish(mamba_ssm=fast is not None)


if __name__ == "__main__":
    main()
