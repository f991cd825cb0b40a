"""The Model Zoos (Schürholt et al., 2022): Ray Tune's trials with params.json, result.json and checkpoints.

Their JSON is Python's: losses that are not finite stand there as NaN, and a trial that was killed leaves its last line
cut. What can be read of the results is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.metrics import Metric
from zoo.errors import Corrupt
from zoo.files import read_limited
from zoo.formats.naming import LARGEST, accuracy

JSON_BYTES = 2**24  # of a trial's settings or results
CHECKPOINT = re.compile(r"checkpoint_(\d{1,9})")
ACCURACIES = ("train_acc", "val_acc", "test_acc")


@dataclass(frozen=True)
class Trial:
    """One checkpoint of a trial: its file, training iteration, seed and accuracies."""

    path: Path
    step: int
    seed: int
    metrics: tuple[Metric, ...]


def checkpoints(files: Iterable[Path]) -> Iterator[Trial]:
    """The checkpoints of all trials among these files, in the order of their paths."""
    for trial in sorted({path.parent for path in files if path.name == "params.json"}):
        numbered = sorted(
            (int(match[1]), path)
            for path in trial.iterdir()
            if path.is_dir() and (match := CHECKPOINT.fullmatch(path.name))
        )
        if not numbered:
            continue
        seed = settings(trial / "params.json").get("seed")
        metrics = _results(trial / "result.json")
        known = seed if type(seed) is int and abs(seed) <= LARGEST else 0
        for step, path in numbered:
            yield Trial(path / "checkpoints", step, known, metrics.get(step, ()))


def settings(params: Path) -> dict[str, Any]:
    """A trial's settings; nothing where they cannot be read: its weights are what counts."""
    try:
        found = _python_json(read_limited(params, JSON_BYTES))
    except (Corrupt, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _results(path: Path) -> dict[int, tuple[Metric, ...]]:
    """Accuracies by training iteration: some zoos lack the row of the untrained network, so rows cannot be counted.

    Losses are left out: neither their samples nor their spread are known. So are lines that are cut or empty.
    """
    found: dict[int, tuple[Metric, ...]] = {}
    try:
        lines = read_limited(path, JSON_BYTES).splitlines() if path.is_file() else []
    except (Corrupt, OSError):
        return found
    for line in lines:
        try:
            row = _python_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("training_iteration")) is int:
            found[row["training_iteration"]] = tuple(m for n in ACCURACIES for m in accuracy(n, row.get(n)))
    return found


def _python_json(text: bytes) -> Any:
    """JSON as Python writes it, NaN and Infinity being nothing. Raises ValueError."""
    try:
        return json.loads(text.decode(), parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("brackets without end") from error


def activations(files: Iterable[Path]) -> list[str]:
    """The activation functions that trials name."""
    names = {settings(path).get("model::nlin") for path in files if path.name == "params.json"}
    return sorted(name[:40] for name in names if isinstance(name, str))


def by_order(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under these names, paired in order: the Model Zoos' own differ with their dropout. Raises ValueError
    where they are not as many.
    """
    expected = list(names)
    if len(tensors) != len(expected):
        raise ValueError(f"has {len(tensors)} tensors, expected {len(expected)}")
    return dict(zip(expected, tensors.values(), strict=True))
