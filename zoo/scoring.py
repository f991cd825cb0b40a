"""Score a Zoo on its task's test data: a line per checkpoint in `scores.jsonl`, resumable, keyed by the checkpoint's
content.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from evaluators.metrics import Metric, Summary, summarize
from zoo.checkpoint import content_hash
from zoo.errors import suggest
from zoo.files import Journal, read_records
from zoo.formats.weights import fitted, read
from zoo.manifest import Entry, Sha256, versions
from zoo.progress import progress
from zoo.store import Zoo
from zoo.structure import Frozen, Structure
from zoo.table import Record, Table
from zoo.tasks.base import Task
from zoo.tasks.wrapped import WITH

log = logging.getLogger(__name__)

SCORES = "scores.jsonl"


class Score(Frozen):
    """Metrics of one checkpoint on test data. `correct` is the packed per-sample correctness (base64), `evaluator`
    says which code and version produced it, `protocol` on which data: scores are comparable only where both are
    equal. `condition` says which task, where there are many.
    """

    id: str
    sha256: Sha256
    evaluator: str
    protocol: str
    condition: str | None = None
    metrics: dict[str, Metric]
    samples: PositiveInt
    correct: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(base64.b64decode(self.correct, validate=True)) != -(-self.samples // 8):
            raise ValueError(f"correct does not hold {self.samples} samples")
        return self

    def correct_per_sample(self) -> NDArray[np.bool_]:
        """(samples,) bool: which test samples the network gets right, in data order."""
        packed = np.frombuffer(base64.b64decode(self.correct), dtype=np.uint8)
        return np.unpackbits(packed, count=self.samples).astype(bool)


PRECISIONS = ("float32", "bfloat16")
LOWER = ", bfloat16"  # the end of the protocol of a lower precision


def score(
    zoo: Zoo,
    task: Task,
    out: Path,
    entries: Sequence[Entry] | None = None,
    precision: str = "float32",
    name: str | None = None,
) -> list[Score]:
    """Scores of these entries (default: all) in their order, from `out/scores.jsonl` where they are already there.

    An entry with a condition is scored on that task. One model is built and the weights are swapped in place. With
    bfloat16, matrix products and convolutions are computed in it (autocast) and the protocol says so. `name` is what
    the progress calls these networks, mostly as their zoo. Raises ValueError for another precision, and for what
    `require_labels` does.
    """
    entries = zoo.entries if entries is None else entries
    require_labels(zoo, entries, task)
    scores, main = [], task.main_metric
    what = f"scoring {name or zoo.path.name}"
    with Scorer(task, out, zoo.frozen(), precision) as scorer, progress(what, len(entries)) as bar:
        for entry in entries:
            found = scorer.known(entry)
            if found:
                bar.skip(1)
            else:
                found = scorer.score(entry, zoo.load(entry))
                bar.advance(1, f"{entry.id}, {main} {found.metrics[main].value:.2f}")
            scores.append(found)
    return scores


def require_labels(zoo: Zoo, entries: Sequence[Entry], task: Task) -> None:
    """Raise ValueError where there are many tasks and a network does not say which is its own."""
    if task.conditions and (bare := [entry.id for entry in entries if entry.condition is None]):
        raise ValueError(
            f"{bare[0]} of {zoo.path} does not say which labels it is for, as networks that were made for words do "
            "not, and nobody can score it; take networks that were made for a task's labels"
        )


class Scorer:
    """Scores networks one at a time into `out/scores.jsonl`. `frozen` completes each to a network, where they are
    only a part of one. Raises ValueError for an unknown precision, and for a place that is a zoo or a run.
    """

    def __init__(self, task: Task, out: Path, frozen: Mapping[str, Tensor], precision: str = "float32") -> None:
        if found := [name for name in ("manifest.json", "journal.jsonl", "run.json") if (out / name).is_file()]:
            raise ValueError(f"{out} is a zoo or a run, by its {found[0]}; choose another place for scores with --out")
        self.task, self.frozen, self.precision = task, frozen, precision
        self.protocol = _protocol(task, precision)
        self.model = task.build(0)
        self.journal = Journal(out / SCORES)
        read = [Score.parse(json.dumps(record), self.journal.path) for record in self.journal.records]
        self._known = {(old.sha256, old.evaluator, old.protocol, old.condition): old for old in read}

    def known(self, entry: Entry) -> Score | None:
        """The score that is already there."""
        found = self.known_content(entry.sha256, entry.condition)
        return found and found.model_copy(update={"id": entry.id})

    def known_content(self, sha256: str, condition: str | None = None) -> Score | None:
        """The score of this content that is already there, by the id that it was scored as."""
        return self._known.get((sha256, self.task.evaluator, self.protocol, condition))

    def score(self, entry: Entry, tensors: Mapping[str, Tensor]) -> Score:
        """Score a network that is not known and keep the score."""
        self.task.load(self.model, {**tensors, **self.frozen})
        return self.score_model(entry.id, entry.sha256, self.model, entry.condition)

    def score_model(self, id: str, sha256: str, model: nn.Module, condition: str | None = None) -> Score:
        """Score a model on the task's device, whose content this hash stands for, and keep the score."""
        found = _score(id, sha256, self.task, model, self.precision, condition)
        self.journal.append(found.model_dump(mode="json"))
        self._known[found.sha256, found.evaluator, found.protocol, found.condition] = found
        return found

    def said(self, entry: Entry, tensors: Mapping[str, Tensor]) -> None:
        """Score a network that has just been made and log what it scores, for those who wait."""
        found = self.known(entry) or self.score(entry, tensors)
        log.info(f"{entry.id}: {self.task.main_metric} {found.metrics[self.task.main_metric].value:.2f}")

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()


def score_file(path: Path, task: Task, precision: str = "float32") -> Score:
    """The score of one checkpoint file, a whole network. Raises ValueError when it does not fit the task's model,
    Corrupt when it is damaged.
    """
    _protocol(task, precision)
    weights = read(path)
    model = task.build(0)
    found = fitted(weights.tensors, Structure.of(task.weights(model) | task.frozen(model)), str(path))
    for note in (weights.note, *found.notes):
        if note:
            log.info("%s: %s", path, note)
    task.load(model, found.tensors)
    return _score(path.name, content_hash(found.tensors), task, model, precision)


def _protocol(task: Task, precision: str) -> str:
    if precision not in PRECISIONS:
        raise ValueError(f"no precision named {precision!r}{suggest(precision, PRECISIONS)}")
    return task.protocol if precision == "float32" else f"{task.protocol}, {precision}"


def _score(id: str, sha256: str, task: Task, model: nn.Module, precision: str, condition: str | None = None) -> Score:
    if condition is not None:
        task = task.for_condition(condition)
    device = next(iter(model.state_dict().values())).device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        evaluation = task.evaluate(model, "test")
    return Score(
        id=id,
        sha256=sha256,
        evaluator=task.evaluator,
        protocol=_protocol(task, precision),
        condition=condition,
        metrics={metric.name: metric for metric in evaluation.metrics},
        samples=len(evaluation.correct),
        correct=base64.b64encode(np.packbits(evaluation.correct).tobytes()).decode(),
        versions=versions(),
    )


def read_scores(directory: Path) -> list[Score]:
    """All that a `scores.jsonl` there holds, in its order: whatever networks, evaluators and protocols; none without
    the file.
    """
    path = directory / SCORES
    return [Score.parse(json.dumps(record), path) for record in read_records(path)] if path.is_file() else []


def scores_among(
    scores: Sequence[Score], entries: Sequence[Entry], under: tuple[str, str] | None = None
) -> list[Score]:
    """The scores of these networks, in their order, that are comparable: `under` this evaluator and protocol, or those
    that most of the networks have one of, of several those in full precision with the settings of the networks' own
    task, of several the last. Networks without one are left out.
    """
    found: dict[tuple[str, str], dict[tuple[str, str | None], Score]] = {}
    wanted = {(entry.sha256, entry.condition) for entry in entries}
    for score in scores:
        key = score.evaluator, score.protocol
        if (content := (score.sha256, score.condition)) in wanted and under in (None, key):
            found[key] = {**found.pop(key, {}), content: score}  # the last written comes last
    # The first of the largest, in reversed order: the last of these.
    best = max(reversed(found), key=lambda key: (len(found[key]), _is_plain(key[1])), default=None)
    own = found[best] if best else {}
    return [own[content] for entry in entries if (content := (entry.sha256, entry.condition)) in own]


def _is_plain(protocol: str) -> bool:
    """Whether it is that of full precision, and of the settings that the networks were made with."""
    return not protocol.endswith(LOWER) and WITH not in protocol


def summaries(scores: Sequence[Score]) -> dict[str, Summary]:
    """The paper's statistics over networks (section 3.1), for every metric that all of them have."""
    names = [name for name in scores[0].metrics if all(name in s.metrics for s in scores)]
    return {
        name: summarize([s.metrics[name].value for s in scores], scores[0].metrics[name].higher_is_better)
        for name in names
    }


def result(task_name: str, scores: Sequence[Score]) -> dict[str, Any]:
    """What `rpg-zoo score --json` and `rpg eval --json` print."""
    return {
        "task": task_name,
        "protocol": scores[0].protocol,
        "metrics": {name: summary.to_json() for name, summary in summaries(scores).items()},
        "checkpoints": [
            {
                "id": s.id,
                "sha256": s.sha256,
                "condition": s.condition,
                "metrics": {n: m.to_json() for n, m in s.metrics.items()},
            }
            for s in scores
        ],
    }


def score_table(scores: Sequence[Score]) -> Table:
    """The same for people: a row per metric. `samples` and `stderr`, the largest, are those of one network's value."""
    records: list[Record] = []
    for name, s in summaries(scores).items():
        metrics = [score.metrics[name] for score in scores]
        record: Record = {
            "metric": name,
            "best": s.best,
            "mean": s.mean,
            "median": s.median,
            "min": s.min,
            "std": s.std,
        }
        record |= {"networks": s.n, "samples": metrics[0].n, "stderr": max(metric.stderr for metric in metrics)}
        records.append(record)
    return Table.of(records, dict.fromkeys(("best", "mean", "median", "min", "std", "stderr"), 3))


def table(scores: Sequence[Score]) -> str:
    """`score_table` as text, with the protocol."""
    return f"{score_table(scores).text()}\nprotocol {scores[0].protocol}, {scores[0].samples} samples per network"
