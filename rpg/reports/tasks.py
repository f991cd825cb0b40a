"""Networks generated for binary tasks beside those trained for them, by task (paper, section 4, Tables 9, 10, 14).

What stands beside them needs no diffusion: networks made from the same training checkpoints (zoo.derive.predict), a
vote of the nearest tasks' networks, one network for all classes; and the networks generated for other tasks. Legend: N
networks, P weights, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from evaluators.metrics import Summary, summarize
from rpg.reports.all_classes import AllClasses
from rpg.reports.answers import (
    Classes,
    NewClasses,
    Outcome,
    Slope,
    answers_of,
    majority,
    of_other_tasks,
    outcome_of,
    slopes,
)
from rpg.reports.inputs import Inputs, claim, networks
from zoo.checkpoint import content_hash
from zoo.conditions import flipped
from zoo.derive.predict import PredictConfig, closest, last_checkpoints, predict
from zoo.errors import MissingData, brief
from zoo.manifest import Entry, Name, Origin
from zoo.scoring import require_labels, score
from zoo.store import Zoo
from zoo.structure import Frozen, Structure, TensorSpec
from zoo.tasks.base import LabelledTask

ALWAYS = ("nearest", "neighbours", "vote", "regression", "ridge")
PER_TASK = (*ALWAYS, "arithmetic")  # a network, or a few, for each task, made of those of seen tasks
BASELINES = (*PER_TASK, "classifier", "random")
PICTURE_TASKS, PICTURE_NETWORKS, PICTURE_VALUES = 3, 3, 100  # as in Figure 6

Matrix = NDArray[np.float64]
HeadPoint: TypeAlias = tuple[str, float, float]
"""A network's task, and its head weights along two principal components."""


class TaskRow(Frozen):
    """One task. `split` is that of its originals; `accuracy` and `balanced` accuracy over the networks of each group:
    `original` (where the zoo has any), `generated` and those of BASELINES that there are. `flipped` are networks that
    were generated for the complement: here their accuracy must be 100 less that on their own task, unless the condition
    is ignored. `classes` are the mean accuracies on the samples of each class of the data set, for the originals, the
    generated networks and the flipped ones (Table 10), None where it has no samples.
    """

    condition: str
    split: str
    accuracy: dict[str, Summary]
    balanced: dict[str, Summary]
    flipped: Summary | None
    classes: dict[str, tuple[float | None, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if missing := {"generated", *ALWAYS} - (set(self.accuracy) & set(self.balanced)):
            raise ValueError(f"task {self.condition!r} has no scores of {min(missing)}")
        return self

    @property
    def gaps(self) -> dict[str, float]:
        """Points that each group's mean lies below the originals'; nothing without originals."""
        if "original" not in self.accuracy:
            return {}
        top = self.accuracy["original"].mean
        return {name: top - found.mean for name, found in self.accuracy.items() if name != "original"}

    @property
    def leads(self) -> dict[str, float]:
        """Points that the generated networks' mean lies above each baseline's."""
        own = self.accuracy["generated"].mean
        return {name: own - found.mean for name, found in self.accuracy.items() if name in BASELINES}


class Picture(Frozen):
    """Head weights of one network in units of their spread over the seen originals (Figure 6)."""

    condition: str
    group: str
    values: tuple[float, ...]


class TaskComparison(Frozen):
    """All tasks. `originals` is the name of the originals' zoo. `slopes` are how each group's networks follow the bit
    of each class, `new` how they do on classes that nothing learnt from labels 1; `absent` says of the baselines that
    are not there why. `head` are the first two principal components of the seen originals' head weights, a point per
    network by group (Figure 10). `chance` is the balanced accuracy of guessing, where anyone knows.
    """

    inputs: Inputs
    originals: Name
    protocol: str
    evaluator: str
    samples: PositiveInt
    chance: float | None
    rows: Annotated[tuple[TaskRow, ...], Field(min_length=1)]
    slopes: dict[str, tuple[Slope | None, ...]]
    new: NewClasses = NewClasses(classes=(), accuracy={})
    absent: dict[str, str]
    head: dict[str, tuple[HeadPoint, ...]]
    picture: tuple[Picture, ...]

    @property
    def baselines(self) -> list[str]:
        """Those that are there, in their order."""
        return [name for name in BASELINES if name in self.rows[0].accuracy]

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

    def best(self, split: str) -> str:
        """The baseline with a network for each task that the generated ones of a split lie least above."""
        return min((name for name in PER_TASK if name in self.baselines), key=lambda name: self.lead(split, name)[0])

    def lead(self, split: str, baseline: str) -> tuple[float, float | None]:
        """The mean over a split's tasks of the generated networks' lead over a baseline, and its standard error over
        tasks, None where there is one task only.
        """
        leads = [row.leads[baseline] for row in self.rows if row.split == split and baseline in row.leads]
        return float(np.mean(leads)), float(np.std(leads, ddof=1)) / len(leads) ** 0.5 if len(leads) > 1 else None


def compare_tasks(
    originals: Zoo,
    generated: Zoo,
    task: LabelledTask,
    origin: Origin,
    out: Path,
    split: str = "train",
    classifier: AllClasses | str = "none is known",
) -> TaskComparison:
    """Make the baselines under `out`, of the networks of `split`, and score everything there, each network on its own
    task. Resumable. `classifier` are networks for all classes, or why there are none.

    Raises ValueError when the two zoos do not fit the same model or lack conditions, when the classifier was shown
    other data, and when `out` holds another report.
    """
    if differences := originals.structure.diff(generated.structure):
        raise ValueError(f"{generated.path} and {originals.path} hold different models: {'; '.join(differences[:3])}")
    require_labels(generated, generated.entries, task)
    theirs, mine = ({len(e.condition) for e in zoo.trained if e.condition} for zoo in (originals, generated))
    if len(theirs | mine) > 1:
        raise ValueError(
            f"{generated.path} and {originals.path} are of tasks on {min(mine)} and {min(theirs)} classes; expected "
            "the originals that the networks were learnt from"
        )
    conditions = tuple(dict.fromkeys(str(entry.condition) for entry in generated.entries))
    train, start, classes_N = originals.select(split), shared_start(originals, task), task.classes("test").numpy()
    inputs = {"originals": networks([originals.entries]), "split": networks([train])}
    inputs |= {"generated": networks([generated.entries]), "evaluator": task.evaluator, "protocol": task.protocol}
    inputs["start"] = "none" if isinstance(start, str) else content_hash(start)[:16]
    inputs["classifier"] = "none" if isinstance(classifier, str) else ", ".join(s[:16] for s in classifier.sha256)
    claim(out, inputs)
    counts_K = np.bincount(classes_N, minlength=len(conditions[0]))
    known = [entry for entry in originals.trained if entry.condition in conditions]
    groups: dict[str, tuple[Zoo, Sequence[Entry]]] = {"original": (originals, known)} if known else {}
    groups["generated"] = generated, generated.entries
    groups |= _predicted(originals, train, conditions, origin, out, start)
    scored = {name: score(zoo, task, out, entries, name=name) for name, (zoo, entries) in groups.items()}
    outcomes = {name: [outcome_of(one, classes_N) for one in scores] for name, scores in scored.items()}
    outcomes["vote"] = _votes(originals, train, conditions, task, out, classes_N)
    absent = {}
    if isinstance(classifier, str):
        absent["classifier"] = classifier
    else:
        outcomes["classifier"] = _by_classes(classifier, conditions, classes_N)
    if isinstance(start, str):
        absent["arithmetic"] = start
    if len(conditions) == 1:
        absent["random"] = "networks were generated for one task only"
    crossed = _on_complements(generated, conditions, task, out, classes_N)
    split_of = {str(entry.condition): entry.split for entry in originals.trained}
    head, picture = _heads(originals, generated, train, conditions)
    return TaskComparison(
        inputs=inputs,
        originals=originals.manifest.origin.name,
        protocol=task.protocol,
        evaluator=task.evaluator,
        samples=scored["generated"][0].samples,
        chance=task.chance.get("balanced"),
        rows=_rows(conditions, outcomes, crossed, split_of, counts_K),
        slopes={name: slopes(found) for name, found in outcomes.items()},
        new=NewClasses.of(outcomes, [str(entry.condition) for entry in train], counts_K),
        absent=absent,
        head=head,
        picture=picture,
    )


def _predicted(
    originals: Zoo,
    train: Sequence[Entry],
    conditions: tuple[str, ...],
    origin: Origin,
    out: Path,
    start: dict[str, Tensor] | str,
) -> dict[str, tuple[Zoo, Sequence[Entry]]]:
    """The networks that are made of those of seen tasks, by kind."""
    made: dict[str, tuple[Zoo, Sequence[Entry]]] = {}
    for kind in PER_TASK:
        its_start = start if kind == "arithmetic" else None
        if kind == "vote" or isinstance(its_start, str):
            continue
        sha256 = content_hash(its_start) if its_start else None
        config = PredictConfig(kind=kind, conditions=conditions, start=sha256)  # type: ignore[arg-type]  # a kind
        zoo = predict(config, originals, train, origin, out / "baselines" / kind, its_start)
        made[kind] = zoo, zoo.entries
    return made


def shared_start(originals: Zoo, task: LabelledTask) -> dict[str, Tensor] | str:
    """The weights that all networks of a zoo started from, as its task builds them today; or why nobody has them."""
    settings = originals.manifest.origin.settings.get("zoo")
    if not isinstance(settings, dict) or settings.get("init") != "shared":
        return "the zoo does not say that its networks started from the same weights (zoo.init: shared)"
    seed = settings.get("seed", 0)
    try:
        weights = task.weights(task.start(seed if isinstance(seed, int) else 0))
    except (MissingData, ValueError) as error:
        return f"the shared start is not at hand: {brief(error)}"
    if differences := originals.structure.diff(Structure.of(weights)):
        return f"the start that the task has today is of another model: {differences[0]}"
    return weights


def _votes(
    originals: Zoo, train: Sequence[Entry], conditions: Sequence[str], task: LabelledTask, out: Path, classes: Classes
) -> list[Outcome]:
    """The majority of the last checkpoints of the nearest tasks, each scored on its own task, for each condition."""
    rows = {condition: last_checkpoints(train, closest(train, condition)) for condition in conditions}
    voters = sorted({row for chosen in rows.values() for row in chosen})
    scores = score(originals, task, out, [train[row] for row in voters], name="who votes")
    score_of = dict(zip(voters, scores, strict=True))
    found = []
    for condition, chosen in rows.items():
        answers = [answers_of(score_of[row], classes) for row in chosen]
        found.append(Outcome.of(condition, majority(answers), classes))
    return found


def _by_classes(classifier: AllClasses, conditions: Sequence[str], classes: Classes) -> list[Outcome]:
    if not np.array_equal(classifier.classes, classes):
        raise ValueError(
            "the network for all classes was shown other test images than the binary tasks have; expected one for the "
            "same data set"
        )
    return [Outcome.of(c, answers, classes) for c in conditions for answers in classifier.answers(c)]


def _on_complements(
    generated: Zoo, conditions: Sequence[str], task: LabelledTask, out: Path, classes: Classes
) -> list[Outcome]:
    """The generated networks of the tasks whose complement is among the conditions, on that."""
    swapped = [
        entry.model_copy(update={"condition": flipped(str(entry.condition))})
        for entry in generated.entries
        if flipped(str(entry.condition)) in conditions
    ]
    return [outcome_of(s, classes) for s in score(generated, task, out, swapped, name="generated, on the complements")]


def _rows(
    conditions: Sequence[str],
    outcomes: Mapping[str, Sequence[Outcome]],
    crossed: Sequence[Outcome],
    split_of: Mapping[str, str],
    counts: NDArray[np.int64],
) -> tuple[TaskRow, ...]:
    by_task = {name: _by_condition(found) for name, found in {**outcomes, "flipped": crossed}.items()}
    rows = []
    for condition in conditions:
        own = {name: found[condition] for name, found in by_task.items() if condition in found}
        across = own.pop("flipped", None)
        top1 = {name: [outcome.top1 for outcome in found] for name, found in own.items()}
        balanced = {name: [outcome.balanced for outcome in found] for name, found in own.items()}
        if len(conditions) > 1:
            others = of_other_tasks(outcomes["generated"], condition, counts)
            top1["random"], balanced["random"] = others[0].tolist(), others[1].tolist()
        by_class = {"original": own.get("original"), "generated": own["generated"], "flipped": across}
        rows.append(
            TaskRow(
                condition=condition,
                split=split_of.get(condition, "new"),
                accuracy={name: summarize(values) for name, values in top1.items()},
                balanced={name: summarize(values) for name, values in balanced.items()},
                flipped=summarize([outcome.top1 for outcome in across]) if across else None,
                classes={name: class_accuracies(found) for name, found in by_class.items() if found},
            )
        )
    return tuple(rows)


def _by_condition(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.condition, []).append(outcome)
    return found


def class_accuracies(outcomes: Sequence[Outcome]) -> tuple[float | None, ...]:
    """The accuracy in percent on the samples of each class, a mean over networks; None where there are none."""
    right_K = np.mean([outcome.right for outcome in outcomes], axis=0)
    return tuple(None if np.isnan(value) else round(float(value), 4) for value in right_K)


def _heads(
    originals: Zoo, generated: Zoo, train: Sequence[Entry], conditions: Sequence[str]
) -> tuple[dict[str, tuple[HeadPoint, ...]], tuple[Picture, ...]]:
    """Figures 10 and 6 as numbers."""
    unseen = [entry for entry in originals.trained if entry.split != train[0].split and entry.condition in conditions]
    groups = {"original": (originals, train), "generated": (generated, generated.entries)}
    groups |= {"heldout": (originals, unseen)} if unseen else {}
    seen_NP = head_weights(originals, train)
    axes_P2, mean_P = principal_axes(seen_NP), seen_NP.mean(0)
    head = {}
    for name, (zoo, entries) in groups.items():
        points_N2 = ((seen_NP if name == "original" else head_weights(zoo, entries)) - mean_P) @ axes_P2
        found = zip(entries, points_N2.tolist(), strict=True)
        head[name] = tuple((str(entry.condition), x, y) for entry, (x, y) in found)

    spread_P = seen_NP.std(0)
    chosen = np.linspace(0, len(mean_P) - 1, min(PICTURE_VALUES, len(mean_P))).round().astype(int)
    learnt, new = ({entry.condition for entry in entries} for entries in (train, unseen))
    shown = [c for c in conditions if c in learnt][: 1 if new else PICTURE_TASKS]
    shown += [c for c in conditions if c in new][:PICTURE_TASKS]
    pictures = []
    for condition in shown or conditions[:PICTURE_TASKS]:
        for group, zoo in (("original", originals), ("generated", generated)):
            own = [entry for entry in zoo.trained if entry.condition == condition][:PICTURE_NETWORKS]
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
