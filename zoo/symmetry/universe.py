"""A common reference of many networks: generalised Procrustes analysis, with every step of matching exact.

The universe is the mean of the aligned networks. Matching all to the mean and taking the mean again never lowers the
share of the zoo's energy that the mean has, and costs O(N) a round; it is Ainsworth et al.'s MergeMany and, with hard
steps, the cycle-consistent objective of C2M3 (Crisostomi et al., 2024): sum_{a<b} <T_a, T_b> = (|sum T|^2 - sum
|T|^2) / 2. It is tried from several networks on a sample of the zoo first. In the end each network of a small zoo is
matched to the mean of the others, since its own part in the mean would keep it where it is.

Networks are taken in the order of their norms, so neither the zoo's order nor that of a network's units matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.symmetry.action import Element, compose, identity, inverse, taken
from zoo.symmetry.canonical import presented
from zoo.symmetry.matching import LEAST_GAIN, Problem, Values, match

Source: TypeAlias = Callable[[Tensor], Values]
"""The values of the networks with these indices, weighted, as they are before any matching."""
PILOT = 32  # networks on which references are tried
MOST_ROUNDS = 30
LEAST_RISE = 1e-5  # of the mean's energy in a round, as a share of it
BLOCKS = 16  # of networks that are matched at once to means without themselves
LEAVE_OUT_BELOW = 2**27  # values of all networks; more are matched to the mean of all
CHUNK_VALUES = 2**20  # that are matched at once: what a processor's cache holds


@dataclass
class Aligned:
    """`element` takes every network (N) to the reference; `share` is what the mean has of the networks' energy, 1 if
    they are all equal: `before`, with all as they were, and after each round.
    """

    reference: Values
    element: Element
    before: float
    shares: list[float] = field(default_factory=list)


def universe(problem: Problem, source: Source, n: int, seed: int, restarts: int) -> Aligned:
    """Align N networks to their mean. `restarts`: starts for every network, and references that are tried."""
    order, energy, mean = _survey(problem, source, n)
    aligned = Aligned(mean, identity(problem.specification, n), _share(mean, energy))
    if n == 1:
        aligned.element = presented(problem, source(torch.arange(1)))
        aligned.reference = problem.moved(aligned.element, source(torch.arange(1)))
        return aligned
    pilot = order[torch.linspace(0, n - 1, min(n, PILOT)).round().long()]
    references = pilot[torch.linspace(0, len(pilot) - 1, min(len(pilot), restarts)).round().long()].unique_consecutive()
    tried = [_rounds(problem, source, pilot, _first(problem, source, k), seed, 1, most=4) for k in references.tolist()]
    mean = max(tried, key=lambda found: _share(found[1], energy))[1]
    element, mean, shares = _rounds(problem, source, order, mean, seed, restarts, most=MOST_ROUNDS)
    if _share(mean, energy) < aligned.before - LEAST_GAIN:  # they were nearer as they stood, as noisy copies are
        asis, mean = identity(problem.specification, n), aligned.reference
        element, mean, shares = _rounds(problem, source, order, mean, seed, 0, most=MOST_ROUNDS, element=asis)
    if n * sum(value.numel() for value in mean) <= LEAVE_OUT_BELOW:
        element, mean = _leave_out(problem, source, order, element, mean, seed)
    own = presented(problem, mean)  # or the network it was begun with would decide where the zoo lies
    aligned.reference = problem.moved(own, mean)
    aligned.element = compose(problem.specification, _repeated(own, n), taken(element, order.argsort()))
    aligned.shares = [share / energy if energy else 0.0 for share in shares] + [_share(mean, energy)]
    return aligned


def to_one(problem: Problem, source: Source, aligned: Aligned, chosen: int, seed: int, restarts: int) -> Aligned:
    """Align all networks to one of them, which stays as it is: from where the universe has them, and from `restarts`
    starts of their own.
    """
    n = len(next(iter(aligned.element.values())))
    specification = problem.specification
    reference = source(torch.tensor([chosen]))
    back = inverse(specification, taken(aligned.element, torch.tensor([chosen])))
    element = identity(specification, n)
    for rows in _chunks(problem, source, torch.arange(n)):
        warm = compose(specification, _repeated(back, len(rows)), taken(aligned.element, rows))
        found, _ = match(problem, reference, source(rows), seed, restarts, warm)
        for name, tensor in found.items():
            element[name][rows] = tensor
    for name, tensor in identity(specification, 1).items():
        element[name][chosen] = tensor[0]
    return Aligned(reference, element, aligned.before, [mean_and_share(problem, source, n, element)[1]])


def mean_and_share(problem: Problem, source: Source, n: int, element: Element) -> tuple[Values, float]:
    """The mean (1 network) of N networks after their elements, and what it has of their energy."""
    mean = mean_of(problem, source, torch.arange(n), element)
    return mean, _share(mean, _survey(problem, source, n)[1])


def _repeated(element: Element, n: int) -> Element:
    return {name: tensor.expand(n, *tensor.shape[1:]) for name, tensor in element.items()}


def medoid(problem: Problem, source: Source, aligned: Aligned) -> int:
    """The network nearest to the universe."""
    n = len(next(iter(aligned.element.values())))
    distances = torch.zeros(n, dtype=torch.float64)
    for rows in _chunks(problem, source, torch.arange(n)):
        moved = problem.moved(taken(aligned.element, rows), source(rows))
        gaps = [value - mean for value, mean in zip(moved, aligned.reference, strict=True)]
        distances[rows] = problem.objective(gaps, gaps)
    return int(distances.argmin())


def _survey(problem: Problem, source: Source, n: int) -> tuple[Tensor, float, Values]:
    """The order of the networks by their parts' norms, their mean energy, and the mean of them as they are."""
    norms = torch.cat(
        [
            torch.stack([value.flatten(1).double().square().sum(1) for value in source(rows)], 1)
            for rows in _chunks(problem, source, torch.arange(n))
        ]
    )
    order = torch.tensor(sorted(range(n), key=norms.tolist().__getitem__))
    return order, float(norms.sum(1).mean()), mean_of(problem, source, order, identity(problem.specification, n))


def _first(problem: Problem, source: Source, k: int) -> Values:
    values = source(torch.tensor([k]))
    return problem.moved(presented(problem, values), values)


def _rounds(
    problem: Problem,
    source: Source,
    order: Tensor,
    mean: Values,
    seed: int,
    restarts: int,
    most: int,
    element: Element | None = None,
) -> tuple[Element, Values, list[float]]:
    """Match to the mean, take the mean, until nothing gains, from this `element` on or from starts alone. Returns the
    element (in the order's order), the mean, and its energy after each round.
    """
    shares: list[float] = []
    for number in range(most):
        found = identity(problem.specification, len(order))
        for rows in _chunks(problem, source, torch.arange(len(order))):
            warm = None if element is None else taken(element, rows)
            starts = restarts if number < 2 else 0
            for name, tensor in match(problem, mean, source(order[rows]), seed, starts, warm)[0].items():
                found[name][rows] = tensor
        still = element is not None and all(torch.equal(found[name], element[name]) for name in found)
        element, mean = found, mean_of(problem, source, order, found)
        shares.append(_energy(mean))
        if still or (number > 1 and shares[-1] < shares[-2] * (1 + LEAST_RISE)):
            break
    assert element is not None
    return element, mean, shares


def _leave_out(
    problem: Problem, source: Source, order: Tensor, element: Element, mean: Values, seed: int
) -> tuple[Element, Values]:
    """Match every network to the mean of the others, a block of networks at a time, until nothing gains. A block's
    networks move at once; that the mean's energy rises is exact for blocks of one, and checked for all.
    """
    n = len(order)
    element = {name: tensor.clone() for name, tensor in element.items()}
    total, blocks = [value * n for value in mean], torch.arange(n).split(max(1, n // BLOCKS))
    for number in range(MOST_ROUNDS):
        before = _energy(total)
        for rows in blocks:
            values, warm = source(order[rows]), taken(element, rows)
            own = problem.moved(warm, values)
            others = [(whole - value) / (n - 1) for whole, value in zip(total, own, strict=True)]
            found, _ = match(problem, others, values, seed, 1 if number == 0 else 0, warm)
            new = problem.moved(found, values)
            changes = [(value - old).sum(0, keepdim=True) for value, old in zip(new, own, strict=True)]
            changed = [whole + change for whole, change in zip(total, changes, strict=True)]
            if _energy(changed) > _energy(total) * (1 + LEAST_GAIN):
                total = changed
                for name, tensor in found.items():
                    element[name][rows] = tensor
        if _energy(total) < before * (1 + LEAST_RISE):
            break
    return element, mean_of(problem, source, order, element)


def mean_of(problem: Problem, source: Source, order: Tensor, element: Element) -> Values:
    """The mean (1 network) of the networks after their elements."""
    total: Values = []
    for rows in _chunks(problem, source, torch.arange(len(order))):
        sums = [v.sum(0, keepdim=True) for v in problem.moved(taken(element, rows), source(order[rows]))]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    return [value / len(order) for value in total]


def _chunks(problem: Problem, source: Source, rows: Tensor) -> list[Tensor]:
    values = sum(value[0].numel() for value in source(rows[:1]))
    return list(rows.split(max(1, CHUNK_VALUES // values)))


def _energy(mean: Values) -> float:
    return float(sum(value.double().square().sum() for value in mean))


def _share(mean: Values, energy: float) -> float:
    return _energy(mean) / energy if energy else 0.0
