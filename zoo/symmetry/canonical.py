"""What of a network can be fixed without looking at another: scales at their balanced point, an order of its units."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.symmetry.action import Element, Stack, act, compose, identity, parts_of, transformed
from zoo.symmetry.matching import Problem, Values, sign_of
from zoo.symmetry.specification import MATRICES, Specification

MOST_ROUNDS = 1000
BALANCED = 1e-12  # of a logarithm of a scale: no round changes more
AS_IT_WAS = 1e-6  # a network whose scales are this near to balance is balanced but for rounding to float32
FULL_RANK = 1e-6  # smallest singular value of a LoRA factor over its largest


def oriented(specification: Specification, networks: Stack) -> Element:
    """The element (signs that a gain decides, all else the identity) that makes every gain positive. Were they matched,
    filters that are each other's negative would meet, whose units do different things, and the mean of their gains
    would do nothing.
    """
    element = identity(specification, len(next(iter(networks.values()))))
    for name, diagonal in specification.diagonals.items():
        if diagonal.gain is not None and diagonal.kind == "sign":
            element[name] = torch.where(networks[diagonal.gain] < 0, -1.0, 1.0).double()
    return element


def prepared(specification: Specification, networks: Stack, scale: bool = True) -> Element:
    """What comes before matching: every gain positive and, with `scale`, scales and linear groups balanced."""
    element = oriented(specification, networks)
    return compose(specification, balance(specification, networks), element) if scale else element  # a sign is no scale


def balance(specification: Specification, networks: Stack) -> Element:
    """The element (scales and linear groups; all else the identity) that takes each network to where the squared norm
    of its weights is least. That point is unique (Stock et al., 2019, ENorm): it is convex in the scales' logarithms.
    Units without weights on one side keep their scale, LoRA factors without full rank theirs.

    Where a gain decides a scale, the gain and its bias have norm 1 together instead (over all that write the units, on
    average). Balanced, a gain would differ between units as much as what reads them does, and the mean of two networks'
    gains, times the mean of what reads them, be far from the mean of the products.
    """
    n = len(next(iter(networks.values())))
    element = identity(specification, n)
    scales = {name: d for name, d in specification.diagonals.items() if d.kind == "scale"}
    free = {name for name, diagonal in scales.items() if diagonal.gain is None}
    for name in scales.keys() - free:
        element[name] = _normed(specification, networks, name)
    if free:  # where the others are done: squeezing reads what a gain has written
        element |= _scales(specification, act(specification, element, networks), free)
    for name, group in specification.groups.items():
        if group.kind == "linear":
            element[name] = _balanced_map(specification, networks, name)
    return element


def _scales(specification: Specification, networks: Stack, names: set[str]) -> Element:
    parts = [
        (part, part.view(networks[part.name].double()).square().clone())
        for part in parts_of(specification)
        if part.cost and any(names & factor.powers.keys() for factor in part.dims)
    ]
    found = {name: tensor for name, tensor in identity(specification, len(parts[0][1])).items() if name in names}
    for _ in range(MOST_ROUNDS):
        largest = 0.0
        for name in found:
            written, read = torch.zeros_like(found[name]), torch.zeros_like(found[name])
            for part, squares in parts:
                for at, factor in enumerate(part.dims, 1):
                    if power := factor.powers.get(name, 0):
                        assert abs(power) == 1
                        side = written if power == 1 else read
                        side += _sums(squares, at, inner=found[name].ndim == 3)
            change = torch.where((written > 0) & (read > 0), read / written, 1.0) ** 0.25
            found[name] *= change
            largest = max(largest, float(change.log().abs().max()))
            for i, (part, squares) in enumerate(parts):
                if any(name in factor.powers for factor in part.dims):
                    parts[i] = part, transformed(specification, {name: change.square()}, squares, part.dims)
        if largest < BALANCED:
            break
    far = torch.stack([scale.log().abs().flatten(1).amax(1) for scale in found.values()]).amax(0) > AS_IT_WAS
    return {name: torch.where(far.view(-1, *[1] * (s.ndim - 1)), s, 1.0) for name, s in found.items()}


def _normed(specification: Specification, networks: Stack, name: str) -> Tensor:
    """The scale that gives what it multiplies norm 1: on average over pairs of a gain and a bias."""
    squares, gains = torch.zeros(()), 0
    for part in parts_of(specification):
        for at, factor in enumerate(part.dims, 1):
            if part.cost and factor.powers.get(name) == 1:
                inner = specification.groups[str(factor.group)].within is not None
                squares = squares + _sums(part.view(networks[part.name].double()).square(), at, inner)
                gains += part.name.endswith("weight")
    scale = torch.where(squares > 0, (gains / squares) ** 0.5, 1.0)
    far = scale.log().abs().flatten(1).amax(1) > AS_IT_WAS
    return torch.where(far.view(-1, *[1] * (scale.ndim - 1)), scale, 1.0)


def _sums(squares: Tensor, at: int, inner: bool) -> Tensor:
    """Sums over all dimensions but the first and `at` (and the one before it)."""
    kept = {0, at - 1, at} if inner else {0, at}
    others = [d for d in range(squares.ndim) if d not in kept]
    return squares.sum(others) if others else squares


def _balanced_map(specification: Specification, networks: Stack, name: str) -> Tensor:
    """(N, r, r) that takes LoRA's factors B (out, r) and A (r, in) to U sqrt(S) and sqrt(S) V^T of B A = U S V^T."""
    sides = {}
    for part in parts_of(specification):
        for at, factor in enumerate(part.dims, 1):
            if factor.group == name:
                values = part.view(networks[part.name].double()).movedim(at, 1).flatten(2)
                sides[factor.powers.get(name, 1)] = values  # (N, r, all else)
    down, up = sides[1], sides[-1]
    r_down, r_up = (torch.linalg.qr(side.mT).R for side in (down, up))  # A^T = Q r_down, B = Q r_up
    u, s, v = torch.linalg.svd(r_up @ r_down.mT)
    spectra = [torch.linalg.svdvals(side) for side in (down, up)]
    full = torch.stack([x[:, -1] > FULL_RANK * x[:, 0] for x in spectra]).all(0)
    eye = torch.eye(s.shape[-1], dtype=torch.float64).expand_as(u)
    safe = torch.where(full[:, None, None], r_down, eye)
    # sqrt(S) V^T = M A: with A = r_down^T Q^T that is M = sqrt(S) v r_down^-T
    found = torch.linalg.solve(safe, (s.sqrt()[..., None] * v).mT).mT
    near = ((found - eye).abs().amax((1, 2)) < AS_IT_WAS) | ~full
    return torch.where(near[:, None, None], eye, found)


def presented(problem: Problem, values: Values) -> Element:
    """An order of the units that depends on nothing but what the network computes with them: by their norms; signs by
    the third moment; rotations into the axes along which units differ most. The mean of an aligned zoo is put like
    this, so that no network's accidental order decides where the zoo lies.
    """
    specification = problem.specification
    element, values = identity(specification, len(values[0])), list(values)
    for group in specification.outermost():
        for name in (group, *specification.inner(group)):
            if (step := _own_order(problem, values, name)) is not None:
                element = compose(specification, step, element)
                values = problem.moved(step, values)
    for name, diagonal in specification.diagonals.items():
        if diagonal.kind == "sign":
            step = {name: _own_sign(problem, values, name)}
            element = compose(specification, step, element)
            values = problem.moved(step, values)
    return element


def _own_order(problem: Problem, values: Values, name: str) -> Element | None:
    group = problem.specification.groups[name]
    inner, matrix = group.within is not None, group.kind in MATRICES
    found = [
        _gram(value, at, inner) if matrix else _sums(value.double().square(), at, inner)
        for value, at in _along(problem, values, name)
    ]
    if not found:
        return None
    key = sum(found[1:], found[0])
    if not matrix:
        return {name: key.argsort(dim=-1, descending=True, stable=True)}
    frame = torch.linalg.eigh(key).eigenvectors.mT.flip(-2)
    turned = problem.moved({name: frame}, values)  # an axis has no direction yet
    cubes = [_sums(value.double().pow(3), at, inner) for value, at in _along(problem, turned, name, signed=False)]
    return {name: torch.where(sum(cubes[1:], cubes[0]) < 0, -1.0, 1.0).double()[..., None] * frame} if cubes else None


def _along(problem: Problem, values: Values, name: str, signed: bool = True) -> list[tuple[Tensor, int]]:
    """The values of the parts that have a dimension of this group, with that dimension; not `signed`: of those that
    no sign turns.
    """
    return [
        (value, at)
        for part, value in zip(problem.parts, values, strict=True)
        for at, factor in enumerate(part.dims, 1)
        if factor.group == name and (signed or not any(sign_of(problem.specification, f) for f in part.dims))
    ]


def _gram(value: Tensor, at: int, inner: bool) -> Tensor:
    dims, front = ((at - 1, at), (1, 2)) if inner else ((at,), (1,))
    moved = value.double().movedim(dims, front)
    flat = moved.reshape(*moved.shape[: len(front) + 1], -1)
    return flat @ flat.mT


def _own_sign(problem: Problem, values: Values, name: str) -> Tensor:
    total: Tensor | None = None
    for part, value in zip(problem.parts, values, strict=True):
        signs = [sign_of(problem.specification, factor) for factor in part.dims]
        if [s for s in signs if s] == [name]:  # no other sign turns these
            found = _sums(value.double().pow(3), signs.index(name) + 1, inner=False)
            total = found if total is None else total + found
    if total is None:  # no part tells, as no output does where outputs alone count
        return identity(problem.specification, len(values[0]))[name]
    return torch.where(total < 0, -1.0, 1.0).double()
