"""What a comparison says, in words that are computed from its numbers.

Three questions decide: are the generated networks as accurate as the originals; are they copies of training
checkpoints; does a trivial baseline (noise, averaging, a Gaussian) do as well? Nothing is softened: a score that the
mean of all checkpoints reaches as well is reported as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from evaluators.metrics import Summary
from rpg.compare import Comparison, Group

# A network from the originals' own distribution is nearer than the yardstick half of the time. Three
# quarters of the group on one side is more than that: of ten such networks, eight or more in one case of eighteen.
CLEARLY = 75.0
REAL = ("original", "heldout", "generated")  # all other groups are trivial baselines


@dataclass(frozen=True)
class Verdict:
    """A `headline` of three sentences, and the `findings` behind it as (topic, sentences)."""

    headline: str
    findings: tuple[tuple[str, str], ...]


def judge(comparison: Comparison) -> Verdict:
    """The verdict on the group `generated`."""
    findings = [
        ("Accuracy", _accuracy(comparison)),
        ("Weights", _weights(comparison)),
        ("Errors", _errors(comparison)),
        ("Baselines", _baselines(comparison)),
        ("Variety", _variety(comparison)),
    ]
    if any(group.name == "heldout" for group in comparison.groups):
        findings.append(("Held-out originals", _heldout(comparison)))
    return Verdict(headline=_headline(comparison), findings=tuple(findings))


def headline_metric(comparison: Comparison, group: Group) -> Summary:
    return group.metrics[comparison.headline]


def standard_error(percent: float, samples: int) -> float:
    """Of a proportion in percent, measured on this many independent samples (binomial), in percent."""
    return math.sqrt(percent * (100 - percent) / samples)


def _headline(comparison: Comparison) -> str:
    generated, original = comparison.group("generated"), comparison.group("original")
    mean, bar = headline_metric(comparison, generated).mean, headline_metric(comparison, original).mean
    score = f"The generated networks score {mean:.2f} on average, {_versus(mean, bar)} the originals."
    near = [
        what
        for what, side in (("weights", _weights_side(comparison)), ("errors", _errors_side(comparison)))
        if side > 0
    ]
    than = f"than training checkpoints{'' if comparison.runs == 1 else ' of different runs'} are to one another"
    copies = (
        f"By their {' and their '.join(near)} they are near-copies: closer to a training checkpoint {than}."
        if near
        else f"They are not closer to a training checkpoint {than}."
    )
    rivals = [group for group in _as_accurate(comparison) if _like(group) <= _like(generated)]
    trivial = (
        f"{'A trivial baseline does' if len(rivals) == 1 else 'Trivial baselines do'} as well, at least as accurate "
        f"and with errors at least as unlike those of the training checkpoints: {_listed(comparison, rivals)}."
        if rivals
        else "No trivial baseline is at once as accurate and as different from the training checkpoints."
    )
    return f"{score} {copies} {trivial}"


def _accuracy(comparison: Comparison) -> str:
    generated = headline_metric(comparison, comparison.group("generated"))
    original = headline_metric(comparison, comparison.group("original"))
    error = standard_error(original.mean, comparison.samples)
    gap = abs(generated.mean - original.mean)
    return (
        f"The best of {generated.n} generated networks scores {generated.best:.2f}, "
        f"{_versus(generated.best, original.best)} the best of {original.n} originals ({original.best:.2f}). "
        "The best is picked on the test data, which favours larger groups; the means are the fairer comparison: "
        f"{generated.mean:.2f} and {original.mean:.2f}. On {comparison.samples} test samples the score of one "
        f"network has a standard error of {error:.2f} points; the means differ by "
        f"{'less' if gap < error else 'more'} than that."
    )


def _weights(comparison: Comparison) -> str:
    ratio = comparison.group("generated").nearest_ratio
    verdict = {
        1: "On this measure they are near-copies.",
        0: "On this measure they lie as near as the training checkpoints lie to one another.",
        -1: "On this measure they are not copies; adding noise also moves networks away, so it takes accuracy as well.",
    }[_weights_side(comparison)]
    text = (
        f"{_share([value < 1 for value in ratio])} of the generated networks are closer to a training checkpoint than "
        f"the typical training checkpoint is to its nearest {_other(comparison)}; of the training checkpoints "
        f"themselves about half are. The median distance is {median(ratio):.2f} of that yardstick. {verdict}"
    )
    if comparison.leave_one_out_distance == 0:
        text += " Most training checkpoints have an identical twin, so distances are absolute, not ratios."
    return text


def _errors(comparison: Comparison) -> str:
    iou, typical = comparison.group("generated").max_error_iou, comparison.leave_one_out_iou
    verdict = {
        1: "On this measure they are near-copies.",
        0: "On this measure they are as alike as the training checkpoints are among themselves.",
        -1: "On this measure they are not copies.",
    }[_errors_side(comparison)]
    return (
        f"{_share([value > typical for value in iou])} of the generated networks share more of their errors with a "
        f"training checkpoint than the typical training checkpoint does with its most similar {_other(comparison)}. "
        f"The median of the largest error-IoU is {median(iou):.3f}, theirs {typical:.3f}. {verdict}"
    )


def _baselines(comparison: Comparison) -> str:
    generated = headline_metric(comparison, comparison.group("generated"))
    accurate = _as_accurate(comparison)
    reach = (
        f"These reach the mean score of the generated networks: {_listed(comparison, accurate)}. Accuracy alone is "
        "then no evidence for the generator."
        if accurate
        else "No trivial baseline reaches the mean score of the generated networks."
    )
    averages = [group for group in comparison.groups if group.name == "mean_of_all"]
    if not averages:
        return reach
    mean = headline_metric(comparison, averages[0]).mean
    explains = "averaging explains the score" if averages[0] in accurate else "averaging does not explain the score"
    return (
        f"The mean of all training checkpoints scores {mean:.2f}, {_versus(mean, generated.mean)} the mean of the "
        f"generated networks: {explains}. {reach}"
    )


def _variety(comparison: Comparison) -> str:
    generated, original = comparison.group("generated"), comparison.group("original")
    trivial = max(
        (group for group in comparison.groups if group.name not in REAL), key=lambda g: g.novel_and_good, default=None
    )
    text = (
        f"The generated networks spread by {generated.spread:.2f} around one another, the training checkpoints by "
        f"{original.spread:.2f} (1 is the yardstick). {generated.novel_and_good:.0f}% are novel and good: "
        f"farther from all training checkpoints than that, and at least {comparison.good_from:.2f}"
    )
    if trivial is None:
        return f"{text}."
    return f"{text}; of the trivial baselines at most {trivial.novel_and_good:.0f}% ({_name(trivial)})."


def _heldout(comparison: Comparison) -> str:
    heldout = comparison.group("heldout")
    return (
        f"{len(heldout.accuracy)} originals that the generator never saw are the yardstick for new networks: they "
        f"score {headline_metric(comparison, heldout).mean:.2f} on average, with a median largest error-IoU of "
        f"{_like(heldout):.3f} and a median nearest distance of {median(heldout.nearest_ratio):.2f}."
    )


def _other(comparison: Comparison) -> str:
    """Whom the yardstick compares a training checkpoint with."""
    return "other one" if comparison.runs == 1 else "one of another run"


def _side(nearer: Sequence[bool], farther: Sequence[bool]) -> int:
    """1: clearly nearer to training checkpoints than these to one another, -1: clearly farther, 0: neither."""
    bar = CLEARLY / 100 * len(nearer)
    return int(sum(nearer) >= bar) - int(sum(farther) >= bar)


def _weights_side(comparison: Comparison) -> int:
    group, yardstick = comparison.group("generated"), comparison.leave_one_out_distance
    return _side([value < yardstick for value in group.nearest], [value > yardstick for value in group.nearest])


def _errors_side(comparison: Comparison) -> int:
    iou, typical = comparison.group("generated").max_error_iou, comparison.leave_one_out_iou
    return _side([value > typical for value in iou], [value < typical for value in iou])


def _as_accurate(comparison: Comparison) -> list[Group]:
    """Trivial baselines whose mean score reaches the generated networks', to within one test sample."""
    bar = headline_metric(comparison, comparison.group("generated")).mean - 100 / comparison.samples
    groups = [group for group in comparison.groups if group.name not in REAL]
    return [group for group in groups if headline_metric(comparison, group).mean >= bar]


def _like(group: Group) -> float:
    return median(group.max_error_iou)


def _listed(comparison: Comparison, groups: Sequence[Group]) -> str:
    return ", ".join(f"{_name(group)} ({headline_metric(comparison, group).mean:.2f})" for group in groups)


def _name(group: Group) -> str:
    return group.name.replace("_", " ")


def _share(true: Sequence[bool]) -> str:
    return f"{100 * sum(true) / len(true):.0f}% ({sum(true)} of {len(true)})"


def _versus(value: float, reference: float) -> str:
    difference = round(value - reference, 2)
    if difference == 0:
        return "the same as"
    return f"{abs(difference):.2f} points {'above' if difference > 0 else 'below'}"
