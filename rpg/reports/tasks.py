"""Networks generated for binary tasks beside those trained for them, task by task (paper, section 4, Tables 9, 10, 14).

Baselines without diffusion are made from the same training checkpoints (zoo.derive.predict). Legend: N networks, P
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from evaluators.metrics import Summary, summarize
from rpg.reports.inputs import Inputs, claim, networks
from zoo.conditions import flipped
from zoo.derive.predict import PredictConfig, predict
from zoo.manifest import Entry, Name, Origin
from zoo.scoring import Score, score
from zoo.store import Zoo
from zoo.structure import Frozen, TensorSpec
from zoo.tasks.base import LabelledTask

BASELINES = ("nearest", "neighbours", "regression")
PICTURE_TASKS, PICTURE_NETWORKS, PICTURE_VALUES = 3, 3, 100  # as in Figure 6

Matrix = NDArray[np.float64]


class TaskRow(Frozen):
    """One task. `split` is that of its originals; `accuracy` and `balanced` accuracy over the networks of each group:
    `original` (where the zoo has any), `generated` and the baselines. `flipped` are networks that were generated for
    the complement: here their accuracy must be 100 less that on their own task, unless the condition is ignored.
    `classes` are the mean accuracies on the samples of each class of the data set, for the originals, the generated
    networks and the flipped ones (Table 10).
    """

    condition: str
    split: str
    accuracy: dict[str, Summary]
    balanced: dict[str, Summary]
    flipped: Summary | None
    classes: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if missing := {"generated", *BASELINES} - (set(self.accuracy) & set(self.balanced)):
            raise ValueError(f"task {self.condition!r} has no scores of {min(missing)}")
        return self

    @property
    def gaps(self) -> dict[str, float]:
        """Points that each group's mean lies below the originals'; nothing without originals."""
        if "original" not in self.accuracy:
            return {}
        top = self.accuracy["original"].mean
        return {name: top - found.mean for name, found in self.accuracy.items() if name != "original"}


class Picture(Frozen):
    """Head weights of one network in units of their spread over the seen originals (Figure 6)."""

    condition: str
    group: str
    values: tuple[float, ...]


class TaskComparison(Frozen):
    """All tasks. `originals` is the name of the originals' zoo. `head` are the first two principal components of the
    seen originals' head weights, a point per network by group (Figure 10). `chance` is the balanced accuracy of
    guessing, where anyone knows.
    """

    inputs: Inputs
    originals: Name
    protocol: str
    evaluator: str
    samples: PositiveInt
    chance: float | None
    rows: Annotated[tuple[TaskRow, ...], Field(min_length=1)]
    head: dict[str, tuple[tuple[float, float], ...]]
    picture: tuple[Picture, ...]

    @property
    def splits(self) -> list[str]:
        """The splits that the tasks belong to, the unseen first."""
        return sorted({row.split for row in self.rows}, key=lambda split: (split != "unseen", split))

    def balanced(self, group: str) -> float | None:
        """The balanced accuracy of a group, a mean over the tasks that it has networks of."""
        found = [row.balanced[group].mean for row in self.rows if group in row.balanced]
        return float(np.mean(found)) if found else None

    def mean_gaps(self, split: str) -> dict[str, float]:
        """The mean over a split's tasks of each group's gap to the originals; nothing where none has originals."""
        gaps = [row.gaps for row in self.rows if row.split == split and row.gaps]
        return {name: float(np.mean([gap[name] for gap in gaps])) for name in gaps[0]} if gaps else {}


def compare_tasks(
    originals: Zoo, generated: Zoo, task: LabelledTask, origin: Origin, out: Path, split: str = "train"
) -> TaskComparison:
    """Make the baselines under `out`, of the networks of `split`, and score everything there, each network on its own
    task. Resumable.

    Raises ValueError when the two zoos do not fit the same model or lack conditions, and when `out` holds another
    report.
    """
    if differences := originals.structure.diff(generated.structure):
        raise ValueError(f"{generated.path} and {originals.path} hold different models: {'; '.join(differences[:3])}")
    conditions = tuple(dict.fromkeys(str(entry.condition) for entry in generated.entries))
    train = originals.select(split)
    inputs = {"originals": networks([originals.entries]), "split": networks([train])}
    inputs |= {"generated": networks([generated.entries]), "evaluator": task.evaluator, "protocol": task.protocol}
    claim(out, inputs)
    known = [entry for entry in originals.entries if entry.condition in conditions]
    groups: dict[str, tuple[Zoo, Sequence[Entry]]] = {"original": (originals, known)} if known else {}
    groups["generated"] = generated, generated.entries
    for kind in BASELINES:
        config = PredictConfig(kind=kind, conditions=conditions)  # type: ignore[arg-type]  # one of BASELINES
        zoo = predict(config, originals, train, origin, out / "baselines" / kind)
        groups[kind] = zoo, zoo.entries
    scored = {name: score(zoo, task, out, entries, name=name) for name, (zoo, entries) in groups.items()}
    swapped = [
        entry.model_copy(update={"condition": flipped(str(entry.condition))})
        for entry in generated.entries
        if flipped(str(entry.condition)) in conditions
    ]
    crossed = score(generated, task, out, swapped, name="generated, on the complements")
    split_of = {entry.condition: entry.split for entry in originals.entries}
    classes_N = task.classes("test").numpy()
    rows = []
    for condition in conditions:
        found = {name: [s for s in scores if s.condition == condition] for name, scores in scored.items()}
        values = {
            metric: {name: summarize([s.metrics[metric].value for s in own]) for name, own in found.items() if own}
            for metric in ("top1", "balanced")
        }
        across = [s for s in crossed if s.condition == condition]
        by_class = {"original": found.get("original"), "generated": found["generated"], "flipped": across}
        rows.append(
            TaskRow(
                condition=condition,
                split=split_of.get(condition, "new"),
                accuracy=values["top1"],
                balanced=values["balanced"],
                flipped=summarize([s.metrics["top1"].value for s in across]) if across else None,
                classes={name: class_accuracies(own, classes_N) for name, own in by_class.items() if own},
            )
        )
    head, picture = _heads(originals, generated, train, conditions)
    return TaskComparison(
        inputs=inputs,
        originals=originals.manifest.origin.name,
        protocol=task.protocol,
        evaluator=task.evaluator,
        samples=scored["generated"][0].samples,
        chance=task.chance.get("balanced"),
        rows=tuple(rows),
        head=head,
        picture=picture,
    )


def class_accuracies(scores: Sequence[Score], classes: NDArray[np.int64]) -> tuple[float, ...]:
    """The accuracy in percent on the samples of each class, a mean over networks. classes (N,), of the samples."""
    correct_N = np.mean([score.correct_per_sample() for score in scores], axis=0)
    return tuple(round(float(100 * correct_N[classes == k].mean()), 4) for k in np.unique(classes))


def _heads(
    originals: Zoo, generated: Zoo, train: Sequence[Entry], conditions: Sequence[str]
) -> tuple[dict[str, tuple[tuple[float, float], ...]], tuple[Picture, ...]]:
    """Figures 10 and 6 as numbers."""
    unseen = [entry for entry in originals.entries if entry.split != train[0].split and entry.condition in conditions]
    seen_NP = head_weights(originals, train)
    groups = {"original": seen_NP, "generated": head_weights(generated, generated.entries)}
    if unseen:
        groups["heldout"] = head_weights(originals, unseen)
    axes_P2 = principal_axes(seen_NP)
    mean_P = seen_NP.mean(0)
    points = {name: (values_NP - mean_P) @ axes_P2 for name, values_NP in groups.items()}
    head = {name: tuple((float(x), float(y)) for x, y in found) for name, found in points.items()}

    spread_P = seen_NP.std(0)
    chosen = np.linspace(0, len(mean_P) - 1, min(PICTURE_VALUES, len(mean_P))).round().astype(int)
    shown = [c for c in conditions if c in {e.condition for e in unseen}] or list(conditions)
    pictures = []
    for condition in shown[:PICTURE_TASKS]:
        for group, zoo in (("original", originals), ("generated", generated)):
            own = [entry for entry in zoo.entries if entry.condition == condition][:PICTURE_NETWORKS]
            for values_P in head_weights(zoo, own) if own else ():
                scaled = (values_P - mean_P) / np.where(spread_P > 0, spread_P, 1)
                values = tuple(np.round(scaled[chosen], 4).tolist())
                pictures.append(Picture(condition=condition, group=group, values=values))
    return head, tuple(pictures)


def head_weights(zoo: Zoo, entries: Sequence[Entry]) -> Matrix:
    """The weights of the classification head (N, P): of the tensors whose names begin as that of the last one does."""
    specs: list[TensorSpec] = [spec for spec in zoo.structure if spec.kind != "constant" and spec.tied_to is None]
    prefix = specs[-1].name.partition(".")[0]
    names = [spec.name for spec in specs if spec.name.partition(".")[0] == prefix]
    rows = [np.concatenate([w[name].double().numpy().ravel() for name in names]) for w in zoo.checkpoints(entries)]
    return np.stack(rows)


def principal_axes(values: Matrix) -> Matrix:
    """The two directions (P, 2) in which values (N, P) vary most, orthonormal; zero where there are no more. The sign
    of each is such that its largest component is positive.
    """
    centred = values - values.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes_P2 = np.zeros((values.shape[1], 2))
    axes_P2[:, : len(axes[:2])] = axes[:2].T
    signs = np.sign(axes_P2[np.abs(axes_P2).argmax(0), [0, 1]])
    found: Matrix = axes_P2 * signs
    return found
