"""Questions of the commonsense benchmarks and the texts that stand for them.

Instructions, prompt and matching are those of LLM-Adapters (Hu et al., 2023, https://arxiv.org/abs/2304.01933), by
which DoRA and the paper (Table 3) score; the shorter wording is that of lm-eval's tasks of the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHOOSE = "Please choose the correct answer to the question: "
ASKED = "Question: {}\nAnswer:"
ANSWERS = ("answer1", "answer2", "answer3", "answer4", "answer5")


@dataclass(frozen=True)
class QuestionSet:
    """A benchmark. `folder` is its place in LLM-Adapters' data, `opening` what its instructions begin with, `words`
    are the answers, `between` separates the choices, `context` is lm-eval's wording. lm-eval also reports accuracy
    with log-likelihoods per character if `normed`.
    """

    folder: str
    opening: str = CHOOSE
    words: tuple[str, ...] = ANSWERS
    between: str = " "
    context: str = ASKED
    normed: bool = True


SETS = {
    "boolq": QuestionSet(
        "boolq",
        "Please answer the following question with true or false, question: ",
        ("true", "false"),
        normed=False,
    ),
    "piqa": QuestionSet(
        "piqa",
        "Please choose the correct solution to the question: ",
        ("solution1", "solution2"),
        between="\n\n",
    ),
    "siqa": QuestionSet("social_i_qa", context="Q: {}\nA:", normed=False),
    "hellaswag": QuestionSet(
        "hellaswag",
        "Please choose the correct ending to complete the given sentence: ",
        ("ending1", "ending2", "ending3", "ending4"),
        context="{}",
    ),
    "arc_e": QuestionSet("ARC-Easy"),
    "arc_c": QuestionSet("ARC-Challenge"),
    "obqa": QuestionSet("openbookqa", context="{}"),
}


@dataclass(frozen=True)
class Question:
    """One question of `SETS[set]`: its instruction, the question in it, the choices, and the right one's index."""

    set: str
    instruction: str
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def word(self) -> str:
        """The right answer as LLM-Adapters names it, for example `solution2`."""
        return SETS[self.set].words[self.answer]


def parse(name: str, row: object) -> Question:
    """A row of LLM-Adapters' files, `{"instruction": ..., "answer": ...}`, as a question of the set `name`.

    Raises ValueError where the instruction is not one of this set, or the answer none of its choices.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("instruction"), str):
        raise ValueError(f"expected an object with an instruction, got {str(row)[:60]!r}")
    instruction = row["instruction"]
    kind = SETS[name]
    body, found, words = instruction.rpartition("\n\nAnswer format: ")
    if not found or not body.startswith(kind.opening):
        raise ValueError(f"an instruction of {name} begins with {kind.opening!r}, this one is {instruction[:60]!r}")
    given = tuple(words.strip().split("/"))
    if given != kind.words[: len(given)]:
        raise ValueError(f"the answers to a question of {name} are called {'/'.join(kind.words)}, here {words[:60]!r}")
    if row.get("answer") not in given:
        raise ValueError(f"the answer {str(row.get('answer'))[:40]!r} is none of {words[:60]}")
    question, choices = _split(body.removeprefix(kind.opening), given, kind.between)
    return Question(name, instruction, question, choices, given.index(row["answer"]))


def _split(body: str, words: Sequence[str], between: str) -> tuple[str, tuple[str, ...]]:
    """The question and its choices, spaces and all: `Which? Answer1: this Answer2: that`."""
    if words == ("true", "false"):
        return body, ("yes", "no")
    parts = []
    for k, word in reversed(list(enumerate(words))):
        before = between if k else "\n\n"
        body, found, choice = body.rpartition(f"{before}{word.capitalize()}: ")
        if not found:
            raise ValueError(f"there is no {word.capitalize()!r} in its right place")
        parts.append(choice)
    return body, tuple(reversed(parts))


def compose(name: str, question: str, choices: Sequence[str], answer: int) -> Question:
    """A question of the set `name` with the instruction that LLM-Adapters gives it. Of BoolQ's questions, which end
    in a question mark, the choices are known.
    """
    kind = SETS[name]
    words = kind.words[: len(choices)]
    body = kind.opening + question
    if name != "boolq":
        listed = [f"{word.capitalize()}: {choice}" for word, choice in zip(words, choices, strict=True)]
        body += "\n\n" + kind.between.join(listed)
    instruction = f"{body}\n\nAnswer format: {'/'.join(words)}"
    return Question(name, instruction, question, tuple(choices), answer)


def published(name: str, row: Mapping[str, Any]) -> Question:
    """A row of the set's own publication, in the columns of the repositories that lm-eval reads. Raises KeyError for
    other columns.
    """
    if name == "boolq":
        return compose(name, f"{row['question']}?", ("yes", "no"), 0 if row["label"] else 1)
    if name == "piqa":
        return compose(name, row["goal"], (row["sol1"], row["sol2"]), int(row["label"]))
    if name == "siqa":
        choices = (row["answerA"], row["answerB"], row["answerC"])
        return compose(name, f"{row['context']} {row['question']}", choices, int(row["label"]) - 1)
    if name == "hellaswag":
        return compose(name, f"{row['activity_label']}: {_context(row)}", row["endings"], int(row["label"]))
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    question = row["question_stem"] if name == "obqa" else row["question"]
    return compose(name, question, texts, labels.index(row["answerKey"].strip()))


def _context(row: Mapping[str, Any]) -> str:
    """What an ending of HellaSwag follows. Its last sentence begins with a small letter in column `ctx`; lm-eval takes
    it from `ctx_b`, where it stands alone, and lets it begin with a capital.
    """
    if "ctx_a" not in row or "ctx_b" not in row:
        return str(row["ctx"])
    return f"{row['ctx_a']} {row['ctx_b'].capitalize()}".rstrip()


def prompt(instruction: str) -> str:
    """What a network is asked to continue: LLM-Adapters' template for evaluation, with all its spaces."""
    indent = " " * 16
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
        f"{indent}### Instruction:\n{indent}{instruction}\n\n{indent}### Response:\n{indent}"
    )


def matched(name: str, text: str) -> str:
    """The first of the set's answers in a generated text, or nothing. A response that starts anew counts from there."""
    response = text.split("### Response:")[-1]
    found = re.search("|".join(SETS[name].words), response)
    return found[0] if found else ""


def wording(question: Question) -> tuple[str, tuple[str, ...]]:
    """Context and continuations whose log-likelihoods rank the choices: lm-eval's wording, with a space between. BoolQ
    is without its passage, which LLM-Adapters' files lack.
    """
    text, choices = question.question, question.choices
    if question.set == "hellaswag":
        text, choices = _without_markup(text), tuple(map(_without_markup, choices))
    return SETS[question.set].context.format(text), choices


def _without_markup(text: str) -> str:
    """A text of HellaSwag as lm-eval cleans it: much of it comes from WikiHow, with marks in brackets."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")
