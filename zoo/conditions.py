"""What networks are asked for: binary tasks by their conditions, and which of them no generator may see (paper, section
4), two texts (`ClassTexts`), or a value that a metric is to have (`MetricTarget`).

A condition is a string of bits, the most significant first: bit k is the label of class k. All zeros and all ones are
no tasks, so K classes have 2**K - 2 of them, ten 1022. `ClassBits` is the type of such conditions for a data set: it
reads them in the user's words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal, TypeAlias

import torch
from pydantic import PositiveInt, model_validator
from typing_extensions import Self

from zoo.errors import suggest
from zoo.seeds import Seed, generator
from zoo.structure import Frozen

BITS = 10  # classes of CIFAR-10, and of handwritten digits: of the paper's conditions
MOST_CLASSES = 16  # their tasks are listed
AGAINST = " against "  # between the two texts of a condition
MOST_TEXT = 200
# The tasks that RPG's published code holds out (split.sh); as numbers, their bits are the condition.
PUBLISHED = (
    *(101, 111, 128, 141, 197, 238, 278, 279, 314, 383),
    *(462, 482, 502, 589, 592, 643, 653, 793, 884, 1001),
)


@cache
def all_conditions(classes: int = BITS) -> tuple[str, ...]:
    """Every binary task on so many classes, in the order of their numbers: `0000000001` to `1111111110`. Raises
    ValueError for fewer than 2 classes and for more than MOST_CLASSES.
    """
    if not 2 <= classes <= MOST_CLASSES:
        raise ValueError(
            f"binary tasks label the classes of a data set of 2 to {MOST_CLASSES} classes, got {classes}; choose "
            "another data set"
        )
    return tuple(f"{number:0{classes}b}" for number in range(1, 2**classes - 1))


def check_condition(condition: str, classes: int | None = None) -> str:
    """The condition. Raises ValueError unless it is one, where it is known of how many classes: of so many."""
    if set(condition) != {"0", "1"} or len(condition) != (classes or len(condition)):
        digits = f"{classes} digits, a label" if classes else "digits, a label"
        raise ValueError(
            f"condition {condition!r} is not a binary task; expected {digits} 0 or 1 for each class and both of them, "
            f"as in {example(classes or BITS)}"
        )
    return condition


def example(classes: int) -> str:
    """A condition to show people."""
    return ("0100010111" * -(-classes // BITS))[:classes]


class ClassBits(Frozen):
    """A type of conditions: a label, 0 or 1, for each class of the data set `data`, whose classes have these `names`;
    numbers, where nobody knows their names before the data are read.
    """

    kind: Literal["bits"] = "bits"
    data: str
    names: tuple[str, ...]

    @classmethod
    def numbered(cls, data: str, classes: int) -> ClassBits:
        """Classes without names."""
        return cls(data=data, names=tuple(map(str, range(classes))))

    def read(self, words: str) -> str:
        """The condition that a user means: its bits, or the names of the classes labelled 1, with commas between them.
        After a `|` may stand classes labelled 0; so are all that are not named.

        >>> ClassBits(data="pets", names=("bird", "cat", "dog", "truck")).read("cat,dog | truck")
        '0110'

        Raises ValueError for what is neither, saying what would be right.
        """
        if len(words) == len(self.names) and set(words) <= {"0", "1"}:
            return check_condition(words, len(self.names))
        known = {name.casefold(): k for k, name in enumerate(self.names)}
        if "=" in words:
            raise self._refusal(words, "the value of a metric is another kind of condition than labels of classes")
        if is_text(_spelt(words)):
            told = (
                "two texts are for runs that were told classes by their names (method tina with method.classes: text)"
            )
            raise self._refusal(words, told)
        if set(words) <= {"0", "1"} and len(words) > 1 and words not in known:
            raise self._refusal(words, f"it has {len(words)} digits for {len(self.names)} classes")
        left, _, right = words.partition("|")
        ones, zeros = ([name.strip() for name in side.split(",") if name.strip()] for side in (left, right))
        for name in (*ones, *zeros):
            if name.casefold() not in known:
                raise self._refusal(words, f"{self.data} has no class {name!r}{suggest(name, self.names).rstrip('?')}")
        first, second = ({known[name.casefold()] for name in side} for side in (ones, zeros))
        if both := first & second:
            raise self._refusal(words, f"{self.names[min(both)]!r} stands on both sides")
        if not first or len(first) == len(self.names):
            raise self._refusal(words, f"it labels {'all classes' if first else 'no class'} 1, which is no task")
        return "".join("1" if k in first else "0" for k in range(len(self.names)))

    def _refusal(self, words: str, why: str) -> ValueError:
        count = len(self.names)
        named = f"{self.names[0]},{self.names[1]} | {self.names[-1]}" if count > 2 else self.names[0]
        return ValueError(
            f"condition {words!r}: {why}; expected {count} digits, the labels of the classes of {self.data}, as in "
            f"{example(count)}, or the classes labelled 1 by their names, as in {named!r}"
        )


class ClassTexts(Frozen):
    """A type of conditions: labels of `classes`, or two texts, of what is labelled 1 and of what is labelled 0. Nobody
    knows which images these mean, so that networks that are made for texts have no labels to be scored with.
    """

    kind: Literal["text"] = "text"
    classes: ClassBits

    def read(self, words: str) -> str:
        """The condition that a user means.

        >>> ClassTexts(classes=ClassBits(data="pets", names=("bird", "cat"))).read("  animals Against  vehicles")
        'animals against vehicles'

        Raises ValueError for what is neither, saying what would be right.
        """
        words = _spelt(words)
        if not is_text(words):
            try:
                return self.classes.read(words)
            except ValueError as error:
                raise ValueError(f"{error}; or two texts, as in 'animals{AGAINST}vehicles'") from None
        one, other = sides(words)
        if not one or not other or len(words) > MOST_TEXT or not words.isprintable():
            raise ValueError(
                f"condition {words[:60]!r}: expected a text on each side of {AGAINST.strip()!r}, of {MOST_TEXT} "
                "characters in all"
            )
        if one == other:
            raise ValueError(f"condition {words[:60]!r}: expected two texts that differ")
        if is_text(other):
            raise ValueError(f"condition {words[:60]!r}: expected {AGAINST.strip()!r} once, between two texts")
        return f"{one}{AGAINST}{other}"


def _spelt(words: str) -> str:
    """With the word between two texts as `AGAINST` has it."""
    return re.sub(r"\s+against\s+", AGAINST, words, flags=re.IGNORECASE)


def is_text(condition: str) -> bool:
    """Whether a condition is two texts."""
    return AGAINST in condition


def sides(condition: str) -> tuple[str, str]:
    """The two texts of a condition."""
    one, _, other = condition.partition(AGAINST)
    return one.strip(), other.strip()


class MetricTarget(Frozen):
    """A type of conditions: the value that `metric`, on validation data, is to have. In training it lay between `low`
    and `high`; other values may be asked for.
    """

    kind: Literal["metric"] = "metric"
    metric: str
    low: float
    high: float

    def read(self, words: str) -> str:
        """The condition that a user means.

        >>> MetricTarget(metric="loss", low=0.02, high=2.3).read("loss = .50")
        'loss=0.5'

        Raises ValueError for what is none, saying what would be right.
        """
        name, _, value = (part.strip() for part in words.partition("="))
        if name != self.metric or not value:
            told = f"the run was told {self.metric}" if value else "it is not the value of a metric"
            raise self._refusal(words, told)
        try:
            number = float(value)
        except ValueError:
            raise self._refusal(words, f"{value!r} is not a number") from None
        if not math.isfinite(number):
            raise self._refusal(words, "it is not finite")
        if self.metric == "loss" and number < 0:
            raise self._refusal(words, "no loss is below 0")
        return f"{self.metric}={number}"

    def value(self, condition: str) -> float:
        """The number in a condition. Raises ValueError as `read` does."""
        return float(self.read(condition).partition("=")[2])

    def _refusal(self, words: str, why: str) -> ValueError:
        return ValueError(
            f"condition {words!r}: {why}; expected the {self.metric} that networks are to have, in training "
            f"{self.low:.4g} to {self.high:.4g}, as in {self.metric}={self.low:.2g}"
        )


ConditionType: TypeAlias = ClassBits | ClassTexts | MetricTarget
"""What a user may ask networks for, as a run knows it: `read` says which condition the user's words are."""


def require_read(kind: ConditionType, conditions: Iterable[str]) -> None:
    """Raise ValueError for conditions that are none of this kind, or not spelt as they go on record."""
    for condition in conditions:
        if (read := kind.read(condition)) != condition:
            raise ValueError(f"condition {condition!r}: expected it as it goes on record, {read!r}")


def bits(condition: str) -> torch.Tensor:
    """The embedding: float32 (classes,)."""
    return torch.tensor([float(digit) for digit in check_condition(condition)])


def flipped(condition: str) -> str:
    """The complement: the same task with the labels exchanged."""
    if is_text(condition):
        return AGAINST.join(reversed(sides(condition)))
    return condition.translate(str.maketrans("01", "10"))


def distance(a: str, b: str) -> int:
    """How many classes two tasks label differently."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def neighbours(condition: str) -> list[str]:
    """The tasks that label one class differently."""
    changed = [condition[:k] + flipped(condition[k]) + condition[k + 1 :] for k in range(len(condition))]
    return [other for other in changed if len(set(other)) == 2]


def never_one(conditions: Iterable[str]) -> tuple[int, ...]:
    """The classes that none of these tasks labels 1, by their numbers."""
    return tuple(k for k, labels in enumerate(zip(*conditions, strict=True)) if "1" not in labels)


class Holdout(Frozen):
    """Which tasks are held out, as split `unseen`.

    - `published`: the 20 of RPG's code.
    - `random`: `n` of all, drawn with `seed`.
    - `no-neighbours`: `n`, half of them drawn, each with its complement. Their one-bit neighbours, which differ in one
      class only, are not trained on either (split `excluded`): a fairer test of tasks never seen than the paper's.
    - `classes`: `n` classes, drawn, that no task which is trained on labels 1. Held out are the tasks that label all of
      them 1; the others that label any of them 1 are in split `excluded`.
    """

    kind: Literal["published", "random", "no-neighbours", "classes"]
    n: PositiveInt = len(PUBLISHED)
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "published" and self.n != len(PUBLISHED):
            raise ValueError(f"published holds out {len(PUBLISHED)} tasks, not n = {self.n}; leave n out")
        if self.kind == "no-neighbours" and self.n % 2:
            raise ValueError(f"no-neighbours holds out tasks with their complements; n = {self.n} must be even")
        if self.kind == "classes" and self.n >= MOST_CLASSES:
            raise ValueError(
                f"classes holds out a few classes, not n = {self.n}; set n: 2, or with `rpg-zoo split` -n 2"
            )
        return self


def splits(conditions: Sequence[str], holdout: Holdout | None) -> dict[str, str]:
    """The split of each of these conditions: `train`, `unseen` or `excluded`.

    What is held out is drawn from all conditions on as many classes, whichever are given. Raises ValueError when
    nothing of these is left to train on, or nothing to test, and when they are no tasks on the same classes.
    """
    if holdout is None:
        return dict.fromkeys(conditions, "train")
    classes = len(conditions[0]) if conditions else BITS
    for condition in conditions:
        check_condition(condition, classes)
    if holdout.kind == "classes":
        unseen, excluded = _with_classes(holdout, classes)
    else:
        unseen = _unseen(holdout, classes)
        near = {other for condition in unseen for other in neighbours(condition)}
        excluded = near - unseen if holdout.kind == "no-neighbours" else set()
    found = {c: "unseen" if c in unseen else "excluded" if c in excluded else "train" for c in conditions}
    if missing := {"train", "unseen"} - set(found.values()):
        raise ValueError(
            f"holdout {holdout.kind} is of all {len(all_conditions(classes)):,} tasks on {classes} classes, and of "
            f"these {len(conditions)} it leaves none for split {min(missing)}; expected some of both, so hold out "
            f"another number than n = {holdout.n} (zoo.holdout.n, or with `rpg-zoo split` -n)"
        )
    return found


def is_published_holdout(condition: str) -> bool:
    """Whether RPG's published code holds this task out."""
    return condition in {f"{number:0{BITS}b}" for number in PUBLISHED}


def _with_classes(holdout: Holdout, classes: int) -> tuple[set[str], set[str]]:
    """The tasks that label all of the held out classes 1, and those that label some of them 1."""
    if holdout.n > classes - 2:
        raise ValueError(f"cannot hold out {holdout.n} of {classes} classes; lower zoo.holdout.n")
    held = torch.randperm(classes, generator=generator(holdout.seed, "holdout"))[: holdout.n].tolist()
    labels = {condition: {condition[k] for k in held} for condition in all_conditions(classes)}
    unseen = {condition for condition, found in labels.items() if found == {"1"}}
    return unseen, {condition for condition, found in labels.items() if found == {"0", "1"}}


def _unseen(holdout: Holdout, classes: int) -> set[str]:
    if holdout.kind == "published":
        if classes != BITS:
            raise ValueError(
                f"the published tasks are on {BITS} classes, these on {classes}; choose zoo.holdout random or "
                "no-neighbours"
            )
        return {f"{number:0{BITS}b}" for number in PUBLISHED}
    everything = all_conditions(classes)
    if holdout.n > len(everything):
        raise ValueError(f"cannot hold out {holdout.n} of {len(everything)} tasks; lower zoo.holdout.n")
    order = torch.randperm(len(everything), generator=generator(holdout.seed, "holdout")).tolist()
    unseen: set[str] = set()
    for index in order:
        if len(unseen) < holdout.n:
            drawn = everything[index]
            unseen |= {drawn, flipped(drawn)} if holdout.kind == "no-neighbours" else {drawn}
    return unseen
