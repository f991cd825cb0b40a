"""Axes whose units are found to be one another's, while a network is traced: union-find over axes that may be split
into factors (a view) or pieces (a concatenation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise


class Axis:
    """One axis of a tensor: a leaf, a product of `parts` (the last runs fastest), or `pieces` one after the other.

    `fixed`: its positions mean something. `bent`: something other than a linear map or a sum has acted on its units, so
    that they can be reordered at most, not rotated. `outer`: the leaf each of whose units has units of its own here.
    """

    def __init__(self, size: int, fixed: bool = False) -> None:
        self.size = size
        self.fixed = fixed or size == 1
        self.bent = False
        self.parts: list[Axis] = []
        self.pieces: list[Axis] = []
        self.outer: Axis | None = None
        self.parent: Axis | None = None
        self._same: Axis | None = None

    def found(self) -> Axis:
        """The axis that stands for all that were unified with this one."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        return axis

    def leaves(self) -> Iterator[Axis]:
        axis = self.found()
        children = axis.parts or axis.pieces
        if not children:
            yield axis
        for child in children:
            yield from child.leaves()

    def pin(self) -> None:
        for leaf in self.leaves():
            leaf.fixed = True

    def bend(self) -> None:
        for leaf in self.leaves():
            leaf.bent = True

    def factors(self) -> list[Axis]:
        """Axes whose product this is, none of them a product itself."""
        axis = self.found()
        return [factor for part in axis.parts for factor in part.factors()] if axis.parts else [axis]

    def unify(self, other: Axis) -> None:
        """Units of both axes correspond one to one from now on; where they cannot, neither moves."""
        a, b = self.found(), other.found()
        if a is b:
            return
        if not (a.parts or a.pieces):
            a, b = b, a
        if not (b.parts or b.pieces):  # a leaf takes whatever form the other has
            if b.fixed:
                a.pin()
            if b.bent:
                a.bend()
            b._same = a
            return
        ours, theirs = (a.factors(), b.factors()) if a.parts and b.parts else (a.pieces, b.pieces)
        if len(ours) != len(theirs) or any(x.size != y.size for x, y in zip(ours, theirs, strict=True)):
            a.pin()
            b.pin()
            return
        for x, y in zip(ours, theirs, strict=True):
            x.unify(y)

    def split(self, sizes: Sequence[int]) -> list[Axis]:
        """This axis seen as a product of these sizes. Raises ValueError when it does not fall apart like that."""
        axis = self.found()
        if len(sizes) == 1:
            return [axis]
        if not axis.parts and not axis.pieces:
            axis.parts = [Axis(size, axis.fixed) for size in sizes]
            for part in axis.parts:
                part.parent, part.bent = axis, axis.bent
            leaves = [part for part in axis.parts if part.size > 1]
            for outer, inner in pairwise(leaves):
                inner.outer = outer
            return axis.parts
        left, found = axis.factors(), []
        for size in sizes:
            taken: list[Axis] = []
            while left and math.prod(t.size for t in taken) < size:
                here, need = left.pop(0), size // math.prod(t.size for t in taken)
                if here.size > need and here.size % need == 0:
                    here, rest = here.split([need, here.size // need])
                    left.insert(0, rest)
                taken.append(here)
            if math.prod(t.size for t in taken) != size:
                raise ValueError(f"an axis of {axis.size} is no product of {list(sizes)}")
            found.append(product(taken) if taken else Axis(1))
        return found

    def cut(self, sizes: Sequence[int]) -> list[Axis]:
        """This axis seen as pieces of these sizes, one after the other; pinned where it does not fall apart so."""
        axis = self.found()
        if axis.pieces and [piece.size for piece in axis.pieces] == list(sizes):
            return axis.pieces
        if axis.parts or axis.pieces:
            axis.pin()
            return [Axis(size, fixed=True) for size in sizes]
        axis.pieces = [Axis(size, axis.fixed) for size in sizes]
        for piece in axis.pieces:
            piece.bent = axis.bent
        return axis.pieces


def product(axes: Sequence[Axis]) -> Axis:
    """One axis that runs over all of these, the last fastest."""
    if len(axes) == 1:
        return axes[0]
    axis = Axis(math.prod(a.size for a in axes))
    axis.parts = list(axes)
    return axis


def concatenation(axes: Sequence[Axis]) -> Axis:
    """One axis that runs over these, one after the other."""
    axis = Axis(sum(a.size for a in axes))
    axis.pieces = list(axes)
    if all(leaf.fixed for leaf in axis.leaves()):
        return Axis(axis.size, fixed=True)
    return axis


def reshaped(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The axes of a tensor after a view of these sizes. Raises ValueError where units would be torn apart."""
    found: list[Axis] = []
    old, new = list(axes), list(sizes)
    while old or new:
        before, after = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        while (have := math.prod(a.size for a in before)) != (want := math.prod(after)):
            if have < want:
                before.append(old.pop(0))
            else:
                after.append(new.pop(0))
        movable = [axis for axis in before if axis.size > 1]
        if not movable:
            found += [Axis(1) for _ in after]
        elif len(after) == 1:
            found.append(product(movable))
        else:
            found += product(movable).split(after)
    return found
