"""How fast checkpoints become tokens and tokens are read, beside what the machine can do at all.

Every row is measured in one run with its limits, all on one thread (reading hashes in two others):

- memcpy: torch copies the same bytes from memory to memory;
- sha256: hashlib over the same bytes, from memory, which nothing that checks a hash can pass on one thread;
- file: the same bytes written to a new file and synced.

`plain` is the same work in the obvious way: whole tensors in float64 (for statistics: of the whole zoo at once, in
memory that grows with it), whole checkpoints loaded one by one. Rates are in GB of checkpoints (for `gather`: of
tokens) per second. Files are in the page cache, so disks play no role but in syncing.

The zoo of small networks shows the cost of the interpreter: 13 KB a checkpoint are copied in a microsecond.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness import Bench, Timing, arguments, interleaved
from rpg.tokens.files import gather, open_tokens, write_tokens
from rpg.tokens.layout import Layout
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

Weights = dict[str, Tensor]
ORIGIN = Origin(name="benchmark", kind="collected", task={"name": "none"}, command=("bench",), versions={})


def small_network(rng: torch.Generator) -> Weights:
    """About 3,000 values in 10 tensors."""
    shapes = {"0": (8, 3, 3, 3), "1": (12, 8, 3, 3), "2": (12, 12, 3, 3), "3": (24, 12), "4": (10, 24)}
    return _filled({f"{i}.weight": shape for i, shape in shapes.items()}, rng)


def large_network(rng: torch.Generator, width: int) -> Weights:
    """The shapes of a ResNet-50 (width 64: 25 million values in 265 tensors)."""
    shapes: dict[str, tuple[int, ...]] = {"stem.weight": (width, 3, 7, 7)}
    inner = width
    for stage, depth in enumerate((3, 4, 6, 3)):
        channels = width * 2**stage
        for block in range(depth):
            name = f"{stage}.{block}"
            shapes[f"{name}.0.weight"] = (channels, inner, 1, 1)
            shapes[f"{name}.1.weight"] = (channels, channels, 3, 3)
            shapes[f"{name}.2.weight"] = (4 * channels, channels, 1, 1)
            if block == 0:
                shapes[f"{name}.down.weight"] = (4 * channels, inner, 1, 1)
            inner = 4 * channels
    shapes["head.weight"] = (1000 * width // 64, inner)
    return _filled(shapes, rng)


def _filled(shapes: dict[str, tuple[int, ...]], rng: torch.Generator) -> Weights:
    """Normal weights, and the vectors that go with them: a bias and, from the second layer on, running variances."""
    weights: Weights = {}
    for name, shape in shapes.items():
        weights[name] = torch.randn(shape, generator=rng) * 0.05
        weights[name.replace("weight", "bias")] = torch.randn(shape[0], generator=rng) * 0.1
        if len(shapes) > 10:
            weights[name.replace("weight", "norm.weight")] = 1 + torch.randn(shape[0], generator=rng) * 0.1
            weights[name.replace("weight", "running_var")] = 0.5 + torch.rand(shape[0], generator=rng)
    return weights


def plain_fit(checkpoints: list[Weights], layout: Layout) -> list[tuple[float, float]]:
    """Mean and deviation of every tensor, all its values at once."""
    found = []
    for tensor in layout.tensors:
        values = torch.stack([weights[tensor.name].double() for weights in checkpoints])
        if tensor.kind == "running_var":
            values = torch.log(values / (0.95 * values.mean()) + 0.05)
        variance, mean = torch.var_mean(values, correction=0)
        found.append((mean.item(), variance.sqrt().item()))
    return found


def plain_encode(layout: Layout, weights: Weights) -> Tensor:
    """Tokens by layer: each tensor standardised in float64, padded, in its place."""
    tokens = torch.zeros(layout.num_tokens, layout.token_size)
    for tensor in layout.tensors:
        values = weights[tensor.name].double()
        if tensor.log_scale is not None:
            values = torch.log(values / tensor.log_scale + 0.05)
        if not values.isfinite().all():
            raise ValueError(tensor.name)
        start = tensor.first_token * layout.token_size
        tokens.view(-1)[start : start + tensor.numel] = ((values - tensor.mean) / tensor.std).flatten().float()
    return tokens


def plain_write(path: Path, layout: Layout, checkpoints: list[Weights]) -> None:
    with path.open("wb") as file:
        for weights in checkpoints:
            file.write(plain_encode(layout, weights).numpy().tobytes())
        file.flush()
        os.fsync(file.fileno())


def measure(bench: Bench, name: str, checkpoints: list[Weights], token_size: int, rounds: int, folder: Path) -> None:
    """All rows of one zoo."""
    structure = Structure.of(checkpoints[0])
    with ZooWriter(folder / "zoo", ORIGIN, structure) as writer:
        for index, weights in enumerate(checkpoints):
            writer.add(f"net-{index:04d}", weights, seed=index, split="train")
        zoo = writer.finish()
    layout = Layout.fit(structure, lambda: checkpoints, token_size)
    flat = torch.cat([tensor.reshape(-1) for tensor in checkpoints[0].values()])
    copy, tokens = torch.empty_like(flat), folder / "tokens.npy"

    def fresh(path: Path, write: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            path.unlink(missing_ok=True)
            write()

        return run

    def write_file() -> None:
        with (folder / "copy").open("wb", buffering=0) as file:
            for _ in checkpoints:
                file.write(flat.numpy().data)
            os.fsync(file.fileno())

    times = interleaved(
        {
            "memcpy": lambda: [copy.copy_(flat) for _ in checkpoints],
            "sha256": lambda: [hashlib.sha256(flat.numpy().data).digest() for _ in checkpoints],
            "file": fresh(folder / "copy", write_file),
            "fit": lambda: Layout.fit(structure, lambda: checkpoints, token_size),
            "plain fit": lambda: plain_fit(checkpoints, layout),
            "encode": lambda: [sum(map(len, layout.pieces(weights))) for weights in checkpoints],
            "plain encode": lambda: [plain_encode(layout, weights) for weights in checkpoints],
            "write": fresh(tokens, lambda: write_tokens(tokens, layout, checkpoints, len(checkpoints))),
            "plain write": fresh(folder / "plain", lambda: plain_write(folder / "plain", layout, checkpoints)),
            "read": lambda: sum(len(weights) for weights in Zoo.open(zoo.path).checkpoints(zoo.entries)),
            "plain read": lambda: sum(len(zoo.load(entry)) for entry in zoo.entries),
        },
        rounds,
    )
    _check(bench, name, layout, checkpoints, zoo, folder)
    gigabytes = flat.numel() * 4 * len(checkpoints) / 1e9
    _row(bench, name, "statistics", gigabytes, times["fit"], times["plain fit"], "memcpy", times["memcpy"])
    _row(bench, name, "encode", gigabytes, times["encode"], times["plain encode"], "memcpy", times["memcpy"])
    _row(bench, name, "write tokens", gigabytes, times["write"], times["plain write"], "memcpy", times["memcpy"])
    _row(bench, name, "write tokens", gigabytes, times["write"], times["plain write"], "file", times["file"])
    _row(bench, name, "read, hashed", gigabytes, times["read"], times["plain read"], "memcpy", times["memcpy"])
    _row(bench, name, "read, hashed", gigabytes, times["read"], times["plain read"], "sha256", times["sha256"])
    _gather(bench, name, layout, len(checkpoints), tokens, 20 * rounds)


def _check(bench: Bench, name: str, layout: Layout, checkpoints: list[Weights], zoo: Zoo, folder: Path) -> None:
    fitted = torch.tensor([(tensor.mean, tensor.std) for tensor in layout.tensors], dtype=torch.float64)
    plain = torch.tensor(plain_fit(checkpoints, layout), dtype=torch.float64)
    bench.check(f"{name}: statistics are the plain ones", torch.allclose(fitted, plain, rtol=1e-9, atol=1e-12))
    tokens = torch.from_numpy(open_tokens(folder / "tokens.npy", layout, len(checkpoints)).copy())
    same = (torch.allclose(tokens[i], plain_encode(layout, w), rtol=1e-6, atol=1e-7) for i, w in enumerate(checkpoints))
    bench.check(f"{name}: the tokens file holds the plain tokens of every checkpoint", all(same))
    pairs = zip(zoo.checkpoints(zoo.entries), checkpoints, strict=True)
    read = all(torch.equal(found[key], weights[key]) for found, weights in pairs for key in weights)
    bench.check(f"{name}: what is read is what was written", read)


def _gather(bench: Bench, name: str, layout: Layout, count: int, path: Path, rounds: int) -> None:
    """1024 random tokens out of the mapped file, beside copying as many bytes that lie together."""
    rng = generator(0, "gather")
    tokens = open_tokens(path, layout, count)
    checkpoint = torch.randint(count, (1024,), generator=rng)
    token = torch.randint(layout.num_tokens, (1024,), generator=rng)
    source = torch.randn(1024, layout.token_size)
    target = torch.empty_like(source)
    times = interleaved(
        {
            "gather": lambda: gather(tokens, checkpoint, token),
            "memcpy": lambda: target.copy_(source),
            "plain": lambda: torch.stack(
                [torch.tensor(tokens[i, j]) for i, j in zip(checkpoint.tolist(), token.tolist(), strict=True)]
            ),
        },
        rounds,
    )
    expected = torch.tensor(tokens[checkpoint.tolist(), token.tolist()])
    bench.check(f"{name}: gather gives the tokens asked for", torch.equal(gather(tokens, checkpoint, token), expected))
    gigabytes = source.numel() * 4 / 1e9
    what = f"gather 1024 of {layout.token_size}"
    _row(bench, name, what, gigabytes, times["gather"], times["plain"], "memcpy", times["memcpy"])


def _row(
    bench: Bench, zoo: str, what: str, gigabytes: float, ours: Timing, plain: Timing, limit: str, bound: Timing
) -> None:
    bench.row(
        zoo=zoo,
        what=what,
        ms=ours.median * 1e3,
        gb_s=gigabytes / ours.median,
        times_plain=ours.speedup_over(plain),
        limit=limit,
        limit_gb_s=gigabytes / bound.median,
        share_of_limit=ours.speedup_over(bound),
    )


def main() -> None:
    bench = Bench("tokens", arguments(__doc__).parse_args())
    if bench.device.type != "cpu":
        sys.exit("bench_tokens: tokens are made and read by the processor alone; expected --device cpu")
    torch.set_num_threads(1)
    rng = generator(0, "bench_tokens")
    with tempfile.TemporaryDirectory() as folder:
        small = [small_network(rng) for _ in range(5 if bench.quick else 50)]
        measure(bench, f"{len(small)} small", small, 256, 2 if bench.quick else 9, Path(folder) / "small")
        large = [large_network(rng, 4 if bench.quick else 64) for _ in range(2 if bench.quick else 8)]
        size = 64 if bench.quick else 16384
        measure(bench, f"{len(large)} large", large, size, 2 if bench.quick else 5, Path(folder) / "large")
    bench.finish()


if __name__ == "__main__":
    main()
