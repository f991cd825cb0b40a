"""Comparisons that are made up, for the tests of reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluators.metrics import Summary, summarize
from rpg.reports.answers import Slope
from rpg.reports.compare import Behaviour, Comparison, Group, Kind, Scoring
from rpg.reports.tasks import Picture, TaskComparison, TaskRow
from zoo.conditions import all_conditions

YARDSTICK_IOU = 0.9
SAMPLES = 1000


def group(
    name: str, accuracy: Sequence[float], iou: Sequence[float], ratio: Sequence[float], kind: Kind = "baseline"
) -> Group:
    return Group(
        name=name,
        kind=kind,
        about=f"what <{name.partition('_')[0]}> is",
        seeds=(len(accuracy),),
        ids=tuple(f"{name}-{k}" for k in range(len(accuracy))),
        nearest=tuple(0.5 * value for value in ratio),
        nearest_ratio=tuple(ratio),
        spread=1.25,
        behaviour=Behaviour(
            metrics={"top1": summarize(accuracy)},
            accuracy=tuple(accuracy),
            stderr=0.625,
            max_error_iou=tuple(iou),
            novel_and_good=40.0,
            disagreement=12.5,
        ),
    )


def comparison(
    generated: tuple[float, float, float] = (97.0, 0.6, 2.0), mean_of_all: tuple[float, float] = (90.0, 0.95)
) -> Comparison:
    """A `generated` group around (accuracy, IoU, ratio) and a `mean_of_all` at (accuracy, IoU)."""
    rng = np.random.default_rng(0)

    def around(name: str, accuracy: float, iou: float, ratio: float, n: int = 10, kind: Kind = "baseline") -> Group:
        offsets = rng.uniform(-0.05, 0.05, n)
        return group(name, accuracy + 5 * offsets, iou + 0.1 * offsets, ratio + offsets, kind)

    groups = (
        around("original", 97.2, YARDSTICK_IOU, 1.0, n=40, kind="original"),
        around("heldout", 97.1, 0.7, 1.8, kind="heldout"),
        around("mine", *generated, kind="generated"),
        around("noised_0.01", 95.0, 0.97, 0.3),
        around("noised_0.1", 80.0, 0.3, 30.0),
        group("mean_of_all", [mean_of_all[0]], [mean_of_all[1]], [0.4]),
        around("average_of_16", 94.0, 0.93, 0.5),
        around("gaussian", 60.0, 0.2, 9.0),
    )
    return Comparison(
        inputs={"original": "40 networks 01", "generated mine": "10 networks 23"},
        originals="made-up <recipe>",
        split="train",
        runs=1,
        leave_one_out_distance=0.5,
        scoring=Scoring(
            headline="top1",
            protocol="made-up/test",
            evaluator="classification/1",
            samples=SAMPLES,
            leave_one_out_iou=YARDSTICK_IOU,
            good_from=95.2,
            chance=10.0,
            works_from=11.9,
        ),
        groups=groups,
    )


def replaced(made: Comparison, which: str, **fields: object) -> Comparison:
    """The comparison with some fields of a group changed."""
    groups = tuple(g.model_copy(update=fields) if g.name == which else g for g in made.groups)
    return made.model_copy(update={"groups": groups})


def task_comparison(tasks: int = 14) -> TaskComparison:
    """Binary tasks whose generated networks lie 3 points below the originals; of the first there is a complement."""
    rng = np.random.default_rng(0)

    def about(accuracy: float) -> Summary:
        return summarize((accuracy + rng.normal(0, 0.5, 5)).tolist())

    groups = {"original": 96.0, "generated": 93.0, "nearest": 85.0, "neighbours": 88.0, "vote": 90.0}
    groups |= {"regression": 91.0, "ridge": 91.5, "classifier": 97.0, "random": 49.0}
    rows = [
        TaskRow(
            condition=condition,
            split="unseen" if k % 2 else "train",
            accuracy={name: about(accuracy) for name, accuracy in groups.items()},
            balanced={name: about(accuracy - 2) for name, accuracy in groups.items()},
            flipped=about(8.0) if k == 0 else None,
            classes={name: tuple(rng.uniform(80, 100, 10).round(4).tolist()) for name in ("original", "generated")},
        )
        for k, condition in enumerate(all_conditions()[100 : 100 + tasks])
    ]
    points = {name: rng.normal(0, 1, (20, 2)) for name in ("original", "heldout", "generated")}
    return TaskComparison(
        inputs={"original": "made up"},
        originals="made-up-binary",
        protocol="made-up/test",
        evaluator="binary/1",
        samples=1000,
        chance=50.0,
        rows=tuple(rows),
        slopes={
            "original": (Slope(value=0.92, stderr=0.01), None),
            "generated": (Slope(value=0.88, stderr=None), None),
        },
        absent={"arithmetic": "the zoo is made up"},
        head={
            name: tuple((rows[k % len(rows)].condition, float(x), float(y)) for k, (x, y) in enumerate(found))
            for name, found in points.items()
        },
        picture=tuple(
            Picture(condition=row.condition, group=group, values=tuple(rng.normal(0, 1, 100).round(4).tolist()))
            for row in rows[:3]
            for group in ("original", "generated")
            for _ in range(3)
        ),
    )
