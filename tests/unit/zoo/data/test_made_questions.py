"""Made-up questions: the same every time, read as the real ones are, with right answers that can be computed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from evaluators.questions import SETS, Question, prompt
from zoo.data import made_questions
from zoo.data.instructions import load_questions, load_training
from zoo.data.made_questions import EACH, MONTHS, TEXTS
from zoo.networks import tiny_llama

CHOICES = {"boolq": 2, "piqa": 2, "siqa": 3, "hellaswag": 4, "arc_e": 4, "arc_c": 4, "obqa": 4}


@pytest.fixture(scope="module")
def read() -> dict[str, list[Question]]:
    return {name: load_questions(name, made_questions.data_root(), None) for name in SETS}


def test_they_are_read_back_as_they_were_made(read: dict[str, list[Question]]) -> None:
    test, training = made_questions.questions()
    assert {name: [q.instruction for q in asked] for name, asked in read.items()} == {
        name: [q.instruction for q in asked] for name, asked in test.items()
    }
    assert {name: [q.word for q in asked] for name, asked in read.items()} == {
        name: [q.word for q in asked] for name, asked in test.items()
    }
    rows = load_training(made_questions.data_root())
    assert len(rows) == TEXTS
    assert [row["output"] for row in rows] == [f"the correct answer is {q.word}" for q in training]
    assert {name: len({q.instruction for q in asked}) for name, asked in read.items()} == dict.fromkeys(SETS, EACH)
    asked = {q.instruction for questions in read.values() for q in questions}
    assert not asked & {row["instruction"] for row in rows}, "tested on what was learnt"


def test_equal_seeds_give_equal_questions(read: dict[str, list[Question]]) -> None:
    again = made_questions.questions.__wrapped__()
    assert again == made_questions.questions()


def expected(question: Question) -> str:
    """The right answer, from the text alone, as a person would find it."""
    text = question.question
    numbers = [int(found) for found in re.findall(r"\d+", text)]
    if question.set == "boolq":
        return "yes" if numbers[0] > numbers[1] else "no"
    if question.set == "piqa":
        return "count up" if numbers[0] < numbers[1] else "count down"
    if question.set == "siqa":
        left = numbers[0] - numbers[1]
        return "some are missing" if left <= 0 else "few are left" if left <= 6 else "many are left"
    if question.set == "hellaswag":
        total = sum(numbers)
        size = "tiny" if total <= 12 else "small" if total <= 19 else "middling" if total <= 26 else "large"
        return f"which is {size}"
    if question.set == "arc_e":
        (month,) = (number for number, name in enumerate(MONTHS) if name in re.findall(r"\w+", text))
        return ("spring", "summer", "autumn", "winter")[month // 3]
    if question.set == "arc_c":
        more = numbers[1] - numbers[0]
        size = "far" if abs(more) > 6 or more == -6 else "a little"
        return f"{size} {'more' if more > 0 else 'less'}"
    for legs, animals in (("two", "bird duck owl"), ("four", "dog cow frog"), ("six", "ant bee fly")):
        if set(animals.split()) & set(re.findall(r"\w+", text)):
            return legs
    return "none"


def test_answers_agree_with_questions(read: dict[str, list[Question]]) -> None:
    for name, asked in read.items():
        for question in asked:
            assert len(question.choices) == CHOICES[name]
            assert question.choices[question.answer] == expected(question), question.instruction
        counted = Counter(question.answer for question in asked)
        assert len(counted) == CHOICES[name], "every answer is right at times"
        assert max(counted.values()) <= 0.75 * EACH, "and none mostly"


def test_the_tiny_llama_knows_all_words(read: dict[str, list[Question]]) -> None:
    known = set(tiny_llama.words())
    for question in (question for asked in read.values() for question in asked):
        assert set(tiny_llama.WORDS.findall(prompt(question.instruction))) <= known
    assert {"answer1", "solution2", "true", "correct"} <= known
