"""Binary tasks by their conditions, and which of them no generator may see (paper, section 4).

A condition is a string of bits, the most significant first: bit k is the label of class k. All zeros and all ones are
no tasks, so ten classes have 1022 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from typing_extensions import Self

from zoo.seeds import Seed, generator
from zoo.structure import Frozen

BITS = 10  # classes of CIFAR-10, and of handwritten digits
# The tasks that RPG's published code holds out (split.sh); as numbers, their bits are the condition.
PUBLISHED = (
    *(101, 111, 128, 141, 197, 238, 278, 279, 314, 383),
    *(462, 482, 502, 589, 592, 643, 653, 793, 884, 1001),
)


def all_conditions() -> tuple[str, ...]:
    """Every binary task, in the order of their numbers: `0000000001` to `1111111110`."""
    return tuple(f"{number:0{BITS}b}" for number in range(1, 2**BITS - 1))


def check_condition(condition: str) -> str:
    """The condition. Raises ValueError unless it is one."""
    if len(condition) != BITS or set(condition) != {"0", "1"}:
        raise ValueError(
            f"condition {condition!r} is not a binary task; expected {BITS} digits, a label 0 or 1 for each class and "
            f"both of them, as in 0100010111"
        )
    return condition


def bits(condition: str) -> torch.Tensor:
    """The embedding: float32 (BITS,)."""
    return torch.tensor([float(digit) for digit in check_condition(condition)])


def flipped(condition: str) -> str:
    """The complement: the same task with the labels exchanged."""
    return condition.translate(str.maketrans("01", "10"))


def distance(a: str, b: str) -> int:
    """How many classes two tasks label differently."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def neighbours(condition: str) -> list[str]:
    """The tasks that label one class differently."""
    changed = [condition[:k] + flipped(condition[k]) + condition[k + 1 :] for k in range(len(condition))]
    return [other for other in changed if len(set(other)) == 2]


class Holdout(Frozen):
    """Which tasks are held out, as split `unseen`.

    - `published`: the 20 of RPG's code.
    - `random`: `n` of all, drawn with `seed`.
    - `no-neighbours`: `n`, half of them drawn, each with its complement. Their one-bit neighbours, which differ in one
      class only, are not trained on either (split `excluded`): a fairer test of tasks never seen than the paper's.
    """

    kind: Literal["published", "random", "no-neighbours"]
    n: PositiveInt = len(PUBLISHED)
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "published" and self.n != len(PUBLISHED):
            raise ValueError(f"published holds out {len(PUBLISHED)} tasks, not n = {self.n}; leave n out")
        if self.kind == "no-neighbours" and self.n % 2:
            raise ValueError(f"no-neighbours holds out tasks with their complements; n = {self.n} must be even")
        return self


def splits(conditions: Sequence[str], holdout: Holdout | None) -> dict[str, str]:
    """The split of each of these conditions: `train`, `unseen` or `excluded`.

    What is held out is drawn from all conditions, whichever are given. Raises ValueError when nothing of these is left
    to train on, or nothing to test.
    """
    if holdout is None:
        return dict.fromkeys(conditions, "train")
    unseen = _unseen(holdout)
    near = {other for condition in unseen for other in neighbours(condition)}
    excluded = near - unseen if holdout.kind == "no-neighbours" else set()
    found = {c: "unseen" if c in unseen else "excluded" if c in excluded else "train" for c in conditions}
    if missing := {"train", "unseen"} - set(found.values()):
        raise ValueError(
            f"holdout {holdout.kind} of {len(conditions)} conditions leaves none for split {min(missing)}; expected "
            f"some of both, so change zoo.holdout or zoo.conditions"
        )
    return found


def is_published_holdout(condition: str) -> bool:
    """Whether RPG's published code holds this task out."""
    return condition in {f"{number:0{BITS}b}" for number in PUBLISHED}


def _unseen(holdout: Holdout) -> set[str]:
    if holdout.kind == "published":
        return {f"{number:0{BITS}b}" for number in PUBLISHED}
    everything = all_conditions()
    if holdout.n > len(everything):
        raise ValueError(f"cannot hold out {holdout.n} of {len(everything)} tasks; lower zoo.holdout.n")
    order = torch.randperm(len(everything), generator=generator(holdout.seed, "holdout")).tolist()
    unseen: set[str] = set()
    for index in order:
        if len(unseen) < holdout.n:
            drawn = everything[index]
            unseen |= {drawn, flipped(drawn)} if holdout.kind == "no-neighbours" else {drawn}
    return unseen
