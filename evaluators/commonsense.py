"""Commonsense reasoning of a language model, which answers in either of two ways. lm-eval asks it; this is the only
module that imports it.

| `answer_by`     | the model's answer                                                                       |
|-----------------|------------------------------------------------------------------------------------------|
| `generate`      | the first answer in the text that it generates (LLM-Adapters, DoRA, the paper's Table 3)  |
| `loglikelihood` | the choice with the largest log-likelihood after the question (lm-eval's own tasks)       |

The two give other numbers for the same network, so the way belongs to every number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluators.metrics import Evaluation, Metric, proportion
from evaluators.questions import SETS, Question, matched, prompt, wording

EVALUATOR = "commonsense/1"
"""Name and version; the version is raised whenever the same network would get other scores."""

Correct: TypeAlias = NDArray[np.bool_]


class LanguageModel(Protocol):
    """What is asked of lm-eval's models: answers to its requests, in their order."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]: ...

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]: ...


@dataclass(frozen=True)
class Settings:
    """How a model answers. `beams` and `max_new_tokens` are of generated answers; LLM-Adapters has these values."""

    answer_by: Literal["generate", "loglikelihood"] = "generate"
    beams: int = 4
    max_new_tokens: int = 32

    def __str__(self) -> str:
        if self.answer_by == "loglikelihood":
            return "log-likelihood of the choices"
        return f"generate and match, {self.beams} beams, {self.max_new_tokens} tokens"


def language_model(model: Any, tokenizer: Any, batch_size: int, precision: str | None = None) -> LanguageModel:
    """A transformers model and its tokenizer, which pads on the left, as lm-eval's. `precision` is that of autocast, a
    dtype's name; without one there is none.
    """
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is loaded already
    options: dict[str, Any] = {"batch_size": batch_size, "mixed_precision_dtype": precision}
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", **options)


def evaluate(model: LanguageModel, questions: Mapping[str, Sequence[Question]], settings: Settings) -> Evaluation:
    """Score a model on sets of questions: the accuracy on each set under its name, and `mean`, that of the sets.

    By generation there is also `answered`, the share of all texts with an answer in them; by log-likelihood, where
    lm-eval has it, an accuracy such as `piqa_norm` with log-likelihoods per character of a choice. `correct` is by
    question, set after set, without that norm. Raises ValueError if there are no questions.
    """
    if not questions or not all(questions.values()):
        raise ValueError("no questions to evaluate on; expected at least one in every set")
    asked = [question for name in questions for question in questions[name]]
    if settings.answer_by == "generate":
        answers = generated(model, asked, settings)
        correct = np.array([word == q.word for word, q in zip(answers, asked, strict=True)])
        more = [proportion("answered", np.array([word != "" for word in answers]))]
    else:
        correct, normed = ranked(model, asked)
        more = [
            Metric(f"{metric.name}_norm", metric.value, metric.n, metric.stderr)
            for metric in by_set(questions, normed)
            if SETS[metric.name].normed
        ]
    metrics = by_set(questions, correct)
    return Evaluation((*metrics, macro_mean(metrics), *more), correct)


def generated(model: LanguageModel, asked: Sequence[Question], settings: Settings) -> list[str]:
    """The answer in the text that the model generates to each question, for example `answer2`, or nothing."""
    how = {"num_beams": settings.beams, "do_sample": False, "max_gen_toks": settings.max_new_tokens, "until": []}
    requests = [_request("generate_until", (prompt(q.instruction), how), k) for k, q in enumerate(asked)]
    texts = model.generate_until(requests, disable_tqdm=True)
    return [matched(question.set, text) for text, question in zip(texts, asked, strict=True)]


def ranked(model: LanguageModel, asked: Sequence[Question]) -> tuple[Correct, Correct]:
    """Is the choice with the largest log-likelihood the right one? bool (N,), and the same per character. Among equal
    ones the first is taken, as in lm-eval.
    """
    requests = []
    for question in asked:
        context, choices = wording(question)
        requests += [_request("loglikelihood", (context, f" {choice}"), k) for k, choice in enumerate(choices)]
    found = iter(model.loglikelihood(requests, disable_tqdm=True))
    plain, normed = [], []
    for question in asked:
        lengths = np.array([max(1, len(choice)) for choice in wording(question)[1]])
        scores = np.array([next(found)[0] for _ in lengths])
        plain.append(int(scores.argmax()) == question.answer)
        normed.append(int((scores / lengths).argmax()) == question.answer)
    return np.array(plain), np.array(normed)


def by_set(questions: Mapping[str, Sequence[Question]], correct: Correct) -> list[Metric]:
    """The share of right answers in each set: correct (N,), set after set."""
    ends = np.cumsum([len(questions[name]) for name in questions])
    parts = np.split(correct, ends[:-1])
    return [proportion(name, part) for name, part in zip(questions, parts, strict=True)]


def macro_mean(metrics: Sequence[Metric]) -> Metric:
    """The mean over sets, whatever their sizes."""
    stderr = math.sqrt(sum(metric.stderr**2 for metric in metrics)) / len(metrics)
    value = sum(metric.value for metric in metrics) / len(metrics)
    return Metric("mean", value, n=sum(metric.n for metric in metrics), stderr=stderr)


def _request(kind: str, arguments: tuple[Any, ...], index: int) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=index)
