"""Set generated networks beside what they must beat: originals, held-out originals, noised copies, means, a Gaussian.

Every group is a Zoo, scored on the same test data, and compared with the training checkpoints in behaviour (largest
error-IoU) and in weights (distance to the nearest). The yardstick are the training checkpoints, compared with one
another; where they come from several runs (seeds), with those of other runs. Checkpoints of a run hardly differ: beside
them a noisy copy would pass for a new network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.metrics import Summary, summarize
from evaluators.similarity import max_error_iou, nearest, novel_and_good, rms_spread, squared_distances
from rpg.config import EvalConfig
from zoo.manifest import Entry, Origin
from zoo.ops import PerturbConfig, perturb
from zoo.scoring import Score, score, summaries
from zoo.store import Zoo
from zoo.structure import Frozen
from zoo.tasks.base import Task

MARGIN = 2.0  # points below the originals' median that still count as good (CONTRIBUTING, Honesty)


class Group(Frozen):
    """One group of networks. Per network, in order: `accuracy` (the headline metric), `max_error_iou` with the
    training checkpoints, `nearest` distance to one of them and `nearest_ratio`, the same over the yardstick. For
    `original` all three leave out the network itself, or its whole run where there are several. `spread` is the root
    mean square distance within the group (evaluators.similarity.rms_spread), also over the yardstick.
    """

    name: str
    metrics: dict[str, Summary]
    accuracy: tuple[float, ...]
    max_error_iou: tuple[float, ...]
    nearest: tuple[float, ...]
    nearest_ratio: tuple[float, ...]
    spread: float
    novel_and_good: float


class Comparison(Frozen):
    """All groups, and the yardsticks: medians over the training checkpoints, which come from so many `runs`, of their
    nearest distance and max error-IoU, leaving one out (or one run).
    """

    recipe: str
    headline: str
    protocol: str
    evaluator: str
    samples: int
    runs: int
    leave_one_out_distance: float
    leave_one_out_iou: float
    good_from: float
    groups: tuple[Group, ...]

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)


def groups_json(comparison: Comparison, config: EvalConfig) -> dict[str, Any]:
    """The main groups, each with the metrics of `rpg eval --json`, and the similarity of all groups."""
    shown = {
        "original": "original",
        "generated": "generated",
        "noised": f"noised_{config.noise[0]:g}",
        "mean_of_all": "mean_of_all",
    }
    groups = {
        key: {"metrics": {name: summary.to_json() for name, summary in comparison.group(group).metrics.items()}}
        for key, group in shown.items()
    }
    similarity = {
        group.name: {
            "max_error_iou": summarize(group.max_error_iou).to_json(),
            "nearest_distance": summarize(group.nearest, higher_is_better=False).to_json(),
            "nearest_ratio": summarize(group.nearest_ratio, higher_is_better=False).to_json(),
            "spread": group.spread,
            "novel_and_good": group.novel_and_good,
        }
        for group in comparison.groups
    }
    return {"task": comparison.recipe, "protocol": comparison.protocol, **groups, "similarity": similarity}


@dataclass(frozen=True)
class _Members:
    """A group before the comparison: entries of one zoo and their scores."""

    name: str
    zoo: Zoo
    entries: Sequence[Entry]
    scores: list[Score]

    def wrong(self) -> NDArray[np.bool_]:
        return ~np.stack([s.correct_per_sample() for s in self.scores])


def compare(originals: Zoo, generated: Zoo, task: Task, config: EvalConfig, origin: Origin, out: Path) -> Comparison:
    """Make the baselines under `out`, score every group there and compare. Resumable; `originals` and `generated`
    stay untouched.

    Raises ValueError when the two zoos do not fit the same model, or one does not come from the other.
    """
    if differences := originals.structure.diff(generated.structure):
        raise ValueError(f"{generated.path} and {originals.path} hold different models: {'; '.join(differences[:3])}")
    split_of = {entry.sha256: entry.split for entry in originals.entries}
    splits = {split_of.get(parent) for entry in generated.entries for parent in entry.parents}
    if len(splits) != 1 or None in splits:
        raise ValueError(
            f"{generated.path} was not generated from {originals.path}; name its originals with --originals"
        )
    train = originals.select(splits.pop())
    zoos = [("original", originals, train)]
    if any(entry.split == "heldout" for entry in originals.entries):
        zoos.append(("heldout", originals, originals.select("heldout")))
    zoos.append(("generated", generated, generated.select()))
    zoos += [(name, zoo, zoo.select()) for name, zoo in _baselines(originals, train, config, origin, out)]
    members = [_Members(name, zoo, entries, score(zoo, task, out, entries)) for name, zoo, entries in zoos]
    return _compare(members, task, origin.name)


def _baselines(
    originals: Zoo, train: Sequence[Entry], config: EvalConfig, origin: Origin, out: Path
) -> list[tuple[str, Zoo]]:
    common: dict[str, Any] = {"n": config.n, "seed": config.seed}
    wanted = {f"noised_{sigma:g}": PerturbConfig(kind="noise", sigma=sigma, **common) for sigma in config.noise}
    wanted["mean_of_all"] = PerturbConfig(kind="mean", **common)
    if config.average_of < len(train):
        wanted[f"average_of_{config.average_of}"] = PerturbConfig(
            kind="average", average_of=config.average_of, **common
        )
    wanted["gaussian"] = PerturbConfig(kind="gaussian", **common)
    return [
        (name, perturb(settings, originals, train, origin, out / "baselines" / name))
        for name, settings in wanted.items()
    ]


def _compare(members: Sequence[_Members], task: Task, recipe: str) -> Comparison:
    original = members[0]
    reference = _vectors(original)
    wrong = original.wrong()
    runs, itself = _runs(original.entries)
    among_originals = _distances(reference, reference)
    loo_distance = float(np.median(nearest(among_originals, itself)[0]))
    loo_iou = float(np.median(max_error_iou(wrong, wrong, itself)))
    good_from = float(np.median([s.metrics[task.main_metric].value for s in original.scores])) - MARGIN
    groups = []
    for member in members:
        if member is original:
            leave_out, to_originals, within = itself, among_originals, among_originals
        else:
            vectors = _vectors(member)
            leave_out, to_originals, within = None, _distances(vectors, reference), _distances(vectors, vectors)
        distance = nearest(to_originals, leave_out)[0]
        accuracy = np.array([s.metrics[task.main_metric].value for s in member.scores])
        unit = loo_distance or 1.0
        groups.append(
            Group(
                name=member.name,
                metrics=summaries(member.scores),
                accuracy=tuple(accuracy.tolist()),
                max_error_iou=tuple(max_error_iou(member.wrong(), wrong, leave_out).tolist()),
                nearest=tuple(distance.tolist()),
                nearest_ratio=tuple((distance / unit).tolist()),
                spread=rms_spread(within) / unit,
                novel_and_good=novel_and_good(distance, loo_distance, accuracy, good_from),
            )
        )
    return Comparison(
        recipe=recipe,
        headline=task.main_metric,
        protocol=task.protocol,
        evaluator=task.evaluator,
        samples=original.scores[0].samples,
        runs=runs,
        leave_one_out_distance=loo_distance,
        leave_one_out_iou=loo_iou,
        good_from=good_from,
        groups=tuple(groups),
    )


def _runs(entries: Sequence[Entry]) -> tuple[int, NDArray[np.bool_]]:
    """From how many runs these checkpoints come, and which pairs of them, bool (A, A), are not to be compared."""
    seeds = np.array([entry.seed for entry in entries])
    runs = len(np.unique(seeds))
    return runs, seeds[:, None] == seeds if runs > 1 else np.eye(len(seeds), dtype=bool)


Vectors = dict[str, NDArray[np.float32]]


def _vectors(member: _Members) -> Vectors:
    """Per floating-point tensor the values of all networks, (networks, values); tied tensors once."""
    specs = [spec for spec in member.zoo.structure if spec.kind != "constant" and spec.tied_to is None]
    rows: dict[str, list[NDArray[np.float32]]] = {spec.name: [] for spec in specs}
    for weights in member.zoo.checkpoints(member.entries):
        for spec in specs:
            rows[spec.name].append(weights[spec.name].float().reshape(-1).numpy())
    return {name: np.stack(values) for name, values in rows.items()}


def _distances(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Euclidean distances between whole networks, (A, B)."""
    return np.sqrt(np.sum([squared_distances(a[name], b[name]) for name in a], axis=0))
