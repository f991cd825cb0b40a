"""Where each network of a zoo goes: one element of its symmetry group for every run, solved together.

All checkpoints of a run (one seed and condition, saved at several steps) share the solution of the last, since training
does not permute units. Only training networks decide where the zoo lies; the others are matched to the result, so that
held-out networks stay held out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from zoo.manifest import EARLY, Entry, Sha256
from zoo.seeds import Seed
from zoo.store import Zoo
from zoo.structure import Frozen
from zoo.symmetry.action import (
    Element,
    Part,
    Stack,
    act,
    compose,
    joined,
    output_parts,
    parts_of,
    taken,
    transformed,
)
from zoo.symmetry.activations import SAMPLES, Record, standardised
from zoo.symmetry.canonical import prepared
from zoo.symmetry.matching import Problem, Values, match
from zoo.symmetry.refine import Images, Refinement, refine
from zoo.symmetry.specification import Specification
from zoo.symmetry.universe import Aligned, Source, mean_and_share, medoid, to_one, universe

KEPT_VALUES = 2**27  # of a zoo's networks that are kept in memory (1 GiB); more are read again for every round
READ_VALUES = 2**22  # that are read at once


class AlignConfig(Frozen):
    """How a zoo is aligned.

    - `to`: `universe`, the mean of all; `medoid`, the network nearest to it; or the id of a network.
    - `match`: by `weights`, by `activations` on training images, or by `both`.
    - `scale`: take the scales of every network to their balanced point first.
    - `restarts`: starts for every network, of which the best is kept.
    - `refine`: lower the loss of means on training images then (zoo.symmetry.refine); for `universe` only.
    """

    to: str = "universe"
    match: Literal["weights", "activations", "both"] = "weights"
    scale: bool = True
    restarts: Annotated[int, Field(ge=1, le=1000)] = 4
    refine: Refinement | None = None
    seed: Seed = 0


class Alignment(Frozen):
    """What is kept beside an aligned zoo, in `alignment/alignment.json`; the elements are in `elements.safetensors`.

    `source` is the zoo's manifest; `rows` the element of each checkpoint, in the zoo's order; `reference` the id of the
    network all were matched to, if it was one. `before` and `shares`: the share of the training networks' energy that
    their mean has, as they were and after each round; 1 if all were equal, 1/N if they had nothing in common.
    `refined`: the loss of means on held-out training images before and after refinement.
    """

    config: AlignConfig
    source: Sha256
    specification: Specification
    rows: dict[str, int]
    reference: str | None
    before: float
    shares: tuple[float, ...]
    refined: tuple[float, float] | None = None


def runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Checkpoints of one run together, the last one last: entries of one seed, condition and split (early ones with the
    later ones) with steps of their own. Where steps are not told (generated networks) each is a run.
    """
    later = {(entry.seed, entry.condition): entry.split for entry in entries if entry.split != EARLY}
    found: dict[tuple[int, str | None, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        split = later.get((entry.seed, entry.condition), EARLY) if entry.split == EARLY else entry.split
        found[entry.seed, entry.condition, split].append(entry)
    groups = []
    for members in found.values():
        if len({entry.step for entry in members}) == len(members):
            groups.append(sorted(members, key=lambda entry: entry.step))
        else:
            groups += [[entry] for entry in members]
    return groups


def solve(
    config: AlignConfig,
    zoo: Zoo,
    specification: Specification,
    record: Record | None = None,
    images: Images | None = None,
    state: Path | None = None,
) -> tuple[Alignment, Element]:
    """The alignment of all networks of a zoo, and their elements (one row for each run).

    `record` gives activations, for `match` other than weights; `images` are for `refine`, of which `state` is a file to
    go on from. Raises ValueError for an id that is not there, for a specification that does not fit, and when data are
    wanted and not given.
    """
    specification.check(zoo.structure)
    if not specification.groups:
        raise ValueError(
            f"the networks of {zoo.path} have no symmetries: all groups touch tensors that are frozen; there is "
            "nothing to align, any method learns the zoo as it is"
        )
    if config.match != "weights" and record is None:
        raise ValueError(f"match={config.match!r} needs training images; expected match='weights', or the task's data")
    if config.refine is not None and (images is None or config.to != "universe"):
        raise ValueError(f"refine needs training images and to='universe', not {config.to!r}; leave it out")
    together = runs(zoo.entries)
    last = [members[-1] for members in together]
    training, chosen = _training(last), _chosen(config, last, zoo)
    source = Networks(config, zoo, specification, last, training, record)
    refined = None
    known = universe(source.problem, source.of(training), len(training), config.seed, config.restarts)
    if config.refine is not None and images is not None:
        refined = _refined(config.refine, source, training, known, images, config.seed, state)
    aligned, element = _solved(config, source, training, chosen, known)
    reference = chosen
    if config.to == "medoid":
        reference = training[medoid(source.problem, source.of(training), aligned)]
        aligned, element = _solved(config, source, training, reference, aligned)
    row_of = {entry.id: row for row, members in enumerate(together) for entry in members}
    rows = {entry.id: row_of[entry.id] for entry in zoo.entries}
    alignment = Alignment(
        config=config,
        source=zoo.sha256,
        specification=specification,
        rows=rows,
        reference=None if reference is None else last[reference].id,
        before=aligned.before,
        shares=tuple(aligned.shares),
        refined=refined,
    )
    return alignment, compose(specification, element, source.balanced)


def _refined(
    config: Refinement,
    source: Networks,
    training: list[int],
    aligned: Aligned,
    images: Images,
    seed: int,
    state: Path | None,
) -> tuple[float, float]:
    """Refine an alignment in place, which is a round more; the loss of means before and after."""
    stack, _ = source.read(torch.tensor(training))
    networks = act(source.specification, taken(source.balanced, torch.tensor(training)), stack)
    element, before, after = refine(
        source.problem.specification, networks, aligned.element, images, config, seed, state
    )
    own = source.of(training)
    aligned.element = element
    aligned.reference, share = mean_and_share(source.problem, own, len(training), element)
    aligned.shares.append(share)
    return before, after


def check_reference(config: AlignConfig, zoo: Zoo) -> None:
    """Raise ValueError unless networks of this zoo can be aligned to `config.to`."""
    _chosen(config, [members[-1] for members in runs(zoo.entries)], zoo)


def _training(last: Sequence[Entry]) -> list[int]:
    return [i for i, entry in enumerate(last) if entry.split == "train"] or list(range(len(last)))


def _chosen(config: AlignConfig, last: Sequence[Entry], zoo: Zoo) -> int | None:
    if config.to in ("universe", "medoid"):
        return None
    ids = [entry.id for entry in last]
    if config.to not in [entry.id for entry in zoo.entries]:
        raise ValueError(
            f"{config.to} is no checkpoint of {zoo.path}; expected universe, medoid, or the last checkpoint of a run, "
            f"such as {ids[0]}"
        )
    if config.to not in ids:
        raise ValueError(f"{config.to} is not the last checkpoint of its run; expected one of those, such as {ids[0]}")
    if (chosen := ids.index(config.to)) not in _training(last):  # the others would then be matched to what is held out
        raise ValueError(f"{config.to} is not of split train; expected universe, medoid or a training network")
    return chosen


def _solved(
    config: AlignConfig, source: Networks, training: list[int], chosen: int | None, aligned: Aligned
) -> tuple[Aligned, Element]:
    """All networks aligned: the training networks with each other (or to the `chosen` one), then the rest to them."""
    problem, own = source.problem, source.of(training)
    if chosen is not None:
        aligned = to_one(problem, own, aligned, training.index(chosen), config.seed, config.restarts)
    rest = [row for row in range(source.n) if row not in set(training)]
    element = {name: tensor.new_zeros((source.n, *tensor.shape[1:])) for name, tensor in aligned.element.items()}
    for name, tensor in aligned.element.items():
        element[name][training] = tensor
    for rows in torch.tensor(rest, dtype=torch.int64).split(source.chunk):
        if len(rows):
            found, _ = match(problem, aligned.reference, source(rows), config.seed, config.restarts)
            for name, tensor in found.items():
                element[name][rows] = tensor
    return aligned, element


class Networks:
    """A zoo's networks as the solver wants them (zoo.symmetry.universe.Source): gains positive, scales balanced, parts
    weighted.
    """

    def __init__(
        self,
        config: AlignConfig,
        zoo: Zoo,
        specification: Specification,
        entries: Sequence[Entry],
        training: Sequence[int],
        record: Record | None,
    ) -> None:
        self.zoo, self.entries, self.specification, self.n = zoo, entries, specification, len(entries)
        self.record, self.frozen = (record if config.match != "weights" else None), zoo.frozen()
        self.weight_parts, self.output_parts = self._parts(config, specification)
        matched = specification.matched()
        weights, outputs = self._parts(config, matched)
        self.problem = Problem(matched, (*weights, *outputs))
        self.chunk = max(1, READ_VALUES // zoo.structure.numel)
        self.factors = [1.0] * len(self.problem.parts)
        self.balanced: Element = {}
        self._kept: Values | None = None
        self._survey(config.scale, training)

    def _parts(self, config: AlignConfig, specification: Specification) -> tuple[list[Part], list[Part]]:
        weights = [part for part in parts_of(specification) if part.cost] if config.match != "activations" else []
        return weights, output_parts(specification, SAMPLES) if self.record else []

    def _survey(self, scale: bool, training: Sequence[int]) -> None:
        """Balance every network, and weigh every part by its mean squared norm over the training networks."""
        used = torch.zeros(self.n, dtype=torch.bool)
        used[list(training)] = True
        elements, read, squares = [], [], torch.zeros(len(self.problem.parts), dtype=torch.float64)
        small = self.n * sum(part.numel for part in self.problem.parts) <= KEPT_VALUES
        for rows in torch.arange(self.n).split(self.chunk):
            stack, outputs = self.read(rows)
            balanced = prepared(self.specification, stack, scale)
            values = self._values(stack, outputs, balanced)
            squares += torch.stack([value[used[rows]].square().sum() for value in values])
            elements.append(balanced)
            if small:
                read.append(values)
        self.balanced = joined(elements)
        self.factors = self._weighted((squares / len(training)).tolist())
        if small:
            whole = [torch.cat(values) for values in zip(*read, strict=True)]
            self._kept = [value.mul_(factor) for value, factor in zip(whole, self.factors, strict=True)]

    def _weighted(self, energies: Sequence[float]) -> list[float]:
        """What each part is multiplied by, so that every value counts in units of its part's root mean square. Plain
        inner products let a few large tensors decide; parts of equal norm would let a bias count as much as a matrix.
        Weights and outputs have a total of 1 each.
        """
        sizes = [part.numel for part in self.problem.parts]
        weights = len(self.weight_parts)
        totals = [sum(sizes[:weights])] * weights + [sum(sizes[weights:])] * (len(sizes) - weights)
        terms = zip(sizes, totals, energies, strict=True)
        return [(size / total / energy) ** 0.5 if energy > 0 else 0.0 for size, total, energy in terms]

    def __call__(self, rows: Tensor) -> Values:
        """The values of these networks, (rows, *sizes) for every part, float64."""
        if self._kept is not None:
            return [value[rows] for value in self._kept]
        values = self._values(*self.read(rows), taken(self.balanced, rows))
        return [value.mul_(factor) for value, factor in zip(values, self.factors, strict=True)]

    def of(self, chosen: Sequence[int]) -> Source:
        """A source of these networks alone, counted from 0."""
        index = torch.tensor(chosen)
        return lambda rows: self(index[rows])

    def read(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Stacks of weights (rows, *shape) and of modules' outputs (rows, channels, samples)."""
        entries = [self.entries[row] for row in rows.tolist()]
        weights = list(self.zoo.checkpoints(entries))
        for entry, network in zip(entries, weights, strict=True):
            if bad := [name for name in self.specification.tensors if not network[name].isfinite().all()]:
                raise ValueError(f"{entry.id} of {self.zoo.path} has values that are NaN or infinite in {bad[0]}")
        outputs = [self.record(network | self.frozen) for network in weights] if self.record else []
        names = outputs[0] if outputs else {}
        stack = {name: torch.stack([network[name] for network in weights]) for name in self.specification.tensors}
        return stack, {name: torch.stack([output[name] for output in outputs]) for name in names}

    def _values(self, stack: Stack, outputs: Stack, balanced: Element) -> Values:
        values = [part.view(stack[part.name]) for part in self.weight_parts]
        values = [
            transformed(self.specification, balanced, value, part.dims).double().clone()
            for value, part in zip(values, self.weight_parts, strict=True)
        ]
        answers = [standardised(self.specification, part, part.view(outputs[part.name])) for part in self.output_parts]
        return values + answers
