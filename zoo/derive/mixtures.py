"""Networks made of those of a zoo in closed form: a linear combination of training networks plus Gaussian noise.

Means, soups, Gaussians, PCA and kernel densities all have this form (zoo.derive.perturb, rpg.methods), so one function
writes them: tensor by tensor and piece by piece, several networks at a time, in memory that depends neither on the
number of networks nor on their size. What a network becomes depends on its Draft and the training networks alone, not
on the networks that are written beside it: sums are taken per network and the size of pieces depends on the zoo alone.

Legend: N training networks, D values of a network (tied tensors once, no constants), k values of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoint import TensorFile
from zoo.columns import COLUMN_VALUES, CONSTANTS, VALUES
from zoo.errors import Failed
from zoo.manifest import Entry
from zoo.progress import Bar, progress
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import DTYPES, Structure, TensorSpec
from zoo.writer import ZooWriter

TOGETHER = 16  # networks written in one pass over the zoo
MOST_PARENTS = 256  # recorded for a network; beyond, the zoo and its split say it in one line of the origin
VARIANCE_FLOOR = 1e-12  # keeps the log of a dead channel's running variance finite


@dataclass(frozen=True, eq=False)
class Piece:
    """The same k values of some training networks: `values` float64 (rows, k) of those numbered `rows`, ascending; the
    first is number `start` of the tensor, flattened.
    """

    spec: TensorSpec
    rows: Tensor
    values: Tensor
    start: int = 0

    def of(self, rows: Sequence[int]) -> Tensor:
        """The values of these networks, float64 (len(rows), k)."""
        if len(rows) == len(self.rows):
            return self.values
        return self.values[torch.searchsorted(self.rows, torch.tensor(rows))]

    @cached_property
    def deviation(self) -> Tensor:
        """Of every value over the networks (ddof 1), float64 (k,)."""
        squares = (self.values - self.values.mean(0)).square_()  # torch.std takes twice as long along this axis
        return squares.sum(0).div_(len(self.rows) - 1).sqrt_()


Deviation = Callable[[Piece], Tensor | float]


@dataclass(frozen=True, eq=False)
class Draft:
    """A network to be: the sum of `coefficients` (float64) times the training networks `rows` (ascending), plus noise
    of this `deviation` from the generator of the path `stream` (zoo.seeds). With a `base`, so much of a network that is
    none of these is added.

    `parents` are the rows to record. With `log_variances` running variances are combined and noised as logarithms.
    """

    rows: tuple[int, ...]
    coefficients: Tensor
    parents: tuple[int, ...]
    deviation: Deviation | None = None
    stream: tuple[int, str, int] = (0, "", 0)
    log_variances: bool = False
    condition: str | None = None
    base: tuple[float, Mapping[str, Tensor]] | None = None

    def values(self, piece: Piece, rng: torch.Generator) -> Tensor:
        """The network's values of this piece, (k,) in the tensor's dtype; running variances are cut off at zero."""
        values, variance = piece.of(self.rows), piece.spec.kind == "running_var"
        if variance and self.log_variances:
            values = values.clamp_min(VARIANCE_FLOOR).log()
        value = self.coefficients @ values
        if self.base is not None:
            share, network = self.base
            flat = network[piece.spec.name].flatten()[piece.start : piece.start + len(value)]
            value += share * flat.double()
        if self.deviation is not None:
            value += self.deviation(piece) * torch.randn(value.shape, generator=rng, dtype=torch.float64)
        if variance:
            value = value.exp() if self.log_variances else value.clamp_min(0)
        return value.to(DTYPES[piece.spec.dtype])


Drafts = Callable[[int], Draft]
"""What network k is to be. All that is random about it is a function of a seed and k."""


def write(
    writer: ZooWriter,
    zoo: Zoo,
    entries: Sequence[Entry],
    ids: Sequence[str],
    drafts: Drafts,
    *,
    seed: int,
    split: str,
) -> None:
    """Add networks with these ids, as `drafts` makes them of the entries, but for those that are there already.

    Constants (integer buffers) are those of the first entry. Raises Corrupt as `Zoo.columns` does, and Failed for a
    network whose values are not finite.
    """
    todo = [(id, k) for k, id in enumerate(ids) if id not in writer.done]
    with progress(f"writing {writer.path}", -(-len(todo) // TOGETHER) * dimensions(zoo.structure)) as bar:
        for start in range(0, len(todo), TOGETHER):
            group = {id: drafts(k) for id, k in todo[start : start + TOGETHER]}
            with ExitStack() as stack:
                files = {
                    id: stack.enter_context(writer.adding(id, seed=seed, split=split, **_record(draft, entries)))
                    for id, draft in group.items()
                }
                _fill(files, group, zoo, entries, bar)


def numbered(prefix: str, n: int) -> list[str]:
    """Ids of n networks: `prefix-0000` and so on."""
    return [f"{prefix}-{k:04d}" for k in range(n)]


def _record(draft: Draft, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the zoo keeps of a draft. Made of networks of one task it is of that, where it does not say another."""
    tasks = {entries[row].condition for row in draft.parents}
    condition = draft.condition or (tasks.pop() if len(tasks) == 1 else None)
    parents = draft.parents if len(draft.parents) <= MOST_PARENTS else ()
    return {"condition": condition, "parents": [entries[row].sha256 for row in parents]}


def _fill(
    files: Mapping[str, TensorFile], drafts: Mapping[str, Draft], zoo: Zoo, entries: Sequence[Entry], bar: Bar
) -> None:
    """Write all values of these networks, in one pass over the training networks they need."""
    for column in zoo.columns(entries[:1], kinds=CONSTANTS):
        for file in files.values():
            file.put(column.spec.name, column.start, column.block[0])
    rows = sorted({row for draft in drafts.values() for row in draft.rows})
    random = {id: generator(*draft.stream) for id, draft in drafts.items()}
    for column in zoo.columns([entries[row] for row in rows], piece_values(len(entries)) * len(rows)):
        piece = Piece(column.spec, torch.tensor(rows), column.block.double(), column.start)
        for id, draft in drafts.items():
            values = draft.values(piece, random[id])
            if not bool(values.isfinite().all()):
                raise Failed(f"network {id} has values of {column.spec.name} that are not finite")
            files[id].put(column.spec.name, column.start, values)
        bar.advance(column.block.shape[1])


def piece_values(networks: int) -> int:
    """Values of each network in a piece, when they are learnt from so many: bounds reading and writing."""
    return max(COLUMN_VALUES // max(networks, TOGETHER), 1)


def dimensions(structure: Structure) -> int:
    """D: how many values of a network there are to learn."""
    return sum(spec.numel for spec in structure if spec.kind in VALUES and spec.tied_to is None)


def tensor_deviations(zoo: Zoo, entry: Entry, size: int) -> dict[str, float]:
    """The standard deviation within every tensor of a network (ddof 0), of the logarithms for running variances; pieces
    of `size` values are merged by Chan, Golub and LeVeque's update (1979).
    """
    found: dict[str, float] = {}
    count, mean, squares = 0, 0.0, 0.0
    for column in zoo.columns([entry], size):
        if column.start == 0:
            count, mean, squares = 0, 0.0, 0.0
        values = column.block[0].double()
        values = values.clamp_min(VARIANCE_FLOOR).log() if column.spec.kind == "running_var" else values
        more, its_mean = len(values), float(values.mean())
        squares += float((values - its_mean).square().sum()) + (its_mean - mean) ** 2 * count * more / (count + more)
        mean += (its_mean - mean) * more / (count + more)
        count += more
        found[column.spec.name] = (squares / count) ** 0.5
    return found


def gram_of(zoo: Zoo, entries: Sequence[Entry]) -> Tensor:
    """Inner products of the networks' deviations from their mean: float64 (N, N), summed over columns. All of PCA that
    has to see the weights, as N is small beside D (Turk and Pentland 1991).
    """
    gram = torch.zeros(len(entries), len(entries), dtype=torch.float64)
    for column in zoo.columns(entries, piece_values(len(entries)) * len(entries)):
        values = column.block.double()
        values -= values.mean(0)
        gram.addmm_(values, values.T)
    return gram


@dataclass(frozen=True, eq=False)
class Principal:
    """The first `rank` principal components of a zoo, as combinations of its networks.

    `variances` float64 (rank,), descending, of the sample covariance (ddof 1); `codes` float64 (N, rank), the training
    networks' coordinates along them, each with variance 1; `rest`, the mean of the D - rank variances left out, is
    the noise of probabilistic PCA (Tipping and Bishop 1999, equation 8).
    """

    variances: Tensor
    codes: Tensor
    rest: float

    @classmethod
    def of(cls, gram: Tensor, rank: int, dimensions: int) -> Principal:
        """From the Gram matrix of N centred networks of D = `dimensions` values; 0 < rank < N."""
        count = len(gram)
        assert 0 < rank < count
        values, vectors = torch.linalg.eigh(gram)
        variances = values.flip(0)[:rank].clamp_min(0) / (count - 1)
        left_out = max(float(gram.trace() / (count - 1) - variances.sum()), 0.0)
        rest = left_out / (dimensions - rank) if dimensions > rank else 0.0
        return cls(variances, vectors.flip(1)[:, :rank] * (count - 1) ** 0.5, rest)

    def coefficients(self, code: Tensor) -> Tensor:
        """Of the network at this code, float64 (rank,): what to multiply the N training networks with, (N,)."""
        count = len(self.codes)
        return around_mean(self.codes @ code / (count - 1))


def around_mean(weights: Tensor) -> Tensor:
    """Coefficients of mean + sum of weights[i] * (network i - mean); (N,), they sum to 1."""
    return weights - weights.mean() + 1 / len(weights)


def shares(count: int) -> Tensor:
    """Coefficients of a plain mean, float64 (count,)."""
    return torch.full((count,), 1 / count, dtype=torch.float64)
