"""Commonsense scores by both protocols against answers scored by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evaluators import commonsense
from evaluators.commonsense import Settings, evaluate
from evaluators.questions import compose, prompt


class Scripted:
    """A model that answers with these texts, or log-likelihoods, and keeps what it was asked."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.asked = requests
        return self.answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.asked = requests
        return [(value, False) for value in self.answers]


QUESTIONS = {
    "boolq": [compose("boolq", f"{k}?", ("yes", "no"), k % 2) for k in range(4)],  # true, false, true, false
    "piqa": [compose("piqa", "dry", ("towel", "a long way around"), 1)],
    "arc_e": [compose("arc_e", "which", ("a", "bb", "ccc"), k) for k in range(3)],
}


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's requests as (kind, arguments)."""
    monkeypatch.setattr(commonsense, "_request", lambda kind, arguments, index: (kind, arguments))


def test_generated_answers_are_matched_and_scored() -> None:
    transcript = [
        "the correct answer is true",  # right
        "the correct answer is true",  # wrong
        "True",  # no answer
        "I think false or true",  # right: the first
        "the correct answer is solution2 ",  # right
        "the correct answer is answer1",  # right
        "answer1, no, answer2",  # wrong
        "answer4",  # wrong, and not among the choices
    ]
    model = Scripted(transcript)
    found = evaluate(model, QUESTIONS, Settings(beams=2, max_new_tokens=5))
    values = {metric.name: metric for metric in found.metrics}
    assert found.correct.tolist() == [True, False, False, True, True, True, False, False]
    assert {name: (m.value, m.n) for name, m in values.items()} == {
        "boolq": (50.0, 4),
        "piqa": (100.0, 1),
        "arc_e": (pytest.approx(100 / 3), 3),
        "mean": (pytest.approx((50 + 100 + 100 / 3) / 3), 8),
        "answered": (87.5, 8),
    }
    errors = (25.0, 0.0, 100 * math.sqrt(2 / 9 / 3))
    assert values["mean"].stderr == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 3)
    how = {"num_beams": 2, "do_sample": False, "max_gen_toks": 5, "until": []}
    assert model.asked[0] == ("generate_until", (prompt(QUESTIONS["boolq"][0].instruction), how))


def test_log_likelihoods_rank_the_choices() -> None:
    values = [
        *(-1.0, -2.0),  # yes: right
        *(-1.0, -2.0),  # yes: wrong
        *(-3.0, -2.0),  # no: wrong
        *(-1.0, -1.0),  # the first of equal ones: wrong
        *(-5.0, -6.0),  # the towel: wrong; per character the other one: right
        *(-1.0, -1.5, -2.7),  # right; per character bb: wrong
        *(-1.0, -1.5, -2.7),  # wrong; right
        *(-1.0, -1.9, -0.9),  # right; right
    ]
    model = Scripted(values)
    found = evaluate(model, QUESTIONS, Settings("loglikelihood"))
    assert found.correct.tolist() == [True, False, False, False, False, True, False, True]
    assert {metric.name: metric.value for metric in found.metrics} == {
        "boolq": 25.0,
        "piqa": 0.0,
        "arc_e": pytest.approx(200 / 3),
        "mean": pytest.approx((25 + 200 / 3) / 3),
        "piqa_norm": 100.0,
        "arc_e_norm": pytest.approx(200 / 3),
    }
    assert model.asked[1] == ("loglikelihood", ("Question: 0?\nAnswer:", " no"))


def test_no_questions_are_refused() -> None:
    for questions in ({}, {"boolq": []}):
        with pytest.raises(ValueError, match="no questions"):
            evaluate(Scripted([]), questions, Settings())


def test_the_protocol_is_said() -> None:
    assert str(Settings()) == "generate and match, 4 beams, 32 tokens"
    assert "log-likelihood" in str(Settings("loglikelihood"))
