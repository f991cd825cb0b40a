"""Commonsense reasoning: an adapter of a frozen LLaMA, fine-tuned on instructions, scored on seven sets of questions
(paper, Table 3).

The weights are those of the adapter alone. The base, which the recipe names, is in no zoo. Shape suffixes: B texts of
a batch, L tokens of a text, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.commonsense import EVALUATOR, Settings, evaluate, language_model
from evaluators.metrics import Evaluation, Metric, proportion
from evaluators.questions import Question
from zoo.data import made_questions
from zoo.data.instructions import IGNORED, encode, fingerprint, load_questions, load_training
from zoo.errors import MissingExtra
from zoo.networks import adapters
from zoo.networks.adapters import Adapted, Base, Dtype
from zoo.structure import Structure
from zoo.tasks.base import MOST, Batch, Count, Split, TaskConfig
from zoo.tasks.family import TaskBase, split_off

EVALUATION_BATCH = 16

SetName = Literal["boolq", "piqa", "siqa", "hellaswag", "arc_e", "arc_c", "obqa"]
ALL_SETS: tuple[SetName, ...] = ("boolq", "piqa", "siqa", "hellaswag", "arc_e", "arc_c", "obqa")
CHOICES: dict[SetName, int] = {"boolq": 2, "piqa": 2, "siqa": 3, "hellaswag": 4, "arc_e": 4, "arc_c": 4, "obqa": 4}
"""How many answers a question has; some of ARC's have three or five."""


class Config(TaskConfig):
    """Section `task:` of a recipe. Defaults are DoRA's (its fine-tuning script for LLaMA-7B), but for `rank`.

    - `model`: the frozen base, a directory, a repository on the Hub, or `made:tiny-llama` (zoo.networks.tiny_llama);
      `dtype`: what its weights are kept in. The adapter's are float32.
    - `rank`, `alpha`, `dropout`, `targets`: the adapter's rank, scale (alpha / rank), dropout, and the linear modules
      it is for.
    - `data`: `commonsense_170k` and its test sets, or `made_questions`, made on the spot (zoo.data.made_questions).
    - `cutoff`: tokens of a training text; `train_on_inputs`: learn all of it, not the response alone; `validation`: how
      many of the training texts are never trained on.
    - `sets`, `limit`: the sets of questions to score on, or the first so many of each; `answer_by`, `beams`,
      `max_new_tokens`: how the model answers (evaluators.commonsense).
    """

    library = "peft"
    told = frozenset(
        ("dtype", "rank", "dropout", "targets", "data", "cutoff", "train_on_inputs", "validation", "sets", "limit")
    ) | {"answer_by", "beams", "max_new_tokens"}
    name: Literal["commonsense"]
    model: str = "yahma/llama-7b-hf"
    dtype: Dtype = "bfloat16"
    rank: Count
    alpha: Count
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    data: Literal["commonsense_170k", "made_questions"] = "commonsense_170k"
    cutoff: Annotated[int, Field(ge=2, le=MOST)] = 256
    train_on_inputs: bool = True
    validation: Count = 120
    sets: Annotated[tuple[SetName, ...], Field(min_length=1)] = ALL_SETS
    limit: Count | None = None
    answer_by: Literal["generate", "loglikelihood"] = "generate"
    beams: Count = 4
    max_new_tokens: Count = 32

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.sets)) < len(self.sets) or len(set(self.targets)) < len(self.targets):
            raise ValueError("sets and targets must hold different names")
        return self

    @property
    def adapter(self) -> adapters.Settings:
        return adapters.Settings(self.model, self.rank, self.alpha, self.dropout, self.targets)

    @property
    def asking(self) -> Settings:
        return Settings(self.answer_by, self.beams, self.max_new_tokens)

    def build(self, data_root: Path | None, device: torch.device) -> CommonsenseTask:
        """The base and the training texts are read when they are needed. Raises MissingData or Corrupt for the
        questions.
        """
        root = made_questions.data_root() if self.data == "made_questions" else data_root
        questions: dict[str, list[Question]] = {name: load_questions(name, root, self.limit) for name in self.sets}
        return CommonsenseTask(self, questions, root, device)

    def chance(self) -> dict[str, float]:
        """Of `mean`, over the sets; validation is on texts, which nobody guesses."""
        return {"mean": sum(100 / CHOICES[name] for name in self.sets) / len(self.sets)}

    def structure(self) -> Structure:
        """The structure of the adapter, without the base's weights. Raises MissingExtra, ValueError for `targets` that
        the base does not have, and MissingData for a base whose sizes are not known here.
        """
        return Structure.of(adapters.meta_adapter(self.adapter))

    def library_config(self) -> dict[str, Any]:
        """peft's `adapter_config.json`."""
        return adapters.adapter_config(self.adapter)

    def check_source(self, path: Path) -> None:
        """Raise ValueError if the adapter file at `path` is, by its configuration, not one of this task; Corrupt if
        that is damaged.
        """
        beside = path.parent / "adapter_config.json"
        if beside.is_file():
            adapters.check_config(beside, self.adapter)


class CommonsenseTask(TaskBase):
    """The Task protocol (zoo.tasks.base) for adapters of a language model.

    A batch is token ids and labels, int64 (B, L) both, padded on the left. The base is loaded once, and shared by all
    models that are built.
    """

    evaluator = EVALUATOR
    main_metric = "mean"
    samples = "texts"
    config: Config

    def __init__(
        self, config: Config, questions: Mapping[str, list[Question]], data_root: Path | None, device: torch.device
    ) -> None:
        super().__init__(config, device)
        self.questions = questions
        self.data_root = data_root
        counts = ", ".join(f"{name} {len(questions[name])}" for name in questions)
        self.protocol = f"{config.asking}: {counts} questions, {config.dtype} base, data {fingerprint(questions)}"

    @cached_property
    def base(self) -> Base:
        return adapters.load_base(self.config.model, self.config.dtype, self.device)

    @cached_property
    def _texts(self) -> list[dict[str, str]]:
        return load_training(self.data_root)

    def _split(self) -> tuple[Tensor, Tensor]:
        return split_off(torch.arange(len(self._texts)), self.config.validation)

    def build(self, seed: int) -> Adapted:
        """Raises MissingExtra, MissingData for the base, ValueError for `targets` that it does not have."""
        return adapters.adapted(self.base.model, self.config.adapter, seed).to(self.device)

    def start(self, seed: int) -> Adapted:
        """Raises what `build` raises, and MissingData or Corrupt for the training texts."""
        self.steps_per_epoch(1)
        return self.build(seed)

    def head(self, model: nn.Module) -> list[nn.Parameter]:
        raise ValueError(f"task {self.config.name} trains no last layer; leave out zoo.head_epochs")

    def batches(self, seed: int, first_step: int, batch_size: int) -> Iterator[Batch]:
        return (self._batch(index) for _, _, index in self._plan(seed, first_step, batch_size))

    def _batch(self, index: Tensor) -> Batch:
        rows = [
            encode(self.base.tokenizer, self._texts[i], self.config.cutoff, self.config.train_on_inputs)
            for i in index.tolist()
        ]
        ids = adapters.pad([ids for ids, _ in rows], adapters.PAD)
        labels = adapters.pad([labels for _, labels in rows], IGNORED)
        return ids.to(self.device), labels.to(self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean cross entropy of all tokens that have a label and follow another."""
        entropy = self._entropy(model, batch)[0]
        return entropy.mean() if len(entropy) else entropy.sum()  # 0 where `cutoff` has left no token with a label

    def _entropy(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """For each token with a label its cross entropy, whether it is the most likely one, and its text, all (N,)."""
        ids, labels = batch
        mask = (ids != adapters.PAD).cumsum(1) > 0  # padding comes first; the same token may occur in a text
        logits_BLV = model(ids, mask.long())[:, :-1].float()
        # The published scripts also learn to predict the first token, from padding, in the texts that have some.
        known = (labels[:, 1:] != IGNORED) & mask[:, :-1]
        logits_NV, labels_N = logits_BLV[known], labels[:, 1:][known]
        entropy_N = F.cross_entropy(logits_NV, labels_N, reduction="none")
        return entropy_N, logits_NV.argmax(1) == labels_N, known.nonzero()[:, 0]

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """`test`: the questions. `validation`: `exact`, the share of the texts held out whose labelled tokens are all
        the most likely ones, and `loss`, by text; of which `cutoff` has left no such token count as wrong, and have no
        loss.
        """
        assert isinstance(model, Adapted)
        with adapters.evaluating(model), torch.no_grad():
            if split == "validation":
                return self._validate(model)
            asked = self._asked(model)
            return evaluate(asked, self.questions, self.config.asking)

    def _asked(self, model: Adapted) -> Any:
        kind = self.device.type
        precision = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        try:
            return language_model(
                model.network,
                self.base.tokenizer,
                EVALUATION_BATCH,
                precision if torch.is_autocast_enabled(kind) else None,
            )
        except ImportError as error:
            raise MissingExtra("scoring needs lm-eval; install it with `pip install 'rpg-zoo[llm]'`") from error

    def _validate(self, model: nn.Module) -> Evaluation:
        losses, exact = [], []
        for index in self.validation_index.split(EVALUATION_BATCH):
            entropy_N, right_N, text_N = self._entropy(model, self._batch(index))
            for text in range(len(index)):
                own = text_N == text
                exact.append(bool(own.any() and right_N[own].all()))
                if own.any():
                    losses.append(float(entropy_N[own].mean()))
        correct, loss = torch.tensor(exact).numpy(), torch.tensor(losses, dtype=torch.float64)
        metrics = [proportion("exact", correct)]
        if losses and bool(loss.isfinite().all()):
            n = len(loss)
            stderr = float(loss.std()) / math.sqrt(n) if n > 1 else 0.0
            metrics.append(Metric("loss", float(loss.mean()), n=n, stderr=stderr, higher_is_better=False))
        return Evaluation(tuple(metrics), correct)
