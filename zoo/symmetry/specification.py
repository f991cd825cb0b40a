"""The symmetries of an architecture as data: groups, and for every axis of every tensor the group it belongs to.

A network's hidden units have no order: permute the rows that write a layer's units and the columns that read them, and
the network computes the same. Every axis of every tensor is described as

    axis   = pieces, one after the other       (the rows of a fused qkv: queries, keys, values)
    piece  = factors, the last running fastest (heads x units of a head; channels x pixels after a flatten)
    factor = a size, and the group whose units it counts, or none (input channels, pixels, classes)

and groups are

| kind          | an element is                                                  | where                          |
|---------------|----------------------------------------------------------------|--------------------------------|
| `permutation` | an order of the units                                          | any layer, heads               |
| `rotation`    | an orthogonal matrix                                           | queries and keys of a head     |
| `linear`      | an invertible matrix; a factor of power -1 takes its inverse   | the inner axis of LoRA         |
| `scale`       | a positive number a unit; power -1 divides by it               | ReLU, LeakyReLU                |
| `sign`        | +1 or -1 a unit; even powers do not feel it                    | tanh, filters before BatchNorm |

The first three are `groups`; the last two are `diagonals`, which act on the units of a permutation. A group `within`
another has an element for each of that one's units: a permutation or rotation for every head, or of the channels of
every set that GroupNorm normalises together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from zoo.structure import Frozen, Structure

MATRICES = ("rotation", "linear")


class Group(Frozen):
    """`size` units (a matrix of this size); `within`: one element for each unit of that other group."""

    size: PositiveInt
    kind: Literal["permutation", "rotation", "linear"] = "permutation"
    within: str | None = None


class Diagonal(Frozen):
    """A number for each unit of the permutation `on`. `gain` is a vector along these units that it multiplies, as
    BatchNorm's weight, which decides it (zoo.symmetry.canonical): signs are those that make it positive, and are not
    matched; scales those that give it and its bias one norm.
    """

    on: str
    kind: Literal["scale", "sign"]
    gain: str | None = None


class Factor(Frozen):
    """`size` positions along an axis: the units of `group`, or positions that stay where they are.

    `powers` say how diagonals act: position i is multiplied by the power of unit i's number. A `linear` group acts with
    the power under its own name, 1 or -1.
    """

    size: PositiveInt
    group: str | None = None
    powers: dict[str, int] = Field(default_factory=dict)


Piece: TypeAlias = tuple[Factor, ...]
Axis: TypeAlias = tuple[Piece, ...]


class TensorAxes(Frozen):
    """The axes of one tensor. Buffers (BatchNorm's statistics) move along but do not count in the `cost` of a match."""

    axes: tuple[Axis, ...]
    cost: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(length(axis) for axis in self.axes)

    def factors(self) -> Iterable[Factor]:
        return (factor for axis in self.axes for piece in axis for factor in piece)


class Specification(Frozen):
    """All symmetries of an architecture that we use. `outputs` are modules whose outputs' channels (dimension 1 of
    images, the last of all else) are such units, for matching by activations.
    """

    groups: dict[str, Group]
    diagonals: dict[str, Diagonal] = Field(default_factory=dict)
    tensors: dict[str, TensorAxes]
    outputs: dict[str, Axis] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, group in self.groups.items():
            outer = self.groups.get(group.within) if group.within else None
            if group.within and (outer is None or outer.within or outer.kind != "permutation"):
                raise ValueError(f"group {name!r} is within {group.within!r}, which is no outermost permutation")
        for name, diagonal in self.diagonals.items():
            on = self.groups.get(diagonal.on)
            if on is None or on.kind != "permutation" or (diagonal.kind == "sign" and on.within):
                raise ValueError(f"{diagonal.kind} {name!r} is on {diagonal.on!r}, which is no such permutation")
            if name in self.groups:
                raise ValueError(f"{name!r} is both a group and a diagonal")
            if diagonal.gain is not None and not self._turns(name, diagonal):
                raise ValueError(f"{diagonal.kind} {name!r} has the gain {diagonal.gain!r}, which is no such vector")
        for where, axes in [(name, tensor.axes) for name, tensor in self.tensors.items()] + [
            (name, (axis,)) for name, axis in self.outputs.items()
        ]:
            for piece in (piece for axis in axes for piece in axis):
                self._check_piece(where, piece)
        return self

    def _check_piece(self, where: str, piece: Piece) -> None:
        before = None
        for factor in piece:
            group = self.groups.get(factor.group) if factor.group else None
            if factor.group and (group is None or group.size != factor.size):
                raise ValueError(f"{where}: a factor of {factor.size} names {factor.group!r}, which has no such size")
            if group is not None and group.within and before != group.within:
                raise ValueError(f"{where}: {factor.group!r} has to stand right behind {group.within!r}")
            signs = [d for d, power in factor.powers.items() if power % 2 and self._is_sign(d)]
            known = all(d == factor.group or self._acts_on(d, factor.group) for d in factor.powers)
            if not known or len(signs) > 1:
                raise ValueError(f"{where}: powers {factor.powers} do not belong to {factor.group!r}")
            before = factor.group

    def _turns(self, name: str, diagonal: Diagonal) -> bool:
        tensor = self.tensors.get(diagonal.gain or "")
        factors = list(tensor.factors()) if tensor else []
        return bool(factors) and len(factors) <= 2 and factors[-1].powers.get(name, 0) == 1

    def _is_sign(self, name: str) -> bool:
        return name in self.diagonals and self.diagonals[name].kind == "sign"

    def _acts_on(self, name: str, group: str | None) -> bool:
        return name in self.diagonals and self.diagonals[name].on == group

    def check(self, structure: Structure) -> None:
        """Raise ValueError unless this describes every tensor of the structure, with its shape, and nothing else, and
        tied tensors alike.
        """
        expected = {spec.name: spec.shape for spec in structure}
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        if expected != found:
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise ValueError(
                f"the specification does not fit: {wrong[0]} has shape {expected.get(wrong[0])} in the network, "
                f"{found.get(wrong[0])} in the specification"
            )
        for spec in structure:
            if spec.tied_to is not None and self.tensors[spec.name].axes != self.tensors[spec.tied_to].axes:
                raise ValueError(f"{spec.name} is tied to {spec.tied_to}, but they have other groups")

    def inner(self, group: str) -> list[str]:
        """The groups within this one."""
        return [name for name, other in self.groups.items() if other.within == group]

    def outermost(self) -> list[str]:
        """The groups that are within no other, in their order."""
        return [name for name, group in self.groups.items() if group.within is None]

    def matched(self) -> Specification:
        """The same without the signs that a gain decides."""
        return self.without(name for name, d in self.diagonals.items() if d.gain is not None and d.kind == "sign")

    def restricted(self, names: Iterable[str]) -> Specification:
        """What remains where only these tensors may change: groups that touch any other tensor are dropped."""
        kept = set(names)
        touched = {
            symbol
            for name, tensor in self.tensors.items()
            if name not in kept
            for factor in tensor.factors()
            for symbol in (*([factor.group] if factor.group else []), *factor.powers)
        }
        return self.without(touched, kept)

    def without(self, dropped: Iterable[str], kept: set[str] | None = None) -> Specification:
        """The same without these groups and diagonals, and of the tensors those `kept` (all by default). What is within
        or on a dropped group goes with it.
        """
        gone = set(dropped)
        gone |= {name for name, group in self.groups.items() if group.within in gone}
        gone |= {name for name, diagonal in self.diagonals.items() if diagonal.on in gone}

        def thinned(axis: Axis) -> Axis:
            return tuple(tuple(_thinned(factor, gone) for factor in piece) for piece in axis)

        return Specification(
            groups={name: group for name, group in self.groups.items() if name not in gone},
            diagonals={name: diagonal for name, diagonal in self.diagonals.items() if name not in gone},
            tensors={
                name: TensorAxes(axes=tuple(map(thinned, tensor.axes)), cost=tensor.cost)
                for name, tensor in self.tensors.items()
                if kept is None or name in kept
            },
            outputs={name: thinned(axis) for name, axis in self.outputs.items()},
        )


def _thinned(factor: Factor, gone: set[str]) -> Factor:
    if factor.group in gone:
        return Factor(size=factor.size)
    powers = {name: power for name, power in factor.powers.items() if name not in gone}
    return factor.model_copy(update={"powers": powers})


def length(axis: Axis) -> int:
    return sum(math.prod(factor.size for factor in piece) for piece in axis)


def fixed(size: int) -> Axis:
    """An axis whose positions mean something: input channels, kernel positions, classes."""
    return ((Factor(size=size),),)
