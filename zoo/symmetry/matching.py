"""Match many networks to one reference: coordinate descent over groups, each step exact, the objective never falls.

The objective is the sum over parts of tensors of <reference, network> (Ainsworth et al., 2023, Algorithm 1), each part
with a weight of its own, which whoever makes the values gives them. For networks whose norms the groups keep it is the
squared distance, up to sign and constants.

A start does not depend on the order in which a network happens to have its units: groups are solved one after the
other, and of an axis whose group is not solved yet only what does not depend on its order counts (norm, mean, third
moment; singular values for rotations). Restarts take the groups in other orders; of all the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from zoo.seeds import generator
from zoo.symmetry.action import Element, Part, compose, identity, joined, taken, transformed
from zoo.symmetry.assignment import Products, best
from zoo.symmetry.specification import MATRICES, Factor, Specification

Values = list[Tensor]
"""Networks in the solver's form: of every part (N, *sizes), weighted."""
LEAST_GAIN = 1e-9  # of the objective, for networks whose weighted norm is 1 or so
MOST_SWEEPS = 200


@dataclass(frozen=True)
class Problem:
    """What is matched: the specification and its parts; values are lists in this order."""

    specification: Specification
    parts: tuple[Part, ...]

    @cached_property
    def touching(self) -> dict[str, list[int]]:
        """The parts that have a dimension of each group."""
        groups = self.specification.groups
        return {g: [i for i, p in enumerate(self.parts) if any(f.group == g for f in p.dims)] for g in groups}

    def moved(
        self, element: Element, values: Sequence[Tensor] | Mapping[int, Tensor], which: Iterable[int] | None = None
    ) -> Values:
        """The values after the element, of all parts or of these."""
        indices = range(len(self.parts)) if which is None else which
        return [
            transformed(self.specification, element, values[i], self.parts[i].dims).to(values[i].dtype) for i in indices
        ]

    def objective(self, reference: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        """(N,) in float64: the weighted inner products with the reference (1 network, or N)."""
        flat = ((r.flatten(1).double(), v.flatten(1).double()) for r, v in zip(reference, values, strict=True))
        return torch.stack([(r * v).sum(1) for r, v in flat]).sum(0)


def match(
    problem: Problem, reference: Values, values: Values, seed: int, restarts: int = 1, warm: Element | None = None
) -> tuple[Element, Tensor]:
    """The element that takes each network nearest to the reference (one for all, or one each), and the objective (N,)
    there: the best of what `warm` (an element to go on from) and `restarts` starts lead to. Networks do not influence
    each other.
    """
    specification, n = problem.specification, len(values[0])
    outermost = specification.outermost()
    begins = [(outermost, reference), (outermost[::-1], reference)][:restarts]
    for k in range(2, restarts):
        shuffled = torch.randperm(len(outermost), generator=generator(seed, "order", k)).tolist()
        factors = torch.randn(len(reference), generator=generator(seed, "factors", k)).exp().tolist()
        begins.append(([outermost[i] for i in shuffled], [r * f for r, f in zip(reference, factors, strict=True)]))
    element, reached = identity(specification, n), torch.full((n,), -torch.inf, dtype=torch.float64)
    starts = (begin(problem, weighted, values, order) for order, weighted in begins)
    for start in chain([] if warm is None else [warm], starts):
        found, objective = descend(problem, reference, problem.moved(start, values), start, seed)
        better = objective > reached + LEAST_GAIN
        element = {name: _where(better, found[name], element[name]) for name in element}
        reached = torch.where(better, objective, reached)
    return element, reached


def _where(rows: Tensor, these: Tensor, those: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (these.ndim - 1)), these, those)


def begin(problem: Problem, reference: Values, values: Values, order: Sequence[str]) -> Element:
    """The start of a descent: solves the groups once, in this order."""
    specification = problem.specification
    element, values = identity(specification, len(values[0])), list(values)
    solved: set[str] = set()
    for group in order:
        products = _products(problem, reference, values, group, solved)
        if products.empty:
            continue
        step, _ = best(specification, group, products)
        element = compose(specification, step, element)
        touched = problem.touching[group]
        for i, value in zip(touched, problem.moved(step, values, touched), strict=True):
            values[i] = value
        solved |= step.keys()
    return element


def descend(problem: Problem, reference: Values, values: Values, element: Element, seed: int) -> tuple[Element, Tensor]:
    """Improve group by group, in an order drawn for each sweep, until no step gains any more. `values` are those after
    `element`. Returns the element and the objective (N,).
    """
    outermost, rows = problem.specification.outermost(), torch.arange(len(values[0]))
    values, element = [value.clone() for value in values], {name: e.clone() for name, e in element.items()}
    finished: list[tuple[Tensor, Element, Tensor]] = []
    for sweep in range(MOST_SWEEPS):
        changed = torch.zeros(len(rows), dtype=torch.bool)
        for k in torch.randperm(len(outermost), generator=generator(seed, "sweep", sweep)).tolist():
            changed |= _improve(problem, reference, values, element, outermost[k])
        stays = ~changed if sweep < MOST_SWEEPS - 1 else torch.ones_like(changed)
        if stays.any():
            reached = problem.objective(_rows(reference, stays), [value[stays] for value in values])
            finished.append((rows[stays], taken(element, stays), reached))
            rows, values, element = rows[~stays], [value[~stays] for value in values], taken(element, ~stays)
            reference = _rows(reference, ~stays)
        if not len(rows):
            break
    back = torch.cat([which for which, _, _ in finished]).argsort()
    found = taken(joined([e for _, e, _ in finished]), back)
    return found, torch.cat([reached for _, _, reached in finished])[back]


def _improve(problem: Problem, reference: Values, values: Values, element: Element, group: str) -> Tensor:
    """The best step of one group, in place, for the networks (N,) that it gains something for: which these are."""
    specification = problem.specification
    products = _products(problem, reference, values, group, set(specification.groups))
    improved = torch.zeros(len(values[0]), dtype=torch.bool)
    if products.empty:
        return improved
    step, gained = best(specification, group, products)
    rows = (gained > LEAST_GAIN).nonzero()[:, 0]
    if not len(rows):
        return improved
    touched, step = problem.touching[group], taken(step, rows)
    old = {i: values[i][rows] for i in touched}
    new = dict(zip(touched, problem.moved(step, old, touched), strict=True))
    if any(sum(factor.group == group for factor in problem.parts[i].dims) > 1 for i in touched):
        # The group is on two axes of one tensor, so that the step is only a linear approximation's best.
        ref = _rows([reference[i] for i in touched], rows)
        real = problem.objective(ref, list(new.values())) - problem.objective(ref, list(old.values()))
        kept = real > LEAST_GAIN
        rows, step, new = rows[kept], taken(step, kept), {i: value[kept] for i, value in new.items()}
    for i, value in new.items():
        values[i][rows] = value
    for name, moved in compose(specification, step, taken(element, rows)).items():
        element[name][rows] = moved
    improved[rows] = True
    return improved


def _products(problem: Problem, reference: Values, values: Values, group: str, solved: set[str]) -> Products:
    """The inner products of the units of a group and of the groups within it, given the groups that are solved."""
    products = Products()
    inner_groups = problem.specification.inner(group)
    for i in problem.touching[group]:
        dims = problem.parts[i].dims
        for at, factor in enumerate(dims):
            if factor.group == group:
                follows = dims[at + 1].group if at + 1 < len(dims) else None
                inner = follows if follows in inner_groups else None
                _add(problem, products, reference[i], values[i], dims, at, inner, solved)
    return products


def _add(
    problem: Problem,
    products: Products,
    reference: Tensor,
    values: Tensor,
    dims: tuple[Factor, ...],
    at: int,
    inner: str | None,
    solved: set[str],
) -> None:
    """What one dimension of one part adds to the products of its group."""
    own = {at, at + 1} if inner else {at}
    loose = [d for d, factor in enumerate(dims) if d not in own and factor.group and factor.group not in solved]
    sign = sign_of(problem.specification, dims[at])
    front = sorted(own)
    if not loose:
        products.add(_blocks(reference, values, front), sign, inner)
        return
    if inner and problem.specification.groups[inner].kind in MATRICES:
        spectra = [torch.linalg.svdvals(_front(x, front).double()) for x in (reference, values)]
        products.add(_blocks(spectra[0], spectra[1], [0]))
        return
    even_only = any(
        sign_of(problem.specification, dims[d]) or problem.specification.groups[str(dims[d].group)].kind in MATRICES
        for d in loose
    )
    left = [d for d in range(len(dims)) if d not in loose]
    front = [left.index(d) for d in front]
    for feature, is_odd in _invariants(even_only):
        ref, net = (feature(_back(x, loose)) for x in (reference, values))
        products.add(_blocks(ref, net, front), sign if is_odd else None, inner)


def sign_of(specification: Specification, factor: Factor) -> str | None:
    """The sign that turns values along this dimension, if one does."""
    for name, power in factor.powers.items():
        if power % 2 and name in specification.diagonals and specification.diagonals[name].kind == "sign":
            return name
    return None


def _invariants(even_only: bool) -> list[tuple[Callable[[Tensor], Tensor], bool]]:
    """Functions of the last dimension that its order does not change, as large as its values, and whether they turn
    with their sign.
    """
    norm = (lambda x: x.norm(dim=-1), False)
    if even_only:
        return [norm]
    return [
        norm,
        (lambda x: x.sum(-1) / x.shape[-1] ** 0.5, True),
        (lambda x: (third := x.pow(3).sum(-1)).sign() * third.abs().pow(1 / 3), True),
    ]


def _back(values: Tensor, dims: list[int]) -> Tensor:
    """These dimensions of each network as one, the last."""
    return values.movedim([d + 1 for d in dims], list(range(-len(dims), 0))).flatten(-len(dims))


def _front(values: Tensor, dims: list[int]) -> Tensor:
    """(N, sizes of these dimensions, all else)."""
    moved = values.movedim([d + 1 for d in dims], list(range(1, len(dims) + 1)))
    return moved.reshape(*moved.shape[: len(dims) + 1], -1)


def _blocks(reference: Tensor, values: Tensor, dims: list[int]) -> Tensor:
    """Inner products [reference's, network's] of what stands along one dimension (N, n, n), or along two
    (N, n, n, m, m).
    """
    ref, net = _front(reference, dims), _front(values, dims)
    n, sizes = len(net), net.shape[1:-1]
    ref, net = ref.flatten(1, -2), net.flatten(1, -2)  # (1 or N, units, all else)
    if len(ref) == 1:
        products = (net.flatten(0, 1) @ ref[0].mT).view(n, *sizes, *sizes)  # [network's, reference's], in one product
    else:
        products = (net @ ref.mT).view(n, *sizes, *sizes)
    return products.mT if len(sizes) == 1 else products.permute(0, 3, 1, 4, 2)


def _rows(reference: Values, rows: Tensor) -> Values:
    """The references of these networks: one for all, or one each."""
    return [r if len(r) == 1 else r[rows] for r in reference]
