"""Refine an alignment by the loss of mixtures of networks on training images, where weights alone leave a barrier.

Straight-through estimation (Ainsworth et al., 2023, section 3.3; both ends move, as in Li and Shen, 2026,
https://arxiv.org/abs/2606.23607): every network has a target, at first the universe, and is matched to it exactly; the
loss of a random mixture of matched networks is differentiated, and the gradient moves the targets as if matching were
the identity. So every network stays in its orbit at every step, and all kinds of groups can take part.

What comes out is kept only where mixtures are better on images that the gradients have not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.seeds import generator
from zoo.symmetry.action import Element, act, taken
from zoo.symmetry.matching import Problem, Values, match
from zoo.symmetry.universe import Aligned, Source

Loss: TypeAlias = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
"""Weights, inputs and targets of a batch -> mean loss, differentiable in the weights."""
Weights: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""The networks with these indices (N, *shape), as they are before any matching (with balanced scales)."""
MIXED = 4  # networks in a mixture, at most
TRIALS = 16  # mixtures by which two alignments are compared


@dataclass(frozen=True)
class Refinement:
    """`steps` mixtures are differentiated; a step moves a target by `rate` of its parts' norms."""

    steps: int = 300
    rate: float = 0.05


def refine(
    problem: Problem,
    source: Source,
    weights: Weights,
    aligned: Aligned,
    loss: Loss,
    batches: Iterator[tuple[Tensor, Tensor]],
    held_out: tuple[Tensor, Tensor],
    config: Refinement,
    seed: int,
) -> tuple[Element, float, float]:
    """The refined element of all networks, and the mean loss of mixtures on `held_out` images before and after; the
    element that came in, where refining did not lower it. `batches` are of other training images.
    """
    n = len(next(iter(aligned.element.values())))
    element = {name: tensor.clone() for name, tensor in aligned.element.items()}
    targets = [mean.expand(n, *mean.shape[1:]).clone() for mean in aligned.reference]
    rng = generator(seed, "refine")
    for step in range(config.steps):
        rows, shares = _mixture(n, rng)
        found, _ = match(problem, [t[rows] for t in targets], source(rows), seed, 0, taken(element, rows))
        for name, tensor in found.items():
            element[name][rows] = tensor
        gradient = _gradient(problem, found, weights(rows), shares, loss, next(batches))
        rate = config.rate * (1 - step / config.steps)
        for target, part in zip(targets, gradient, strict=True):
            size = part.norm()
            if size > 0:
                direction = (part / size).unsqueeze(0) * shares.view(-1, *[1] * part.ndim)
                target[rows] -= rate * target[rows].flatten(1).norm(dim=1).view(-1, *[1] * part.ndim) * direction
    scores = [mixture_loss(problem, weights, e, loss, held_out, seed) for e in (aligned.element, element)]
    return (element if scores[1] < scores[0] else aligned.element), scores[0], scores[1]


def mixture_loss(
    problem: Problem, weights: Weights, element: Element, loss: Loss, images: tuple[Tensor, Tensor], seed: int
) -> float:
    """The mean loss of TRIALS mixtures of aligned networks, the same ones for the same seed."""
    n, rng = len(next(iter(element.values()))), generator(seed, "trials")
    total = 0.0
    with torch.no_grad():
        for _ in range(TRIALS):
            rows, shares = _mixture(n, rng)
            total += float(loss(_mixed(problem, taken(element, rows), weights(rows), shares), *images))
    return total / TRIALS


def _mixture(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which networks are mixed, and their shares (of sum 1): two, or up to MIXED, in equal parts."""
    count = min(n, int(torch.randint(2, MIXED + 1, (), generator=rng)))
    return torch.randperm(n, generator=rng)[:count], torch.full((count,), 1 / count, dtype=torch.float64)


def _mixed(problem: Problem, element: Element, weights: dict[str, Tensor], shares: Tensor) -> dict[str, Tensor]:
    moved = act(problem.specification, element, weights)
    return {
        name: torch.tensordot(shares.to(tensor.dtype), tensor, 1) if tensor.is_floating_point() else tensor[0]
        for name, tensor in moved.items()
    }


def _gradient(
    problem: Problem,
    element: Element,
    weights: dict[str, Tensor],
    shares: Tensor,
    loss: Loss,
    batch: tuple[Tensor, Tensor],
) -> Values:
    """The gradient of a mixture's loss, for every part (*sizes)."""
    mixed = _mixed(problem, element, weights, shares)
    for part in problem.parts:
        mixed[part.name].requires_grad_()
    names = list(dict.fromkeys(part.name for part in problem.parts))
    found = torch.autograd.grad(loss(mixed, *batch), [mixed[name] for name in names])
    gradients = dict(zip(names, found, strict=True))
    return [part.view(gradients[part.name][None])[0].double() for part in problem.parts]
