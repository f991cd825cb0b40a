"""What an alignment is worth, in numbers: what averages, lines and a linear code of networks keep of their accuracy.

Every row is measured twice, on the networks as they were and aligned, with the same draws. Averages of networks with
BatchNorm need their statistics from training images again (zoo.tasks.recalibrated), in every row alike: `Measure` is
where that belongs. So statistics, which would outweigh all else, do not count where weights are compared. Accuracies
are in percent. Without a `Measure` what weights alone say is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.columns import VALUES
from zoo.derive.alignment import runs
from zoo.files import read_limited, write_bytes
from zoo.manifest import EARLY, MANIFEST_BYTES, Entry, Sha256
from zoo.progress import progress
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import DTYPES, Frozen, Structure, TensorSpec

Measure: TypeAlias = Callable[[Mapping[str, Tensor]], tuple[float, float]]
"""Weights -> loss, and accuracy in percent, on test data."""
SOUP = 16  # networks in a soup, if there are as many
CODES = (32, 99, 300)  # components
POINTS = 11  # along a line
MOST_VALUES = 2**28  # of the training networks that are looked at (2 GiB); of larger zoos some
STATISTICS = ("running_mean", "running_var")
WORTH = "worth.json"
NOTHING = 1e-3  # of the objective: less is no gain


class Pair(Frozen):
    """A number for the networks as they were, and aligned."""

    raw: float
    aligned: float


class Behaviour(Frozen):
    """What averages do on test data. `accuracy` is the mean of networks, the same raw and aligned but for rounding.

    - `midpoint`, `soup`: mean accuracy over draws; `mean`: of the mean of all.
    - `codes`: mean accuracy of held-out networks after a round trip through the first k principal components of the
      training networks.
    - `raw_line`, `aligned_line`: mean loss at equal steps from one network to another; `barrier`: the largest rise over
      the straight line between the ends.
    """

    accuracy: float
    midpoint: Pair
    mean: Pair
    soup: Pair
    codes: dict[int, Pair]
    raw_line: tuple[float, ...]
    aligned_line: tuple[float, ...]
    barrier: Pair


class Worth(Frozen):
    """What aligning zoo `raw` to `aligned` (their hashes) is worth. `networks` for training were looked at, of all that
    were aligned with each other; `held_out` were aligned afterwards. `protocol` says on which test data `behaviour` was
    measured, if it was.

    - `objective`: the share of the training networks' energy that their mean has, as the solver counts it
      (zoo.derive.alignment.Alignment). An alignment that found nothing leaves it as it was.
    - `participation`: participation ratio of their covariance: how many directions they vary in.
    """

    raw: Sha256
    aligned: Sha256
    protocol: str | None
    networks: int
    held_out: int
    objective: Pair
    participation: Pair
    behaviour: Behaviour | None


def worth(
    raw: Zoo,
    aligned: Zoo,
    objective: Pair,
    measure: Measure | None,
    protocol: str | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Worth:
    """Measure an alignment: `draws` midpoints, soups and held-out networks (or all there are), half as many lines.

    Networks are of split train; held out is every other one. Where that is none, the codes are left out. Raises
    ValueError when the zoos hold other networks or fewer than two for training.
    """
    if [entry.id for entry in raw.entries] != [entry.id for entry in aligned.entries]:
        raise ValueError(f"{aligned.path} does not hold the networks of {raw.path}")
    training, others = looked_at(raw)
    with progress("measuring what alignment is worth", 2) as bar:
        sides = []
        for zoo in (raw, aligned):
            sides.append(averages(zoo, training, others[:draws], measure, draws, seed))
            bar.advance(1)
    one, two = sides
    behaviour = None
    if one.behaviour and two.behaviour:
        before, after = one.behaviour, two.behaviour
        behaviour = Behaviour(
            accuracy=before.accuracy,
            midpoint=Pair(raw=before.midpoint, aligned=after.midpoint),
            mean=Pair(raw=before.mean, aligned=after.mean),
            soup=Pair(raw=before.soup, aligned=after.soup),
            codes={k: Pair(raw=before.codes[k], aligned=after.codes[k]) for k in before.codes},
            raw_line=before.line,
            aligned_line=after.line,
            barrier=Pair(raw=before.barrier, aligned=after.barrier),
        )
    return Worth(
        raw=raw.sha256,
        aligned=aligned.sha256,
        protocol=protocol if measure else None,
        networks=len(training),
        held_out=len(others),
        objective=objective,
        participation=Pair(raw=one.participation, aligned=two.participation),
        behaviour=behaviour,
    )


def read_worth(place: Path, aligned: Zoo) -> Worth | None:
    """What is on record in this directory about this zoo, if anything. Raises Corrupt for a damaged file."""
    file = place / WORTH
    found = Worth.parse(read_limited(file, MANIFEST_BYTES), file) if file.is_file() else None
    return found if found and found.aligned == aligned.sha256 else None


def write_worth(place: Path, found: Worth) -> None:
    write_bytes(place / WORTH, found.to_json(indent=1).encode())


def looked_at(zoo: Zoo) -> tuple[list[int], list[int]]:
    """Which networks for training are looked at, of large zoos some, and which are held out: every other one but for
    early ones, which are of the same trainings. Of several checkpoints of a run the last counts, for averages of these
    say nothing of runs, unless the zoo is of one run. Raises ValueError when there are fewer than two for training.
    """
    last = {members[-1].id for members in runs(zoo.entries)}
    kept = [k for k, entry in enumerate(zoo.entries) if entry.id in last]
    if len(kept) < 2:
        kept = [k for k, entry in enumerate(zoo.entries) if entry.split != EARLY]
    training = [k for k in kept if zoo.entries[k].split == "train"] or kept
    known = set(training)
    others = [k for k in kept if k not in known and zoo.entries[k].split != EARLY]
    if len(training) < 2:
        raise ValueError(f"{zoo.path} has {len(training)} networks to train on; expected two at least")
    most = max(2, MOST_VALUES // zoo.structure.numel)
    if len(training) > most:
        training = [training[k] for k in torch.linspace(0, len(training) - 1, most).round().long().tolist()]
    return training, others


@dataclass(frozen=True)
class Kept:
    """What averages of one zoo's networks do, as Behaviour says of two; `line` is the mean loss along lines."""

    accuracy: float
    midpoint: float
    mean: float
    soup: float
    codes: Mapping[int, float]
    line: tuple[float, ...]
    barrier: float


@dataclass(frozen=True)
class Averages:
    """The participation ratio of a zoo's networks, and what their averages do, if that was measured."""

    participation: float
    behaviour: Kept | None


def averages(
    zoo: Zoo, training: Sequence[int], held_out: Sequence[int], measure: Measure | None, draws: int, seed: int
) -> Averages:
    """What the networks of these numbers are as they are: `draws` midpoints and soups of those for training, half as
    many lines, and the codes of those held out. The same draws for every zoo with as many networks.
    """
    matrix, counted = vectors(zoo, [zoo.entries[k] for k in training]), counting(zoo.structure)
    mean, own = matrix.mean(0), matrix[:, counted]
    if measure is None:
        return Averages(participation(own), None)
    structure, constants = zoo.structure, zoo.load(zoo.entries[0])

    def measured(vector: Tensor) -> tuple[float, float]:
        return measure(finished(structure, _split(structure, vector), constants))

    rng = generator(seed, "worth")
    orders = [torch.randperm(len(training), generator=rng) for _ in range(draws)]
    accuracy = _mean(measured(matrix[order[0]])[1] for order in orders)
    midpoint = _mean(measured(matrix[order[:2]].mean(0))[1] for order in orders)
    of_all = measured(mean)[1]
    soups = [order[:SOUP] for order in orders] if len(training) > SOUP else []
    lines = []
    for order in orders[: max(1, draws // 2)]:
        a, b = matrix[order[0]], matrix[order[1]]
        lines.append([measured(a + t * (b - a))[0] for t in torch.linspace(0, 1, POINTS).tolist()])
    line = torch.tensor(lines, dtype=torch.float64).mean(0)
    straight = line[0] + torch.linspace(0, 1, POINTS, dtype=torch.float64) * (line[-1] - line[0])
    codes = {}
    if held_out:
        new = vectors(zoo, [zoo.entries[k] for k in held_out])
        for k in [k for k in CODES if k < len(training)]:
            there = mean.repeat(len(new), 1)
            there[:, counted] = round_trip(own, new[:, counted], k)
            codes[k] = _mean(measured(vector)[1] for vector in there)
    behaviour = Kept(
        accuracy=accuracy,
        midpoint=midpoint,
        mean=of_all,
        soup=_mean(measured(matrix[rows].mean(0))[1] for rows in soups) if soups else of_all,
        codes=codes,
        line=tuple(line.tolist()),
        barrier=float((line - straight).max()),
    )
    return Averages(participation(own), behaviour)


def vectors(zoo: Zoo, entries: Sequence[Entry]) -> Tensor:
    """(N, D) float64: all floating-point values of each network, tied ones once."""
    names = [spec.name for spec in floats(zoo.structure)]
    rows = [torch.cat([w[name].double().flatten() for name in names]) for w in zoo.checkpoints(entries)]
    return torch.stack(rows)


def counting(structure: Structure) -> Tensor:
    """(D,) bool: which of the values of `vectors` are weights, and not statistics."""
    found = [torch.full((spec.numel,), spec.name.rpartition(".")[2] not in STATISTICS) for spec in floats(structure)]
    return torch.cat(found)


def participation(matrix: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of rows (N, D), from the Gram matrix; 0 where
    all are equal.
    """
    centred = matrix - matrix.mean(0)
    gram = centred @ centred.mT
    squares = float(gram.square().sum())
    return float(gram.trace()) ** 2 / squares if squares else 0.0


def round_trip(training: Tensor, new: Tensor, k: int) -> Tensor:
    """New rows (M, D) through the first k < N principal components of training rows (N, D) and back."""
    mean = training.mean(0)
    centred = training - mean
    values, directions = torch.linalg.eigh(centred @ centred.mT)
    basis = (directions[:, -k:] / values[-k:].clamp_min(1e-30).sqrt()).mT @ centred  # (k, D), orthonormal rows
    return mean + (new - mean) @ basis.mT @ basis


def rows(found: Worth) -> list[tuple[str, Pair, int]]:
    """What is measured: its name, the numbers raw and aligned, and how many digits they are shown with."""
    listed = [("objective: the mean's energy", found.objective, 3), ("participation ratio", found.participation, 1)]
    if one := found.behaviour:
        listed += [
            ("midpoint of two, accuracy", one.midpoint, 2),
            ("mean of all, accuracy", one.mean, 2),
            (f"soup of {min(SOUP, found.networks)}, accuracy", one.soup, 2),
            *((f"held out through PCA-{k}, accuracy", pair, 2) for k, pair in one.codes.items()),
            ("loss barrier", one.barrier, 3),
        ]
    return listed


def table(found: Worth) -> str:
    """The same for people."""
    accuracy = f"; accuracy {found.behaviour.accuracy:.2f}" if found.behaviour else ""
    lines = [f"{found.networks} networks, {found.held_out} held out{accuracy}"]
    lines.append(f"{'':<36}{'raw':>10}{'aligned':>10}")
    lines += [f"{name:<36}{p.raw:>10.{digits}f}{p.aligned:>10.{digits}f}" for name, p, digits in rows(found)]
    if one := found.behaviour:
        for name, line in (("raw", one.raw_line), ("aligned", one.aligned_line)):
            lines.append(f"{f'loss along the line, {name}':<30}{' '.join(f'{value:.3g}' for value in line)}")
    if found.objective.aligned <= found.objective.raw * (1 + NOTHING):
        lines.append("nothing was gained: the networks were as near to one another before")
    return "\n".join(lines)


def _split(structure: Structure, vector: Tensor) -> dict[str, Tensor]:
    found, start = {}, 0
    for spec in floats(structure):
        found[spec.name] = vector[start : start + spec.numel].view(spec.shape)
        start += spec.numel
    return found


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def floats(structure: Structure) -> list[TensorSpec]:
    """The tensors that networks differ in; of tied ones the first."""
    return [spec for spec in structure if spec.kind in VALUES and spec.tied_to is None]


def finished(structure: Structure, values: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values in float64 as a network: own dtypes, ties, constants of an original; no running variance is negative."""
    out: dict[str, Tensor] = {}
    for spec in structure:
        if spec.tied_to is not None:
            out[spec.name] = out[spec.tied_to]
        elif spec.kind == "constant":
            out[spec.name] = constants[spec.name]
        else:
            value = values[spec.name].clamp_min(0) if spec.kind == "running_var" else values[spec.name]
            out[spec.name] = value.to(DTYPES[spec.dtype])
    return out
