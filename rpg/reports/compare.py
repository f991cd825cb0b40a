"""Set generated networks beside what they must beat: originals, held-out originals, and baselines.

Every group is a Zoo, or several: seeds of one generator. All are scored on the same test data, and compared with the
training checkpoints in behaviour (largest error-IoU) and in weights (distance to the nearest). The yardstick are the
training checkpoints, compared with one another; where they come from several runs (seeds), with those of other runs.
Checkpoints of a run hardly differ: beside them a noisy copy would pass for a new network. Where nobody knows what the
networks do, weights are compared alone.

A measure of a group is computed in `_group`, kept in `Group` or `Behaviour` and shown by `rpg.reports.report.measures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from typing_extensions import Self

from evaluators.metrics import Summary, summarize
from evaluators.similarity import disagreement, max_error_iou, nearest, novel_and_good, rms_spread
from rpg.reports.distances import Distances, Part, distances
from rpg.reports.distribution import Distribution, beside_heldout, last_of_runs
from rpg.reports.ensembles import ensemble_accuracy
from rpg.reports.inputs import Inputs, claim, networks
from rpg.reports.quotient import InQuotient, aligned_distances
from zoo.errors import Failed
from zoo.health import works_from
from zoo.manifest import Entry, Name
from zoo.scoring import Score, score, summaries
from zoo.store import Zoo
from zoo.structure import Frozen
from zoo.symmetry.specification import Specification
from zoo.tasks.base import Task

MARGIN = 2.0  # points below the originals' median that still count as good (CONTRIBUTING, Honesty)
HELDOUT = "heldout"

Kind = Literal["original", "heldout", "generated", "reconstructed", "baseline"]
ABOUT: dict[Kind, str] = {
    "original": "the training checkpoints, each compared with the others; with several runs, with those of other runs",
    "heldout": "originals that no generator saw",
    "generated": "networks from a generator",
    "reconstructed": "originals that a generator's codec has encoded and decoded",
    "baseline": "networks that take no generator",
}


@dataclass(frozen=True)
class Candidate:
    """A finished zoo to set beside the originals. Several of one `name` are seeds of one generator. `about` says what
    the networks are, for readers.
    """

    name: str
    zoo: Zoo
    kind: Literal["generated", "reconstructed", "baseline"]
    about: str = ""


class Behaviour(Frozen):
    """What a group's networks do on test data. Per network, in order: `accuracy` (the headline metric) and
    `max_error_iou` with the training checkpoints. `stderr` is the largest standard error of one network's accuracy,
    `novel_and_good` and `disagreement` are shares in percent (evaluators.similarity); one network disagrees with none.
    `ensemble` is the accuracy of some of them together (rpg.reports.ensembles), where that was measured.
    """

    metrics: dict[str, Summary]
    accuracy: tuple[float, ...]
    stderr: NonNegativeFloat
    max_error_iou: tuple[float, ...]
    novel_and_good: float
    disagreement: float | None = None
    ensemble: float | None = None


class Group(Frozen):
    """One group of networks. `seeds` are how many networks each seed of its generator made, in their order.

    Per network, in order: `ids`, `nearest` distance to a training checkpoint, and `nearest_ratio`, the same over the
    yardstick. For the originals these, and the error-IoU, leave out the network itself, or its whole run where there
    are several. `spread` is that of the group (evaluators.similarity.rms_spread), also over the yardstick. `behaviour`
    is there where scores are, `aligned` where symmetries are known, `distribution` where originals were held out.
    """

    name: Name
    kind: Kind
    about: str
    seeds: tuple[PositiveInt, ...]
    ids: tuple[str, ...]
    nearest: tuple[float, ...]
    nearest_ratio: tuple[float, ...]
    spread: float
    behaviour: Behaviour | None
    aligned: InQuotient | None = None
    distribution: Distribution | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values = [self.nearest, self.nearest_ratio]
        values += [self.behaviour.accuracy, self.behaviour.max_error_iou] if self.behaviour else []
        values += [self.aligned.nearest, self.aligned.nearest_ratio] if self.aligned else []
        if not self.ids or sum(self.seeds) != len(self.ids) or any(len(one) != len(self.ids) for one in values):
            raise ValueError(f"group {self.name!r} has not one value of each measure for each of its networks")
        return self

    @property
    def scored(self) -> Behaviour:
        """The behaviour, of a comparison with scores."""
        assert self.behaviour
        return self.behaviour

    def over_seeds(self, values: Sequence[float]) -> Summary:
        """Statistics over the generator's seeds of their means of these values, one for each network."""
        ends = accumulate(self.seeds, initial=0)
        return summarize([mean(values[start:end]) for start, end in pairwise(ends)])


class Scoring(Frozen):
    """The test data of all groups, and what is known of the training checkpoints there: the median of their largest
    error-IoU, leaving one out (or one run), and the accuracy from which a network is good: MARGIN below their median,
    and better than guessing. `chance` is what guessing scores, where anyone knows; a network that is not above
    `works_from` (zoo.health) does not work.
    """

    headline: str
    protocol: str
    evaluator: str
    samples: PositiveInt
    leave_one_out_iou: float
    good_from: float
    chance: float | None
    works_from: float | None

    def working(self, group: Group) -> int:
        """How many networks of a group are better than guessing: all, where nobody knows what that scores."""
        least = -math.inf if self.works_from is None else self.works_from
        return sum(accuracy > least for accuracy in group.scored.accuracy)


class Comparison(Frozen):
    """All groups, the originals first. `originals` is the name of their zoo, which come from so many `runs`;
    `leave_one_out_distance` the yardstick, the median of their nearest distances, leaving one out (or one run).
    Without `scoring` weights were compared alone.
    """

    inputs: Inputs
    originals: Name
    split: Name
    runs: PositiveInt
    leave_one_out_distance: float
    scoring: Scoring | None
    groups: tuple[Group, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.groups or self.groups[0].kind != "original":
            raise ValueError("the first group is not that of the originals")
        if len({group.name for group in self.groups}) < len(self.groups):
            raise ValueError("two groups have the same name")
        for group in self.groups:
            if self.scoring and not (group.behaviour and self.scoring.headline in group.behaviour.metrics):
                raise ValueError(f"group {group.name!r} was not scored, though others were")
        return self

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def of_kind(self, kind: Kind) -> list[Group]:
        return [group for group in self.groups if group.kind == kind]

    @property
    def original(self) -> Group:
        return self.groups[0]

    @property
    def aligned_yardstick(self) -> float:
        """As `leave_one_out_distance`, after alignment."""
        assert self.original.aligned
        return float(np.median(self.original.aligned.nearest))


@dataclass(frozen=True)
class _Members:
    """A group before the comparison: entries of one zoo or more."""

    name: str
    kind: Kind
    about: str
    parts: Sequence[Part]

    @property
    def key(self) -> str:
        return self.name if self.kind in (self.name, "reconstructed") else f"{self.kind} {self.name}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """How many networks each seed of its generator made: zoos that one run made are of one seed."""
        found: dict[Hashable, int] = {}
        for zoo, entries in self.parts:
            run = _run_of(zoo)
            found[run] = found.get(run, 0) + len(entries)
        return tuple(found.values())

    @property
    def entries(self) -> list[Entry]:
        return [entry for _, entries in self.parts for entry in entries]

    @property
    def rows(self) -> Sequence[int]:
        """The networks that are draws of their own: of a run's checkpoints the last."""
        collected = self.kind in ("original", "heldout")
        return last_of_runs(self.entries) if collected else range(len(self.entries))


def compare(
    originals: Zoo,
    split: str,
    candidates: Sequence[Candidate],
    task: Task | None,
    out: Path,
    symmetries: Callable[[], Specification | None] | None = None,
) -> Comparison:
    """Compare `candidates` with the networks of `split`, which they were made from, and with those held out. All are
    scored under `out`, resumably; without a `task` weights are compared alone. Where `symmetries` are known, distances
    are measured again after alignment. No zoo is changed.

    Raises ValueError for zoos of different models, names that do not tell groups apart, too few originals, and when
    `out` holds another report; Failed for networks whose weights are not finite.
    """
    members = _members(originals, split, candidates)
    inputs = {member.key: networks([entries for _, entries in member.parts]) for member in members}
    if task:
        inputs |= {"evaluator": task.evaluator, "protocol": task.protocol}
    claim(out, inputs)
    heldout = next((k for k, member in enumerate(members) if member.kind == "heldout"), None)
    apart = distances([member.parts for member in members], heldout)
    for member, found in zip(members, apart, strict=True):
        _check_finite(member, found)
    scores = [
        [s for zoo, entries in m.parts for s in score(zoo, task, out, entries, name=m.name)] if task else []
        for m in members
    ]
    runs, itself = _runs(members[0].entries)
    loo_distance = float(np.median(nearest(apart[0].to_first, itself)[0]))
    scoring = _scoring(task, scores[0], itself) if task else None
    groups = [
        _group(member, found, own, itself if member is members[0] else None, loo_distance, scoring, scores[0])
        for member, found, own in zip(members, apart, scores, strict=True)
    ]
    if task:
        groups = [_with_ensemble(group, member, task, out) for group, member in zip(groups, members, strict=True)]
    beside = _distributions(members, apart, heldout)
    groups = [group.model_copy(update={"distribution": own}) for group, own in zip(groups, beside, strict=True)]
    after = aligned_distances([member.parts for member in members], symmetries, out, heldout) if symmetries else None
    if after:
        beside = _distributions(members, after, heldout)
        groups = _with_quotient(groups, after, beside, itself, scoring, loo_distance)
    return Comparison(
        inputs=inputs,
        originals=originals.manifest.origin.name,
        split=split,
        runs=runs,
        leave_one_out_distance=loo_distance,
        scoring=scoring,
        groups=tuple(groups),
    )


def _members(originals: Zoo, split: str, candidates: Sequence[Candidate]) -> list[_Members]:
    """The groups: originals, held-out originals, generators, baselines. Raises ValueError as `compare` does."""
    train = originals.select(split)
    if len(train) < 2:
        raise ValueError(
            f"{originals.path} has one checkpoint of split {split}; expected two at least, for a yardstick"
        )
    found = [_Members("original", "original", ABOUT["original"], [(originals, train)])]
    if split != HELDOUT and any(entry.split == HELDOUT for entry in originals.entries):
        found.append(_Members(HELDOUT, "heldout", ABOUT["heldout"], [(originals, originals.select(HELDOUT))]))
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        if differences := originals.structure.diff(one.zoo.structure):
            raise ValueError(f"{one.zoo.path} and {originals.path} hold different models: {'; '.join(differences[:3])}")
        groups.setdefault(one.name, []).append(one)
    if reserved := {"", *(member.name for member in found)} & set(groups):
        raise ValueError(f"{groups[min(reserved)][0].zoo.path} is named {min(reserved)!r}; expected a name of its own")
    for name, seeds in groups.items():
        if len({one.kind for one in seeds}) > 1:
            raise ValueError(f"{name} is the name of generated networks and of baselines; expected different names")
        if len({networks([one.zoo.entries]) for one in seeds}) < len(seeds):
            raise ValueError(f"{name} holds the same networks twice; expected others for each seed of a generator")
    for kind in ("generated", "reconstructed", "baseline"):
        for name, (first, *more) in groups.items():
            if first.kind == kind:
                zoos = [one.zoo for one in (first, *more)]
                runs = list(map(_run_of, zoos))
                parts = [(zoo, zoo.entries) for zoo in sorted(zoos, key=lambda zoo: runs.index(_run_of(zoo)))]
                about = first.about or ", ".join(filter(None, (ABOUT[first.kind], first.zoo.manifest.selection)))
                found.append(_Members(name, first.kind, about, parts))
    return found


def _run_of(zoo: Zoo) -> Hashable:
    """What made it: a run, by its hash, which is the first of its parents (drawn from, polished or pulled), or nobody
    knows.
    """
    return next(iter(zoo.manifest.origin.parents), zoo.sha256)


def _check_finite(member: _Members, found: Distances) -> None:
    """Raise Failed, naming the first network whose weights are not finite."""
    for entry, row in zip(member.entries, found.to_first, strict=True):
        if not np.isfinite(row).all():
            zoo = next(zoo.path for zoo, entries in member.parts if entry in entries)
            raise Failed(f"{entry.id} of {zoo}, or an original, holds weights that are NaN, infinite or beyond compare")


def _wrong(scores: Sequence[Score]) -> NDArray[np.bool_]:
    return ~np.stack([s.correct_per_sample() for s in scores])


def _scoring(task: Task, originals: Sequence[Score], itself: NDArray[np.bool_]) -> Scoring:
    wrong = _wrong(originals)
    metrics = [s.metrics[task.main_metric] for s in originals]
    chance = task.chance.get(task.main_metric)
    guessing = None if chance is None else works_from(chance, metrics[0].n)
    good_from = float(np.median([metric.value for metric in metrics])) - MARGIN
    return Scoring(
        headline=task.main_metric,
        protocol=task.protocol,
        evaluator=task.evaluator,
        samples=originals[0].samples,
        leave_one_out_iou=float(np.median(max_error_iou(wrong, wrong, itself))),
        good_from=good_from if guessing is None else max(good_from, guessing),
        chance=chance,
        works_from=guessing,
    )


def _group(
    member: _Members,
    found: Distances,
    scores: Sequence[Score],
    leave_out: NDArray[np.bool_] | None,
    loo_distance: float,
    scoring: Scoring | None,
    originals: Sequence[Score],
) -> Group:
    """All measures of one group."""
    distance = nearest(found.to_first, leave_out)[0]
    unit = loo_distance or 1.0
    behaviour = None
    if scoring:
        metrics = [s.metrics[scoring.headline] for s in scores]
        accuracy, wrong = np.array([metric.value for metric in metrics]), _wrong(scores)
        behaviour = Behaviour(
            metrics=summaries(scores),
            accuracy=tuple(accuracy.tolist()),
            stderr=max(metric.stderr for metric in metrics),
            max_error_iou=tuple(max_error_iou(wrong, _wrong(originals), leave_out).tolist()),
            novel_and_good=novel_and_good(distance, loo_distance, accuracy, scoring.good_from),
            disagreement=disagreement(wrong) if len(wrong) > 1 else None,
        )
    return Group(
        name=member.name,
        kind=member.kind,
        about=member.about,
        seeds=member.seeds,
        ids=tuple(entry.id for entry in member.entries),
        nearest=tuple(distance.tolist()),
        nearest_ratio=tuple((distance / unit).tolist()),
        spread=rms_spread(found.within) / unit,
        behaviour=behaviour,
    )


def _with_ensemble(group: Group, member: _Members, task: Task, out: Path) -> Group:
    """The group with the accuracy of an ensemble; not that of baselines, whose networks stand for themselves."""
    if member.kind not in ("original", "heldout", "generated"):
        return group
    together = ensemble_accuracy(member.parts, task, out)
    return group.model_copy(update={"behaviour": group.scored.model_copy(update={"ensemble": together})})


def _distributions(
    members: Sequence[_Members], apart: Sequence[Distances], heldout: int | None
) -> list[Distribution | None]:
    """Each group beside the originals held out; nothing where there are none, and for these themselves and what was
    made of them: pairs of twins are no two samples.
    """
    if heldout is None:
        return [None] * len(members)
    theirs = {entry.sha256 for entry in members[heldout].entries}
    return [
        None
        if theirs & {sha256 for entry in member.entries for sha256 in (entry.sha256, *entry.parents)}
        else beside_heldout(own, apart[0], apart[heldout], member.rows, members[heldout].rows)
        for member, own in zip(members, apart, strict=True)
    ]


def _with_quotient(
    groups: Sequence[Group],
    apart: Sequence[Distances],
    beside: Sequence[Distribution | None],
    itself: NDArray[np.bool_],
    scoring: Scoring | None,
    loo_distance: float,
) -> list[Group]:
    """The groups, with what their distances after alignment say; the yardstick is that of the originals there. Novel
    are those beyond both yardsticks: not every copy is aligned as its original is.
    """
    yardstick = float(np.median(nearest(apart[0].to_first, itself)[0]))
    unit, found = yardstick or 1.0, []
    for k, (group, own) in enumerate(zip(groups, apart, strict=True)):
        distance = nearest(own.to_first, itself if k == 0 else None)[0]
        novel = None
        if scoring:
            novel = good_beyond([(distance, yardstick), (np.array(group.nearest), loo_distance)], group, scoring)
        aligned = InQuotient(
            nearest=tuple(distance.tolist()),
            nearest_ratio=tuple((distance / unit).tolist()),
            spread=rms_spread(own.within) / unit,
            novel_and_good=novel,
            distribution=beside[k],
        )
        found.append(group.model_copy(update={"aligned": aligned}))
    return found


def good_beyond(distances: Sequence[tuple[NDArray[np.float64], float]], group: Group, scoring: Scoring) -> float:
    """The share of a group's networks, in percent, that are good and whose distances of each kind, (A,), are all above
    the threshold that stands beside them.
    """
    beyond = np.min([distance - threshold for distance, threshold in distances], axis=0)
    return novel_and_good(beyond, 0.0, np.array(group.scored.accuracy), scoring.good_from)


def _runs(entries: Sequence[Entry]) -> tuple[int, NDArray[np.bool_]]:
    """From how many runs these checkpoints come, and which pairs of them, bool (A, A), are not to be compared."""
    seeds = np.array([entry.seed for entry in entries])
    runs = len(np.unique(seeds))
    return runs, seeds[:, None] == seeds if runs > 1 else np.eye(len(seeds), dtype=bool)
