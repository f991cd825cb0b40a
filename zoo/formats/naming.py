"""What the names of checkpoints say: an id for a zoo, and in those of RPG's authors step, accuracy, seed and task.

| name                                                             | says                                            |
|------------------------------------------------------------------|-------------------------------------------------|
| `0007_acc0.9312_seed0020_resnet18.pth`                            | step 7, accuracy, seed 20                       |
| `0001_acc0.97_class0279_condition_classinput_vittiny.pth`         | the binary task 279, in ten bits: 0100010111    |
| `0001_acc0.98_class0512_condition_imageinput_vittiny.pth`         | the same: one class against the others          |
| `0003_acc0.81_class0007_condition_permutation_vittiny.pth`        | seed 7                                          |
| `0000800.pth`                                                     | step 800 (adapters)                             |
| `generated_resnet18_004.pth`                                      | nothing                                         |
| `checkpoint-500/`, `epoch_12.pth`, `epoch=9-step=900.ckpt`        | the step, as Trainer, mmengine, Lightning count |
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import PurePath
from typing import Any

from evaluators.metrics import Metric
from zoo.conditions import BITS

LARGEST = 2**63 - 1  # what an entry's numbers may be
LONGEST_ID = 110
BINARY = ("classinput", "imageinput")
STEP = re.compile(r"(?:.*[_-])?step=?[_-]?(\d{1,18})|checkpoint[_-](\d{1,18})|epoch[_=-](\d{1,18})")
CACHE = re.compile(r"(?:models|datasets)--(.+)")  # a repository in the Hub's cache
COMMIT = re.compile(r"[0-9a-f]{40}")


def id_of(path: PurePath) -> str:
    """An id as manifests want them, out of a path inside the source without its ending. In the Hub's cache the
    repository and the beginning of the commit are left of a snapshot's path.
    """
    parts = list(path.parts)
    for i, part in enumerate(parts):
        if repository := CACHE.fullmatch(part):
            parts[i] = repository[1].replace("--", "-")
            if parts[i + 1 : i + 2] == ["snapshots"]:
                parts[i + 1] = ""
        elif COMMIT.fullmatch(part):
            parts[i] = part[:8]
    text = "-".join(filter(None, parts))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    if not plain:  # of a name in other letters
        return f"checkpoint-{digest}"
    if len(plain) > LONGEST_ID:  # the end says more than the beginning
        plain = f"{digest}-{plain[9 - LONGEST_ID :].lstrip('._-')}"
    return plain


def fields(path: PurePath) -> dict[str, Any]:
    """The fields of an entry that a path inside the source, without its ending, speaks of."""
    name = path.name
    found = _authors(name) if re.match(r"\d+(_|$)", name) and name.isascii() else {}
    if "step" not in found:
        steps = [match for part in path.parts if (match := STEP.fullmatch(part))]
        if steps:
            found["step"] = int(next(filter(None, steps[-1].groups())))
    return found


def training_folder(path: PurePath) -> PurePath:
    """The folder of a training whose checkpoint a path is: folders of single steps are parts of it."""
    return PurePath(*(part for part in path.parent.parts if not STEP.fullmatch(part)))


def _authors(name: str) -> dict[str, Any]:
    """What a name by RPG's authors says. The accuracy is of data that nobody wrote down."""
    step, *parts = name.split("_")
    found: dict[str, Any] = {"step": min(int(step[:30]), LARGEST)}
    for part in parts:
        if match := re.fullmatch(r"acc([0-9]{1,3}(\.[0-9]{1,20})?)", part):
            found["metrics"] = accuracy("acc", float(match[1]))
        elif match := re.fullmatch(r"seed([0-9]{1,18})", part):
            found["seed"] = int(match[1])
        elif match := re.fullmatch(r"class([0-9]{1,18})", part):
            found |= _class(match[1], parts)
    return found


def _class(number: str, parts: list[str]) -> dict[str, Any]:
    """What the number after `class` means, which the rest of the name says."""
    if "permutation" in parts:
        return {"seed": int(number)}
    if any(kind in parts for kind in BINARY) and 0 < int(number) < 2**BITS - 1:
        return {"condition": f"{int(number):0{BITS}b}"}
    return {"condition": number}


def is_binary_task(path: PurePath) -> bool:
    """Whether a name is one of the authors' zoo of binary tasks, which has a published split."""
    return "classinput" in path.name.split("_") and "condition" in _authors_or_nothing(path.name)


def _authors_or_nothing(name: str) -> dict[str, Any]:
    return _authors(name) if re.match(r"\d+_", name) else {}


def accuracy(name: str, value: object) -> tuple[Metric, ...]:
    """An accuracy, given as a share up to 1 or in percent. Nobody wrote down of how many samples: it is given the
    standard error of a single one, which is the largest that it can have.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:  # which NaN is not
        return ()
    share = float(value) if value <= 1 else value / 100
    return (Metric(name, 100 * share, n=1, stderr=100 * math.sqrt(share * (1 - share))),)
