"""Networks for tasks that nobody trained, from those of other tasks and without a generator: what a generator with
conditions has to beat.

| kind         | the network for a condition is                                                                    |
|--------------|---------------------------------------------------------------------------------------------------|
| `nearest`    | the last checkpoint of the task that labels the fewest classes differently (the first of equals)  |
| `neighbours` | the mean of all checkpoints of all such tasks: where there are any, of its one-bit neighbours     |
| `regression` | what linear least squares says from the bits, for every weight                                    |
| `ridge`      | the same with a penalty, which is chosen by leaving one task out (zoo.derive.ridge)               |
| `arithmetic` | the start that all share, plus or minus a task vector for every class (`task_arithmetic`)         |

For a task that is itself among the given ones, `nearest` and `neighbours` look at the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from zoo.checkpoint import content_hash
from zoo.conditions import bits, distance
from zoo.derive.mixtures import Draft, shares, write
from zoo.derive.ridge import ridge
from zoo.manifest import Entry, Origin, Sha256, settings_of
from zoo.store import Zoo, derivation
from zoo.structure import Frozen
from zoo.writer import ZooWriter

PSEUDO_INVERSE = 1e-10  # of the largest singular value; what is smaller counts as zero


class PredictConfig(Frozen):
    """What to make: one network for each of `conditions`. `start` is the content hash of the network that all started
    from, for `arithmetic`.
    """

    kind: Literal["nearest", "neighbours", "regression", "ridge", "arithmetic"]
    conditions: tuple[str, ...] = Field(min_length=1)
    start: Sha256 | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.start is None) is (self.kind == "arithmetic"):
            raise ValueError("task arithmetic needs the start that all networks share, and nothing else takes one")
        return self


def predict(
    config: PredictConfig,
    zoo: Zoo,
    entries: Sequence[Entry],
    origin: Origin,
    path: Path,
    start: Mapping[str, Tensor] | None = None,
) -> Zoo:
    """Make a zoo at `path` from these entries, or continue it. Kind, parent and settings of the origin are filled in.
    `start` are the weights that `config.start` is the hash of.

    Raises ValueError when an entry has no condition, or when there is no other task to take.
    """
    if bare := [entry.id for entry in entries if entry.condition is None]:
        raise ValueError(f"{bare[0]} of {zoo.path} has no condition; expected a zoo of binary tasks")
    assert config.start == (None if start is None else content_hash(start))
    made_by = derivation(zoo, entries, "predict", settings_of(config))
    drafts = _drafts(config.kind, zoo, entries, start)
    conditions = list(dict.fromkeys(config.conditions))
    ids = [f"{config.kind}-{condition}" for condition in conditions]
    with ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen()) as writer:
        write(writer, zoo, entries, ids, lambda k: drafts(conditions[k]), seed=0, split=config.kind)
        return writer.finish()


def _drafts(
    kind: str, zoo: Zoo, entries: Sequence[Entry], start: Mapping[str, Tensor] | None
) -> Callable[[str], Draft]:
    if kind == "regression":
        return regressions(entries)
    if kind == "ridge":
        return ridge(zoo, entries)
    if start is not None:
        return task_arithmetic(entries, start)
    return partial(_mean, kind, entries)


def _mean(kind: str, entries: Sequence[Entry], condition: str) -> Draft:
    rows = closest(entries, condition)
    if kind == "nearest":
        rows = last_checkpoints(entries, rows)[:1]
    return Draft(rows, shares(len(rows)), rows, condition=condition)


def closest(entries: Sequence[Entry], condition: str) -> tuple[int, ...]:
    """Which entries are the other tasks' at the smallest distance. Raises ValueError when there is no other task."""
    others = [(distance(str(e.condition), condition), row) for row, e in enumerate(entries) if e.condition != condition]
    if not others:
        raise ValueError(f"there is no task but {condition} to predict its network from")
    least = min(bits_apart for bits_apart, _ in others)
    return tuple(row for bits_apart, row in others if bits_apart == least)


def last_checkpoints(entries: Sequence[Entry], rows: Sequence[int]) -> tuple[int, ...]:
    """Of these rows the last checkpoint of each task, in the order of the tasks' first."""
    last: dict[str, int] = {}
    for row in rows:
        known = last.setdefault(str(entries[row].condition), row)
        if entries[row].step > entries[known].step:
            last[str(entries[row].condition)] = row
    return tuple(last.values())


def regressions(entries: Sequence[Entry]) -> Callable[[str], Draft]:
    """What least squares of every weight on a constant and the bits says for a condition, as a combination of the
    entries' networks. The solution of least norm where the tasks do not decide.
    """
    everything = tuple(range(len(entries)))
    x = torch.stack([_features(str(entry.condition)) for entry in entries])
    inverse = torch.linalg.pinv(x.T @ x, hermitian=True, rtol=PSEUDO_INVERSE)

    def draft(condition: str) -> Draft:
        return Draft(everything, x @ (inverse @ _features(condition)), everything, condition=condition)

    return draft


def _features(condition: str) -> Tensor:
    return torch.cat([torch.ones(1), bits(condition)]).double()


def task_arithmetic(entries: Sequence[Entry], start: Mapping[str, Tensor]) -> Callable[[str], Draft]:
    """Task arithmetic (Ilharco et al., 2023, https://arxiv.org/abs/2212.04089) on the start that all networks share:

        weights(condition) = start + sum over classes k of s_k t_k,   s_k = 1 where bit k is 1, and -1 where it is 0,

    a task vector t_k for every class, added where the class is labelled 1 and negated where it is labelled 0. Nobody
    trained for a single class, so the vectors come from the task vectors of the entries, which are a network less the
    start: of all t_k those are taken that explain them best in the sense of least squares over the entries, the
    shortest where the tasks do not decide. There is no constant: what training changes alike in all tasks has no place
    in a sum of the classes' vectors, and that is what tells this from `regressions`.
    """
    everything = tuple(range(len(entries)))
    signs = torch.stack([_signs(str(entry.condition)) for entry in entries])  # (N, classes)
    inverse = torch.linalg.pinv(signs.T @ signs, hermitian=True, rtol=PSEUDO_INVERSE)

    def draft(condition: str) -> Draft:
        coefficients = signs @ (inverse @ _signs(condition))
        base = 1 - float(coefficients.sum()), start
        return Draft(everything, coefficients, everything, condition=condition, base=base)

    return draft


def _signs(condition: str) -> Tensor:
    return 2 * bits(condition).double() - 1
