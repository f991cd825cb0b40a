"""Elements of a network's symmetry group, and how they act on its tensors; many networks at once.

An Element maps the name of a group to a tensor, N networks first (H: units of the group it is within, if any):

| kind             | tensor                                                                      |
|------------------|-----------------------------------------------------------------------------|
| permutation      | int64 (N, [H,] n): unit i of the new network is unit element[i] of the old  |
| rotation, linear | float64 (N, [H,] n, n): the new units are this matrix times the old         |
| scale, sign      | float64 (N, [H,] n): what unit i of the new network is multiplied by        |

Groups within another are indexed by that one's *new* units: new[h, i] = old[outer[h], inner[h, i]]. A group that an
Element does not name stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.symmetry.specification import MATRICES, Axis, Factor, Piece, Specification, TensorAxes

Element: TypeAlias = dict[str, Tensor]
Stack: TypeAlias = Mapping[str, Tensor]
"""Networks: name -> (N, *shape)."""


@dataclass(frozen=True)
class Part:
    """A block of a tensor: one piece of every axis, seen with a dimension for each of their factors."""

    name: str
    starts: tuple[int, ...]  # along each axis
    pieces: tuple[Piece, ...]  # of each axis
    cost: bool

    @cached_property
    def dims(self) -> tuple[Factor, ...]:
        return tuple(factor for piece in self.pieces for factor in piece)

    @property
    def numel(self) -> int:
        return math.prod(factor.size for factor in self.dims)

    def view(self, tensor: Tensor) -> Tensor:
        """(N, *shape) -> (N, *sizes of dims), sharing memory."""
        for axis in reversed(range(len(self.pieces))):
            sizes = [factor.size for factor in self.pieces[axis]]
            tensor = tensor.narrow(axis + 1, self.starts[axis], math.prod(sizes)).unflatten(axis + 1, sizes)
        return tensor


def parts_of(specification: Specification) -> list[Part]:
    """The parts of all tensors that any group touches."""
    return [part for name, tensor in specification.tensors.items() for part in _parts(name, tensor)]


def _parts(name: str, tensor: TensorAxes) -> list[Part]:
    chosen = product(*(_with_starts(axis) for axis in tensor.axes))
    found = [Part(name, tuple(s for s, _ in c), tuple(p for _, p in c), tensor.cost) for c in chosen]
    return [part for part in found if any(factor.group for factor in part.dims)]


def output_parts(specification: Specification, samples: int) -> list[Part]:
    """The parts of all modules' outputs, as tensors (N, channels, samples)."""
    on_samples = (Factor(size=samples),)
    return [
        Part(name, (start, 0), (piece, on_samples), cost=True)
        for name, axis in specification.outputs.items()
        for start, piece in _with_starts(axis)
        if any(factor.group for factor in piece)
    ]


def _with_starts(axis: Axis) -> list[tuple[int, Piece]]:
    starts = [0]
    for piece in axis:
        starts.append(starts[-1] + math.prod(factor.size for factor in piece))
    return list(zip(starts, axis, strict=False))


def act(specification: Specification, element: Element, networks: Stack) -> dict[str, Tensor]:
    """The networks that the element takes these to: (N, *shape) each, in their own dtypes. Scales and matrices are
    applied in float64 and rounded once; tied tensors have to be given once, or alike.
    """
    out = {name: tensor.clone() for name, tensor in networks.items()}
    for name, tensor in specification.tensors.items():
        for part in _parts(name, tensor):
            source, target = part.view(networks[name]), part.view(out[name])
            target.copy_(transformed(specification, element, source, part.dims))
    return out


def transformed(specification: Specification, element: Element, values: Tensor, dims: tuple[Factor, ...]) -> Tensor:
    """A part's values (N, *sizes) after the element. They come out in float64 if anything but an order changed."""
    for at, factor in enumerate(dims, 1):
        if factor.group is None:
            continue
        inner = specification.groups[factor.group].within is not None
        moved = element.get(factor.group)
        if moved is not None and specification.groups[factor.group].kind in MATRICES:
            matrix = moved if factor.powers.get(factor.group, 1) == 1 else torch.linalg.inv(moved).mT
            values = multiplied(values.double(), at, matrix, inner)
        elif moved is not None:
            values = reordered(values, at, moved, inner)
        for name, power in factor.powers.items():
            if name in element and name != factor.group:
                values = values.double() * _along(element[name] ** power, at, values.ndim, inner)
    return values


def _along(numbers: Tensor, at: int, ndim: int, inner: bool) -> Tensor:
    """(N, [H,] n) so that it broadcasts over dimension `at` (and the one before) of a part."""
    shape = [1] * ndim
    shape[0] = len(numbers)
    shape[at] = numbers.shape[-1]
    if inner:
        shape[at - 1] = numbers.shape[1]
    return numbers.view(shape)


def reordered(values: Tensor, at: int, order: Tensor, inner: bool = False) -> Tensor:
    """Dimension `at` of values (N, ...) in each network's own order (N, n), or for every unit of the dimension before
    it in that unit's (N, H, n).
    """
    n = values.shape[at]
    before, after = math.prod(values.shape[1:at]), math.prod(values.shape[at + 1 :])
    index = order if inner else order[:, None]  # (N, H or 1, n)
    index = index.repeat(1, before // index.shape[1], 1).view(-1, n)
    index = index + torch.arange(0, len(index) * n, n)[:, None]
    return values.reshape(-1, after).index_select(0, index.view(-1)).view(values.shape)


def multiplied(values: Tensor, at: int, matrix: Tensor, inner: bool) -> Tensor:
    """Each network's matrix (N, n, n) times dimension `at` of values (N, ...), or (N, H, n, n) as in `reordered`."""
    dims, front = ((at - 1, at), (1, 2)) if inner else ((at,), (1,))
    moved = values.movedim(dims, front)
    return torch.matmul(matrix, moved.reshape(*matrix.shape[:-1], -1)).view(moved.shape).movedim(front, dims)


def identity(specification: Specification, networks: int) -> Element:
    """The element that leaves these many networks as they are."""
    element: Element = {}
    for name, group in specification.groups.items():
        shape = _shape(specification, name, networks)
        unit = torch.eye(group.size, dtype=torch.float64) if group.kind in MATRICES else torch.arange(group.size)
        element[name] = unit.expand(*shape[:-1], *unit.shape).clone()
    for name, diagonal in specification.diagonals.items():
        element[name] = torch.ones(_shape(specification, diagonal.on, networks), dtype=torch.float64)
    return element


def random_element(specification: Specification, networks: int, rng: torch.Generator) -> Element:
    """Orders and signs drawn uniformly, rotations by Haar's measure, scales from 1/4 to 4, linear maps of condition at
    most 16.
    """
    element: Element = {}
    for name, group in specification.groups.items():
        shape = _shape(specification, name, networks)
        if group.kind == "permutation":
            element[name] = torch.rand(shape, generator=rng, dtype=torch.float64).argsort(-1)
            continue
        element[name] = _random_rotation(shape, rng)
        if group.kind == "linear":
            element[name] = _random_scale(shape, rng)[..., None] * element[name] @ _random_rotation(shape, rng)
    for name, diagonal in specification.diagonals.items():
        shape = _shape(specification, diagonal.on, networks)
        if diagonal.kind == "scale":
            element[name] = _random_scale(shape, rng)
        else:
            element[name] = torch.randint(2, shape, generator=rng).double() * 2 - 1
    return element


def _random_scale(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.exp2(torch.rand(shape, generator=rng, dtype=torch.float64) * 4 - 2)


def _random_rotation(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn((*shape, shape[-1]), generator=rng, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def _shape(specification: Specification, group: str, networks: int) -> tuple[int, ...]:
    within = specification.groups[group].within
    return (networks, *((specification.groups[within].size,) if within else ()), specification.groups[group].size)


def compose(specification: Specification, second: Element, first: Element) -> Element:
    """What `first`, then `second` does. `first` names all groups, as `identity` does; `second` those that it moves."""
    element: Element = {}
    for name, group in specification.groups.items():
        old, new = first[name], second.get(name)
        if group.within in second:
            old = reordered(old, 1, second[group.within])
        if new is not None:
            old = new @ old if group.kind in MATRICES else old.gather(-1, new)
        element[name] = old
    for name, diagonal in specification.diagonals.items():
        numbers = _carried(specification, second, diagonal.on, first[name])
        element[name] = second[name] * numbers if name in second else numbers
    return element


def inverse(specification: Specification, element: Element) -> Element:
    """The element that undoes this one, which names all groups."""
    back: Element = {}
    for name, group in specification.groups.items():
        undone = torch.linalg.inv(element[name]) if group.kind in MATRICES else element[name].argsort(-1)
        back[name] = reordered(undone, 1, element[group.within].argsort(-1)) if group.within else undone
    for name, diagonal in specification.diagonals.items():
        back[name] = 1 / _carried(specification, back, diagonal.on, element[name])
    return back


def _carried(specification: Specification, element: Element, group: str, numbers: Tensor) -> Tensor:
    """Numbers (N, [H,] n) of a group's units, in the order in which the element puts these."""
    within = specification.groups[group].within
    if within in element:
        numbers = reordered(numbers, 1, element[within])
    return numbers.gather(-1, element[group]) if group in element else numbers


def taken(element: Element, rows: Tensor | slice) -> Element:
    """The element of these networks alone."""
    return {name: tensor[rows] for name, tensor in element.items()}


def joined(elements: list[Element]) -> Element:
    """Elements of several sets of networks as one."""
    return {name: torch.cat([element[name] for element in elements]) for name in elements[0]}
