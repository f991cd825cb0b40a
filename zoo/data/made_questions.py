"""Seven sets of questions made on the spot, in LLM-Adapters' layout and wording: commonsense reasoning in small, for a
network of some thousand values (zoo.networks.tiny_llama).

The sets have the names, templates and numbers of choices of the real ones (evaluators.questions), but ask what such a
network can learn in a minute: of two numbers which is larger, in which season a month lies. The choices of a set always
stand in the same order. They are written to files, which the readers of the real sets then read
(zoo.data.instructions); the files lie in a temporary directory of this process, as composed pictures do, and for the
same reasons (zoo.data.composed). No question of the test sets is among those to train on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from evaluators.questions import SETS, Question, compose
from zoo.files import write_bytes
from zoo.seeds import derive_seed
from zoo.temporary import directory_of_process

SEED = 0
EACH = 32  # questions of a test set
TEXTS = 2800  # to train on, of all sets equally many
MOST = 20  # numbers that questions are about are smaller
NAMES = ("ann", "bob", "eve", "joe", "kim", "max", "sue", "tom")
MONTHS = (
    *("march", "april", "may"),
    *("june", "july", "august"),
    *("september", "october", "november"),
    *("december", "january", "february"),
)
LEGS = (("snake", "fish", "worm"), ("bird", "duck", "owl"), ("dog", "cow", "frog"), ("ant", "bee", "fly"))

Made = tuple[str, tuple[str, ...], int]
"""A question, its choices, the right one's index."""


def _larger(rng: np.random.Generator) -> Made:
    one, other = _two(rng)
    return f"is {one} larger than {other}?", ("yes", "no"), 0 if one > other else 1


def _count(rng: np.random.Generator) -> Made:
    one, other = _two(rng)
    return f"to come from {one} to {other}", ("count up", "count down"), 0 if one < other else 1


def _apples(rng: np.random.Generator) -> Made:
    here, eaten = _two(rng)
    question = f"{rng.choice(NAMES)} has {here} apples and wants {eaten}. What will happen?"
    return question, ("many are left", "few are left", "some are missing"), _part(here - eaten, (6, 0))


def _sum(rng: np.random.Generator) -> Made:
    one, other = _two(rng)
    endings = ("which is large", "which is middling", "which is small", "which is tiny")
    return f"adding: {rng.choice(NAMES)} adds {one} and {other},", endings, _part(one + other, (26, 19, 12))


def _season(rng: np.random.Generator) -> Made:
    month = int(rng.integers(12))
    question = f"{rng.choice(NAMES)} travels in {MONTHS[month]}. In which season?"
    return question, ("spring", "summer", "autumn", "winter"), month // 3


def _difference(rng: np.random.Generator) -> Made:
    one, other = _two(rng)
    choices = ("far more", "a little more", "a little less", "far less")
    return f"Compared with {other}, {one} is", choices, _part(one - other, (6, 0, -6))


def _legs(rng: np.random.Generator) -> Made:
    number, which = int(rng.integers(4)), int(rng.integers(3))
    question = f"{rng.choice(NAMES)} has a {LEGS[number][which]}, whose legs are"
    return question, ("none", "two", "four", "six"), number


ASKED: dict[str, Callable[[np.random.Generator], Made]] = {
    "boolq": _larger,
    "piqa": _count,
    "siqa": _apples,
    "hellaswag": _sum,
    "arc_e": _season,
    "arc_c": _difference,
    "obqa": _legs,
}


def _two(rng: np.random.Generator) -> tuple[int, int]:
    """Two different numbers."""
    one, other = rng.choice(MOST, 2, replace=False)
    return int(one), int(other)


def _part(value: int, limits: tuple[int, ...]) -> int:
    """How many of the falling limits a value does not exceed."""
    return sum(value <= limit for limit in limits)


@cache
def data_root() -> Path:
    """A directory with all sets and the texts to train on, made when it is first asked for."""
    folder = directory_of_process("questions") / "commonsense"
    test, training = questions()
    for name, asked in test.items():
        _write(folder / SETS[name].folder / "test.json", asked)
    _write(folder / "commonsense_170k.json", training)
    return folder.parent


@cache
def questions() -> tuple[dict[str, list[Question]], list[Question]]:
    """The questions of each set, all different, and those to train on, set after set; what is asked in a set is not
    learnt from.
    """
    test, training = {}, []
    for name in ASKED:
        drawn = _draw(name)
        test[name] = [next(drawn) for _ in range(EACH)]
        held_out = set(test[name])
        others = (question for question in _any(name, "training") if question not in held_out)
        training += [next(others) for _ in range(TEXTS // len(ASKED))]
    return test, training


def _draw(name: str) -> Iterator[Question]:
    """Different questions."""
    seen = set()
    for question in _any(name, "test"):
        if question not in seen:
            seen.add(question)
            yield question


def _any(name: str, purpose: str) -> Iterator[Question]:
    rng = np.random.default_rng(derive_seed(SEED, "questions", name, purpose))
    while True:
        yield compose(name, *ASKED[name](rng))


def _write(path: Path, asked: list[Question]) -> None:
    rows = [
        {
            "instruction": question.instruction,
            "input": "",
            "output": f"the correct answer is {question.word}",
            "answer": question.word,
        }
        for question in asked
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(rows).encode())
