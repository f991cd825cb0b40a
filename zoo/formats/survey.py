"""What the files of an import have in common, before any is taken: the structure that most of them share.

A first look at every file takes names, shapes and dtypes, not values. Files are alike if their tensors have the same
names and shapes, prefixes of wrappers and BatchNorm's counters aside; those of the Model Zoos, whose names differ with
their dropout, if they have the same shapes in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import Corrupt
from zoo.formats.foreign import Source
from zoo.formats.weights import COUNTER, Weights, bare, check_tensors, plain
from zoo.progress import progress
from zoo.structure import Structure

KEPT = 10_000  # files that are read once only: an operating system maps so many


@dataclass(frozen=True)
class Look:
    """A file at a glance: what it has in common with others (`kind`), the prefix and dtypes of its tensors."""

    source: Source
    kind: Hashable
    prefix: str
    dtypes: tuple[str, ...]
    counters: int
    ordered: bool  # a pickle keeps the network's order, safetensors sorts


@dataclass(frozen=True)
class Survey:
    """The structure of most files, and the constants that they all have: masks, whose values are infinite. `read` are
    the files that were read, memory-mapped, so that they need not be read again.
    """

    structure: Structure
    constants: dict[str, Tensor]
    read: dict[Path, Weights]


def survey(found: Sequence[Source], form: str) -> Survey | None:
    """None where no file can be read."""
    looks: list[Look] = []
    read: dict[Path, Weights] = {}
    with progress("looking through files", len(found)) as bar:
        for source in found:
            if not source.problem and (found_there := _look(source, form)):
                look, weights = found_there
                looks.append(look)
                if len(read) < KEPT:
                    read[source.path] = weights
            bar.advance(1)
    if not looks:
        return None
    kinds = Counter(look.kind for look in looks)
    kind = kinds.most_common(1)[0][0]  # the first of several
    group = [look for look in looks if look.kind == kind]
    model = _model(group)
    tensors = dict(plain(model.source.load(form).tensors))
    constants = {name: tensor.clone() for name, tensor in tensors.items() if is_mask(name, tensor)}
    if constants:
        others = (look.source for look in group if look is not model)
        prefix = model.prefix
        constants = in_most(constants, (_under(prefix, plain(other.load(form).tensors)) for other in others))
    structure = Structure.of({name: tensor for name, tensor in tensors.items() if name not in constants})
    return Survey(_untied(structure, group, form), constants, read)


def _look(source: Source, form: str) -> tuple[Look, Weights] | None:
    try:
        weights = source.load(form)
        tensors = plain(weights.tensors)
        check_tensors(tensors)
    except (Corrupt, ValueError, OSError):  # loading it again says why
        return None
    ordered = not source.path.name.lower().endswith("safetensors")
    return Look(source, *_glance(tensors, form), ordered=ordered), weights


def _glance(tensors: dict[str, Tensor], form: str) -> tuple[Hashable, str, tuple[str, ...], int]:
    prefix = bare(tensors)
    counted = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    dtypes = tuple(str(counted[name].dtype) for name in sorted(counted))
    counters = len(tensors) - len(counted)
    if form == "modelzoo":
        return tuple(tuple(tensor.shape) for tensor in counted.values()), "", dtypes, counters
    shapes = frozenset((name.removeprefix(prefix), tuple(tensor.shape)) for name, tensor in counted.items())
    return shapes, prefix, dtypes, counters


def _model(group: Sequence[Look]) -> Look:
    """The file that has the most of what most have: dtypes, counters, prefix, and the network's order."""
    dtypes = Counter(look.dtypes for look in group).most_common(1)[0][0]
    prefix = Counter(look.prefix for look in group).most_common(1)[0][0]
    counters = max(look.counters for look in group)
    return max(  # the first of several
        group, key=lambda look: (look.dtypes == dtypes, look.prefix == prefix, look.counters == counters, look.ordered)
    )


def is_mask(name: str, tensor: Tensor) -> bool:
    """Whether it may be a constant with infinite values: these and one other value, no single number, and no weight,
    bias or statistic by its name.
    """
    last = name.rpartition(".")[2]
    if not tensor.is_floating_point() or not tensor.ndim or last in ("weight", "bias") or last.startswith("running_"):
        return False
    finite = tensor[tensor.isfinite()]
    return len(finite) < tensor.numel() and not bool(tensor.isnan().any()) and len(finite.unique()) <= 1


def in_most(masks: Mapping[str, Tensor], others: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Those masks of one network that most of the others have, too, with the same values: in others what has diverged
    is no constant.
    """
    count, same = 0, Counter[str]()
    for tensors in others:
        count += 1
        same.update(name for name, mask in masks.items() if _equal(mask, tensors.get(name, mask)))
    return {name: mask for name, mask in masks.items() if 2 * same[name] >= count}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that they have with this prefix of a wrapper, in place of their own."""
    own = bare(tensors)
    return {prefix + name.removeprefix(own): tensor for name, tensor in tensors.items()}


def _untied(structure: Structure, group: Sequence[Look], form: str) -> Structure:
    """The structure with those ties only that hold in every file."""
    ties = {spec.name: spec.tied_to for spec in structure if spec.tied_to}
    for look in group if ties else ():
        tensors = plain(look.source.load(form).tensors)
        prefix = bare(tensors)
        values = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        shared = bare(spec.name for spec in structure)
        core = {spec.name: spec.name.removeprefix(shared) for spec in structure}
        ties = {a: b for a, b in ties.items() if _equal(values.get(core[a]), values.get(core[str(b)]))}
    kept = tuple(
        spec if spec.tied_to is None or spec.name in ties else spec.model_copy(update={"tied_to": None})
        for spec in structure
    )
    return Structure(tensors=kept)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)
