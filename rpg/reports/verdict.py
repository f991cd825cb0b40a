"""What a comparison says, in words that are computed from its numbers.

First of all: do the originals work, and do the generated networks? Where they are no better than guessing that is the
verdict, since likeness to other networks then says nothing. Then three questions decide: are the generated networks as
accurate as the originals; are they copies of training checkpoints (near to one in weights, and with its errors); does a
trivial baseline (noise, averaging, a Gaussian) do as well? Where originals were held out a fourth: can the networks be
told from these? Nothing is softened: a score that a baseline reaches as well is reported as such. Where weights were
compared alone, only they are spoken of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from evaluators.metrics import Summary
from rpg.reports.ceiling import is_of
from rpg.reports.compare import MARGIN, Comparison, Group, Scoring
from rpg.reports.distribution import Distribution

# A network from the originals' own distribution is nearer than the yardstick half of the time. Three
# quarters of the group on one side is more than that: of ten such networks, eight or more in one case of eighteen.
CLEARLY = 75.0
TOLD_APART = 3.0  # standard deviations of chance that an AUC has to be above one half
SHIFTED = 0.5  # of the radius of originals held out, from which all networks were moved one way
ALIKE = 0.1  # of the originals' spread, below which a codec gives one network back for all
FAR = 3.0  # times the distance of training checkpoints, from which weights alone say that something may be wrong


@dataclass(frozen=True)
class Verdict:
    """On one group: a `headline` of some sentences, and the `findings` behind it as (topic, sentences)."""

    group: str
    headline: str
    findings: tuple[tuple[str, str], ...]


def judge(comparison: Comparison) -> tuple[Verdict, ...]:
    """A verdict on each group of generated networks."""
    return tuple(_judge(comparison, group) for group in comparison.of_kind("generated"))


def headline_metric(scoring: Scoring, group: Group) -> Summary:
    return group.scored.metrics[scoring.headline]


def _mean(scoring: Scoring, group: Group) -> float:
    return headline_metric(scoring, group).mean


def _judge(comparison: Comparison, group: Group) -> Verdict:
    weights = ("Weights", _weights(comparison, group))
    scoring = comparison.scoring
    if scoring is None:
        headline = (
            "Weights were compared alone, since it is unknown what these networks do: whether they work is not said "
            f"here. {_near(comparison, group)}{_told_apart(group)}"
        )
        findings = [weights, ("Variety", _spread(comparison, group) + ".")]
    elif headline := _dead(comparison, scoring, group):
        findings = [
            ("Health", _health(comparison, scoring, group)),
            ("Accuracy", _accuracy(comparison, scoring, group)),
        ]
    else:
        headline = _headline(comparison, scoring, group)
        findings = [
            ("Health", _health(comparison, scoring, group)),
            ("Accuracy", _accuracy(comparison, scoring, group)),
            weights,
            ("Errors", _errors(comparison, scoring, group)),
            ("Baselines", _baselines(comparison, scoring, group)),
            ("Variety", _variety(comparison, scoring, group)),
        ]
    if len(group.seeds) > 1:
        findings.append(("Seeds", _seeds(scoring, group)))
    if codec := _codec(comparison, group):
        findings.append(("Codec", codec))
    if beside := _beside(group):
        findings.append(("Distribution", _distribution(beside)))
    findings += [("Held-out originals", _heldout(scoring, heldout)) for heldout in comparison.of_kind("heldout")]
    return Verdict(group.name, headline, tuple(findings))


def _dead(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    """The headline where the originals, or these networks, are no better than guessing; else nothing."""
    for one, who in ((comparison.original, "The originals"), (group, "These networks")):
        if not _works(scoring, one):
            others = f"; the originals score {_mean(scoring, comparison.original):.2f}" if one is group else ""
            result = ", and nothing that is learnt from them can" if one is comparison.original else ""
            return (
                f"{who} do not work{result}: {_mean(scoring, one):.2f} on average, chance {scoring.chance:.2f}"
                f"{others}. Similarity says nothing."
            )
    return ""


def _works(scoring: Scoring, group: Group) -> bool:
    """Whether at least half of a group's networks are better than guessing, as far as one can tell."""
    return 2 * scoring.working(group) >= len(group.scored.accuracy)


def _health(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    if scoring.works_from is None:
        return "It is not known what guessing scores on this task, so whether the networks work is for you to say."
    counts = [
        f"{_share([value > scoring.works_from for value in one.scored.accuracy])} of the {who}"
        for one, who in ((comparison.original, "originals"), (group, "generated networks"))
    ]
    return (
        f"Guessing scores {scoring.chance:.2f}. Better than that, above {scoring.works_from:.2f}, are "
        f"{' and '.join(counts)}. "
        f"A network is good from {scoring.good_from:.2f} on: {MARGIN:g} points below the median original"
        f"{', or better than guessing, whichever is more' if scoring.good_from == scoring.works_from else ''}."
    )


def _headline(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    score, bar = _mean(scoring, group), _mean(scoring, comparison.original)
    chance = "" if scoring.chance is None else f" (chance {scoring.chance:.2f})"
    good = _share([value >= scoring.good_from for value in group.scored.accuracy])
    rivals = [rival for rival in _as_accurate(comparison, scoring, group) if _like(rival) <= _like(group)]
    if rivals:
        trivial = (
            f"{'A trivial baseline does' if len(rivals) == 1 else 'Trivial baselines do'} as well, at least as "
            "accurate and with errors at least as unlike those of the training checkpoints: "
            f"{_listed(scoring, rivals)}."
        )
    elif _is_copied(comparison, scoring, group):
        trivial = "To copy takes no generator."
    elif comparison.of_kind("baseline"):
        trivial = "No trivial baseline is at once as accurate and as different from the training checkpoints."
    else:
        trivial = "No trivial baseline was set beside them, so this shows little."
    return (
        f"The generated networks score {score:.2f} on average, {_versus(score, bar)} the originals{chance}; {good} are "
        f"good, at least {scoring.good_from:.2f}. {_copies(comparison, scoring, group)}{_told_apart(group)} {trivial}"
    )


def _is_copied(comparison: Comparison, scoring: Scoring, group: Group) -> bool:
    """Whether they are near in weights, and in errors no less alike than training checkpoints are to one another: where
    these err the same, nothing can err more alike.
    """
    return _weights_side(comparison, group) > 0 and _errors_side(scoring, group) >= 0


def _copies(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    """Whether they are copies: near in weights and alike in errors."""
    than, where = _than(comparison), f"in weights{_after_alignment(comparison, group)}"
    if _is_copied(comparison, scoring, group):
        if _errors_side(scoring, group) > 0:
            return f"They are near-copies: {where} and in errors closer to a training checkpoint {than}."
        return f"They are near-copies: {where} closer to a training checkpoint {than}, and in errors as alike."
    if _weights_side(comparison, group) > 0:
        closer = f"{where.capitalize()} they are closer to a training checkpoint {than}"
        if 2 * sum(value >= scoring.good_from for value in group.scored.accuracy) < len(group.scored.accuracy):
            return (
                f"{closer}; that they err otherwise says little, as most of them are not good: copies may have failed."
            )
        return f"{closer}, but their errors are others: no copies."
    if _errors_side(scoring, group) > 0:
        return (
            f"In errors they are closer to a training checkpoint {than}, though their weights lie apart: such networks "
            "do what a training checkpoint does."
        )
    return f"They are not closer to a training checkpoint {than}."


def _near(comparison: Comparison, group: Group) -> str:
    """What weights alone say."""
    ratio = median(group.nearest_ratio)
    if _weights_side(comparison, group) > 0:
        closer = f"They are{_after_alignment(comparison, group)} closer to a training checkpoint {_than(comparison)}"
        return f"{closer}: copies, unless they err otherwise."
    text = f"They are not closer to a training checkpoint {_than(comparison)}"
    if ratio >= FAR:
        return f"{text}: they lie {ratio:.3g} times as far from it, where networks of no use lie, too."
    return f"{text}."


def _after_alignment(comparison: Comparison, group: Group) -> str:
    """Where networks lie near only after alignment, as copies in another order of units do, that; else nothing."""
    return ", after alignment," if _weights_side(comparison, group) == 1 > _as_they_are(comparison, group) else ""


def _than(comparison: Comparison) -> str:
    return f"than training checkpoints{'' if comparison.runs == 1 else ' of different runs'} are to one another"


def _accuracy(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    generated, original = headline_metric(scoring, group), headline_metric(scoring, comparison.original)
    error = comparison.original.scored.stderr
    gap = abs(generated.mean - original.mean)
    return (
        f"The best of {generated.n} generated networks scores {generated.best:.2f}, "
        f"{_versus(generated.best, original.best)} the best of {original.n} originals ({original.best:.2f}). "
        "The best is picked on the test data, which favours larger groups; the means are the fairer comparison: "
        f"{generated.mean:.2f} and {original.mean:.2f}. On {scoring.samples} test samples the score of one "
        f"network has a standard error of {error:.2f} points; the means differ by "
        f"{'less' if gap < error else 'more'} than that."
    )


def _weights(comparison: Comparison, group: Group) -> str:
    ratio = group.nearest_ratio
    verdict = {
        1: "They lie near: copies, if their errors are alike, too.",
        0: "On this measure they lie as near as the training checkpoints lie to one another.",
        -1: "On this measure they are not copies; adding noise also moves networks away, so it takes accuracy as well.",
    }[_weights_side(comparison, group)]
    text = (
        f"{_share([value < 1 for value in ratio])} of the generated networks are closer to a training checkpoint than "
        f"the typical training checkpoint is to its nearest {_other(comparison)}; of the training checkpoints "
        f"themselves about half are. The median distance is {median(ratio):.2f} of that yardstick."
    )
    if aligned := group.aligned:
        closer = [value < comparison.aligned_yardstick for value in aligned.nearest]
        text += (
            f" After alignment {_share(closer)} are, and the median distance is {median(aligned.nearest_ratio):.2f} of "
            "the yardstick there."
        )
    text += f" {verdict}"
    if comparison.leave_one_out_distance == 0:
        text += " Most training checkpoints have an identical twin, so distances are absolute, not ratios."
    return text


def _errors(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    iou, typical = group.scored.max_error_iou, scoring.leave_one_out_iou
    verdict = {
        1: "They err alike: copies, if they lie near, too.",
        0: "On this measure they are as alike as the training checkpoints are among themselves.",
        -1: "On this measure they are not copies.",
    }[_errors_side(scoring, group)]
    return (
        f"{_share([value > typical for value in iou])} of the generated networks share more of their errors with a "
        f"training checkpoint than the typical training checkpoint does with its most similar {_other(comparison)}. "
        f"The median of the largest error-IoU is {median(iou):.3f}, theirs {typical:.3f}. {verdict}"
    )


def _baselines(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    baselines = comparison.of_kind("baseline")
    if not baselines:
        return "None was set beside them. A score alone is no evidence for a generator."
    best = max(baselines, key=lambda one: headline_metric(scoring, one).mean)
    top, score = headline_metric(scoring, best).mean, headline_metric(scoring, group).mean
    accurate = _as_accurate(comparison, scoring, group)
    reach = (
        f"These reach their mean score, to within one test sample: {_listed(scoring, accurate)}. Accuracy alone is "
        "then no evidence for the generator."
        if accurate
        else "None reaches their mean score."
    )
    return (
        f"The most accurate trivial baseline is {best.name}: {top:.2f} on average, {_versus(top, score)} the generated "
        f"networks. {reach}"
    )


def _spread(comparison: Comparison, group: Group) -> str:
    return (
        f"The generated networks spread by {group.spread:.2f} around one another, the training checkpoints by "
        f"{comparison.original.spread:.2f} (1 is the yardstick)"
    )


def _variety(comparison: Comparison, scoring: Scoring, group: Group) -> str:
    baselines = comparison.of_kind("baseline")
    text = (
        f"{_spread(comparison, group)}. {group.scored.novel_and_good:.0f}% are novel and good: farther from all "
        f"training checkpoints than the yardstick, with a score of at least {scoring.good_from:.2f}"
    )
    if not baselines:
        return f"{text}."
    best = max(baselines, key=lambda one: one.scored.novel_and_good)
    return f"{text}; of the trivial baselines at most {best.scored.novel_and_good:.0f}% ({best.name})."


def _seeds(scoring: Scoring | None, group: Group) -> str:
    ratio = group.over_seeds(group.nearest_ratio)
    text = (
        f"They come from {len(group.seeds)} seeds of the generator. The means of the seeds are {ratio.mean:.2f} of "
        f"the yardstick away from training checkpoints, with a standard deviation of {ratio.std:.2f}"
    )
    if scoring is None:
        return f"{text}."
    score = group.over_seeds(group.scored.accuracy)
    return f"{text}, and score {score.mean:.2f} with one of {score.std:.2f} points."


def _codec(comparison: Comparison, group: Group) -> str:
    """What encoding and decoding alone costs, where the generator does that and its rows are there."""
    rows = [one for one in comparison.of_kind("reconstructed") if is_of(one.name, group.name)]
    if not rows:
        return ""
    sources = {one.name: comparison.of_kind("heldout" if "heldout" in one.name else "original")[0] for one in rows}
    near = [f"{one.name} {median(one.nearest_ratio):.2f}" for one in rows]
    text = f"Encoded and decoded alone, originals lie this far from the nearest training checkpoint: {', '.join(near)}."
    several = [one for one in rows if len(one.nearest) > 1]
    if wide := [f"{one.name} {one.spread:.2f} of {sources[one.name].spread:.2f}" for one in several]:
        text += f" Their spread around one another, of that which the originals have: {', '.join(wide)}."
    if alike := [one.name for one in several if one.spread < ALIKE * sources[one.name].spread]:
        text += f" Those of {' and '.join(alike)} are nearly one network, whatever was encoded: no codec."
    if scoring := comparison.scoring:
        lost = [f"{one.name} {_mean(scoring, one):.2f} of {_mean(scoring, sources[one.name]):.2f}" for one in rows]
        text = f"What encoding and decoding alone leaves of the mean score: {', '.join(lost)}. {text}"
    return text


def _beside(group: Group) -> Distribution | None:
    """How a group lies beside originals held out: after alignment, where there is one."""
    return group.aligned.distribution if group.aligned else group.distribution


def _is_told_apart(beside: Distribution) -> bool | None:
    """Whether a classifier tells a group from originals held out; None where there are too few for one."""
    if beside.auc is None or beside.auc_chance_std is None:
        return None
    return beside.auc - 0.5 > TOLD_APART * beside.auc_chance_std


def _told_apart(group: Group) -> str:
    """The headline's sentence on that, with a space before it, or nothing."""
    beside = _beside(group)
    if beside is None or (apart := _is_told_apart(beside)) is None:
        return ""
    if not apart:
        return f" Nothing here tells their weights from those of originals held out (AUC {beside.auc:.2f})."
    shifted = " and all moved one way" if beside.shift >= SHIFTED else ""
    return f" Their weights are told from those of originals held out (AUC {beside.auc:.2f}){shifted}: no new seeds."


def _distribution(beside: Distribution) -> str:
    if beside.auc is None:
        told = "they are too few for a classifier."
    else:
        verdict = "does" if _is_told_apart(beside) else "does not clearly do"
        told = (
            f"a classifier {verdict} better than chance in telling them apart: AUC {beside.auc:.2f}, by chance 0.50 "
            f"with a standard deviation of {beside.auc_chance_std:.2f}."
        )
    means = f"the two means lie {beside.shift:.2f} of it apart"
    verdict = "so all were moved the same way" if beside.shift >= SHIFTED else "which is not far"
    return (
        f"Beside {beside.heldout} originals that the generator never saw: {told} The energy "
        f"distance is {beside.energy:.2f} of the radius of these; {means}, {verdict}."
    )


def _heldout(scoring: Scoring | None, heldout: Group) -> str:
    behaviour = (
        f"score {headline_metric(scoring, heldout).mean:.2f} on average, with a median largest error-IoU of "
        f"{_like(heldout):.3f} and"
        if scoring
        else "have"
    )
    return (
        f"{len(heldout.nearest)} originals that the generator never saw are the yardstick for new networks: they "
        f"{behaviour} a median nearest distance of {median(heldout.nearest_ratio):.2f}."
    )


def _other(comparison: Comparison) -> str:
    """Whom the yardstick compares a training checkpoint with."""
    return "other one" if comparison.runs == 1 else "one of another run"


def _side(nearer: Sequence[bool], farther: Sequence[bool]) -> int:
    """1: clearly nearer to training checkpoints than these to one another, -1: clearly farther, 0: neither."""
    bar = CLEARLY / 100 * len(nearer)
    return int(sum(nearer) >= bar) - int(sum(farther) >= bar)


def _weights_side(comparison: Comparison, group: Group) -> int:
    """As networks are and after alignment, where symmetries are known: clearly nearer in one of them is nearer, for
    copies in another order of units lie as far as any network; farther is what is so in both.
    """
    sides = [_as_they_are(comparison, group)]
    if group.aligned:
        sides.append(_side_of(group.aligned.nearest, comparison.aligned_yardstick))
    return max(sides)


def _as_they_are(comparison: Comparison, group: Group) -> int:
    return _side_of(group.nearest, comparison.leave_one_out_distance)


def _side_of(distances: Sequence[float], yardstick: float) -> int:
    return _side([value < yardstick for value in distances], [value > yardstick for value in distances])


def _errors_side(scoring: Scoring, group: Group) -> int:
    iou, typical = group.scored.max_error_iou, scoring.leave_one_out_iou
    return _side([value > typical for value in iou], [value < typical for value in iou])


def _as_accurate(comparison: Comparison, scoring: Scoring, group: Group) -> list[Group]:
    """Trivial baselines whose mean score reaches the generated networks', to within one test sample."""
    bar = headline_metric(scoring, group).mean - 100 / scoring.samples
    return [one for one in comparison.of_kind("baseline") if headline_metric(scoring, one).mean >= bar]


def _like(group: Group) -> float:
    return median(group.scored.max_error_iou)


def _listed(scoring: Scoring, groups: Sequence[Group]) -> str:
    return ", ".join(f"{group.name} ({headline_metric(scoring, group).mean:.2f})" for group in groups)


def _share(true: Sequence[bool]) -> str:
    return f"{100 * sum(true) / len(true):.0f}% ({sum(true)} of {len(true)})"


def _versus(value: float, reference: float) -> str:
    difference = round(value - reference, 2)
    if difference == 0:
        return "the same as"
    return f"{abs(difference):.2f} points {'above' if difference > 0 else 'below'}"
