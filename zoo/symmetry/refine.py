"""Refine an alignment by the loss of means of networks on training images, where weights alone leave a barrier.

Orders become soft: doubly stochastic matrices from logits by Sinkhorn's iteration (Pena et al., 2023). Means of a few
networks after soft orders are scored, and the logits of all of them descend: both ends move, as in Li and Shen (2026,
https://arxiv.org/abs/2606.23607). In the end every soft order becomes the nearest hard one, so that each network
computes what it did; it is kept only where means are better on images that no gradient has seen.

Orders of groups that nothing is within take part; heads, rotations and signs stay as matching left them. Every draw is
a function of (seed, step), so that what was interrupted goes on to the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from zoo.checkpoint import load_tensors, save_tensors
from zoo.progress import progress
from zoo.seeds import generator
from zoo.structure import Frozen
from zoo.symmetry.action import Element, act, compose, multiplied, parts_of, taken
from zoo.symmetry.assignment import assign
from zoo.symmetry.specification import Specification

Loss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
"""Weights, inputs and labels of a batch -> mean loss, differentiable in the weights."""
Batch = tuple[Tensor, Tensor]
SINKHORN = 12  # normalisations of rows and columns
START = 3.0  # logit of where a unit stands, over those of other places
MIXED = 8  # networks in a mean, at most
TRIALS = 16  # means by which two alignments are compared
STATE_SECONDS = 60  # the state is saved about this often


@dataclass(frozen=True)
class Images:
    """Training images of a task: endless `batches` from the step of this number on, and others, `held_out`, by which
    the result is judged.
    """

    loss: Loss
    batches: Callable[[int], Iterator[Batch]]
    held_out: Batch


class Refinement(Frozen):
    """`steps` means are differentiated, with Adam at this rate."""

    steps: int = Field(default=600, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)


def refine(
    specification: Specification,
    networks: dict[str, Tensor],
    element: Element,
    images: Images,
    config: Refinement,
    seed: int,
    state: Path | None = None,
) -> tuple[Element, float, float]:
    """The refined element of the networks (N, *shape), which `element` aligns, and the mean loss of means on the images
    held out, before and after; all three as they came where refining did not lower the loss. `state` is a file from
    which an interrupted call goes on.
    """
    n = len(next(iter(networks.values())))
    sizes = {name: specification.groups[name].size for name in _orders(specification)}
    before = mean_loss(specification, networks, element, images, seed)
    if not sizes or n < 2:
        return element, before, before
    dtype = next(t.dtype for t in networks.values() if t.is_floating_point())
    logits = {g: (START * torch.eye(m, dtype=dtype)).repeat(n, 1, 1).requires_grad_() for g, m in sizes.items()}
    _descend(specification, act(specification, element, networks), logits, images, config, seed, state)
    hard = {name: assign(values.detach()) for name, values in logits.items()}
    refined = compose(specification, hard, element)
    after = mean_loss(specification, networks, refined, images, seed)
    return (refined, before, after) if after < before else (element, before, before)


def _descend(
    specification: Specification,
    aligned: dict[str, Tensor],
    logits: dict[str, Tensor],
    images: Images,
    config: Refinement,
    seed: int,
    state: Path | None,
) -> None:
    """Lower the loss of means over the logits (N, n, n) of every group, in place, from the state where there is one."""
    n = len(next(iter(logits.values())))
    optimizer = torch.optim.Adam(logits.values(), lr=config.learning_rate)
    first = _read(state, logits, optimizer) if state is not None and state.is_file() else 0
    batches, saved = images.batches(first), time.monotonic()
    with progress("refining on training images", config.steps) as bar:
        bar.skip(first)
        for step in range(first, config.steps):
            rows = _drawn(n, generator(seed, "refine", step))
            soft = {name: sinkhorn(values[rows]) for name, values in logits.items()}
            moved = _softly_moved(specification, soft, {name: tensor[rows] for name, tensor in aligned.items()})
            optimizer.zero_grad()
            loss = images.loss(_mean(moved), *next(batches))
            loss.backward()
            optimizer.step()
            bar.advance(1, f"loss {loss.item():.4f}")
            if state is not None and time.monotonic() - saved >= STATE_SECONDS:
                _write(state, logits, optimizer, step + 1)
                saved = time.monotonic()


def _write(state: Path, logits: dict[str, Tensor], optimizer: torch.optim.Adam, steps: int) -> None:
    found = {"steps": torch.tensor(steps)}
    for name, values in logits.items():
        found |= {f"{key} {name}": tensor for key, tensor in optimizer.state[values].items()}
        found[f"logits {name}"] = values.detach()
    save_tensors(state, found)


def _read(state: Path, logits: dict[str, Tensor], optimizer: torch.optim.Adam) -> int:
    """Put a state back, in place; how many steps it has done."""
    found = load_tensors(state)
    for name, values in logits.items():
        values.data.copy_(found[f"logits {name}"])
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimizer.state[values] = {key: found[f"{key} {name}"].clone() for key in keys}
    return int(found["steps"])


def sinkhorn(logits: Tensor) -> Tensor:
    """(N, n, n) doubly stochastic matrices, rows and columns normalised in turn."""
    for _ in range(SINKHORN):
        logits = logits - logits.logsumexp(-1, keepdim=True)
        logits = logits - logits.logsumexp(-2, keepdim=True)
    return logits.exp()


def mean_loss(
    specification: Specification, networks: dict[str, Tensor], element: Element, images: Images, seed: int
) -> float:
    """The loss of means of a few aligned networks on the images held out, over TRIALS draws that the seed decides."""
    n, rng, total = len(next(iter(networks.values()))), generator(seed, "trials"), 0.0
    with torch.no_grad():
        for _ in range(TRIALS):
            rows = _drawn(n, rng)
            few = {name: tensor[rows] for name, tensor in networks.items()}
            total += float(images.loss(_mean(act(specification, taken(element, rows), few)), *images.held_out))
    return total / TRIALS


def _orders(specification: Specification) -> list[str]:
    return [
        name
        for name, group in specification.groups.items()
        if group.kind == "permutation" and group.within is None and not specification.inner(name)
    ]


def _drawn(n: int, rng: torch.Generator) -> Tensor:
    """Which networks a mean is of: two or more."""
    return torch.randperm(n, generator=rng)[: int(torch.randint(2, MIXED + 1, (), generator=rng))]


def _mean(networks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.mean(0) if t.is_floating_point() else t[0] for name, t in networks.items()}


def _softly_moved(specification: Specification, soft: Element, networks: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {name: tensor.clone() for name, tensor in networks.items()}
    for part in parts_of(specification):
        values = part.view(networks[part.name])
        for at, factor in enumerate(part.dims, 1):
            if factor.group in soft:
                values = multiplied(values, at, soft[factor.group], inner=False)
        part.view(out[part.name]).copy_(values)
    return out
