"""A comparison as tables and as a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from evaluators.metrics import Summary, summarize
from rpg.reports.compare import Comparison, Group, good_beyond
from rpg.reports.distribution import Distribution
from rpg.reports.page import Page, Section, links_to, write_page
from rpg.reports.plots import barrier_plot, distance_plot, loss_plot, marks, similarity_plot
from rpg.reports.verdict import headline_metric, judge
from zoo.derive.worth import Worth, rows
from zoo.table import Record, Table

WHERE = ("originals", "group", "kind", "metric", "protocol")
SCORES = ("best", "mean", "± of mean", "median", "min", "std", "stderr", "ensemble of 16", "networks")
SIMILARITY = (
    *("error-IoU, median", "error-IoU, max", "disagreement, %", "distance, median", "spread"),
    *("novel and good, %", "at .95, %"),
)
DISTRIBUTION = ("AUC", "AUC by chance, ±", "energy distance", "shift")
DISTRIBUTION_ALIGNED = tuple(f"{title} aligned" for title in DISTRIBUTION)
ALIGNED = ("distance aligned, median", "spread aligned", "novel and good aligned, %", "at .95 aligned, %")
SEEDS = ("seeds", "mean of seeds", "std of seeds", "distance, mean of seeds", "distance, std of seeds")
EXPLAINED = {
    "group": "networks that are judged together; what they are stands at the end",
    "best": "the best network of the group, picked on the test data",
    "mean": "the mean over the networks of the group",
    "± of mean": "half the 95% confidence interval of the mean, over networks (Student's t)",
    "median": "the median over the networks of the group",
    "min": "the lowest score of a network of the group",
    "std": "the standard deviation between the networks of the group",
    "stderr": "the standard error of one network's score, because the test set is finite: the largest of the group",
    "ensemble of 16": "the score of 16 networks together, by the mean of their class probabilities",
    "networks": "how many networks the group has",
    "error-IoU, median": "how alike the errors are to those of the most similar training checkpoint: 1 is the same",
    "error-IoU, max": "the same, of the network that is most like a training checkpoint",
    "distance, median": "to the nearest training checkpoint, over the yardstick: well below 1 is a near-copy",
    "spread": "how far the networks of the group scatter around one another, over the yardstick",
    "disagreement, %": "the share of test samples that one of two networks of the group gets right and the other wrong",
    "novel and good, %": "the share that lies farther than the yardstick and scores well enough",
    "at .95, %": "novel and good, if 95% of the yardstick are far enough",
    "distance aligned, median": "distance after alignment: 0 between networks that differ by their symmetries alone",
    "spread aligned": "the spread after alignment, over the yardstick there",
    "novel and good aligned, %": "novel and good by distances as they are and after alignment",
    "at .95 aligned, %": "the same beyond .95 of both yardsticks",
    "AUC": "how well a classifier tells the group from originals held out: 1 without fail",
    "AUC by chance, ±": "the AUC of two equal groups of this size is 0.5, with this standard deviation",
    "energy distance": "from originals held out, over their radius: 0 for one distribution",
    "shift": "how far the group's mean is from that of the originals held out, over their radius",
    "AUC aligned": "the AUC after alignment",
    "AUC by chance, ± aligned": "the standard deviation by chance after alignment",
    "energy distance aligned": "the energy distance after alignment",
    "shift aligned": "the shift after alignment",
    "seeds": "how many seeds of the generator the group comes from",
    "mean of seeds": "the mean of the seeds' mean scores",
    "std of seeds": "the standard deviation of the seeds' mean scores",
    "distance, mean of seeds": "the mean of the seeds' mean distances",
    "distance, std of seeds": "the standard deviation of the seeds' mean distances",
}
MOST = 0.95  # of the yardstick, in columns "at .95"
DIGITS = {
    **{"error-IoU, median": 3, "error-IoU, max": 3, "disagreement, %": 1},
    **{"novel and good, %": 0, "at .95, %": 0, "novel and good aligned, %": 0, "at .95 aligned, %": 0},
}

READING = (
    "Distance is the Euclidean distance of all weights to the nearest training checkpoint, divided by the median of "
    "the same distance among the training checkpoints, the yardstick; with several runs (seeds), to those of other "
    "runs. At 1 a network lies as far away as they lie from one another; well below 1 it is a near-copy. By definition "
    "about half of the originals lie below 1. Spread is how far a group's networks scatter around one another, in the "
    "same unit.",
)
READING_ALIGNED = (
    "Aligned: the same after the symmetries of the networks (the order of units, scales, signs, heads) are taken out: "
    "all are brought as near to the originals' mean as their symmetries allow, and the yardstick is taken anew. A copy "
    "whose units have another order is far in the first numbers and near in these.",
)
READING_DISTRIBUTION = (
    "Originals held out are what a true generator would make. Energy distance and shift are zero for networks of their "
    "distribution, and in units of their radius; small samples scatter around zero. The classifier (ridge regression "
    "on principal components of the training checkpoints, their squares, and the distance from their mean; five-fold "
    "cross-validation) finds other differences, too: training checkpoints, of which the components are, are told from "
    "any others, so that their own row says nothing of how alike the two are. Many networks that are new and good, an "
    "AUC near 1 and a large shift: all were moved the same way. Of several checkpoints of a run the last counts.",
)
READING_SCORES = (
    "Every network is scored on the same test samples; the toolkit chooses, calibrates and stops nothing on them. "
    "Best and min are picked on the test data, so the best of many networks flatters; compare means. Stderr is "
    "the largest standard error of one network's score, because the test set is finite; std is the spread between "
    "networks, and ± of mean the 95% confidence interval that this leaves for the mean of a group.",
    "Error-IoU: of the test samples that either of two networks gets wrong, the share that both get wrong. A network's "
    "value is its largest with any training checkpoint: 1 is the same behaviour, lower is more different.",
    "Novel and good is the share that lies above 1 and scores at most 2 points below the median original. Noise can "
    "reach it too, so a generator has shown something only where no trivial baseline does as well.",
)
READING_SEEDS = (
    "Seeds: networks of one seed of a generator share what its training happened to learn, so two generators differ "
    "only where the means of their seeds do. Columns of seeds are the mean and the standard deviation of these means; "
    "the others take all networks together.",
)
SIMILARITY_CAPTION = (
    "A point per network; up and left is better. A generator that only copies sits among the originals, one that only "
    "adds noise where noised copies do. Hollow marks lie below the axis."
)
DISTANCE_CAPTION = (
    "Shares of each group by distance to the nearest training checkpoint. Clearly left of the dashed line: closer than "
    "training checkpoints are to one another. The bars of each row have their own height."
)
BARRIER_CAPTION = (
    "Mean loss of the networks along the straight line from one original to another, before and after alignment: flat "
    "where averages work."
)
LOSS_CAPTION = "Losses of different methods are different quantities: compare their shapes, not their heights."

Losses = Mapping[str, Sequence[tuple[int, float]]]
"""Training losses as (step, loss), by the name of the generator. None is empty."""


def measures(comparison: Comparison, group: Group) -> Record:
    """All that is known of a group, by title."""
    distance, distances = summarize(group.nearest_ratio), group.over_seeds(group.nearest_ratio)
    found: Record = {"originals": comparison.originals, "group": group.name, "kind": group.kind}
    found |= {"networks": distance.n, "distance, median": distance.median, "spread": group.spread}
    if aligned := group.aligned:
        found |= {"distance aligned, median": summarize(aligned.nearest_ratio).median, "spread aligned": aligned.spread}
        if aligned.novel_and_good is not None:
            found |= {"novel and good aligned, %": aligned.novel_and_good}
        found |= _distribution(aligned.distribution, DISTRIBUTION_ALIGNED)
    found |= _distribution(group.distribution, DISTRIBUTION)
    found |= {"seeds": distances.n, "distance, mean of seeds": distances.mean}
    found |= {"distance, std of seeds": distances.std if distances.n > 1 else None}
    if scoring := comparison.scoring:
        s, behaviour = headline_metric(scoring, group), group.scored
        iou, scores = summarize(behaviour.max_error_iou), group.over_seeds(behaviour.accuracy)
        found |= {"metric": scoring.headline, "protocol": scoring.protocol, "stderr": behaviour.stderr}
        found |= {"± of mean": interval(s)}
        found |= {"ensemble of 16": behaviour.ensemble} if behaviour.ensemble is not None else {}
        found |= {"best": s.best, "mean": s.mean, "median": s.median, "min": s.min, "std": s.std}
        found |= {"error-IoU, median": iou.median, "error-IoU, max": iou.best}
        found |= {"disagreement, %": behaviour.disagreement, "novel and good, %": behaviour.novel_and_good}
        near = [(np.array(group.nearest), MOST * comparison.leave_one_out_distance)]
        found |= {"at .95, %": good_beyond(near, group, scoring)}
        if group.aligned:
            near.append((np.array(group.aligned.nearest), MOST * comparison.aligned_yardstick))
            found |= {"at .95 aligned, %": good_beyond(near, group, scoring)}
        found |= {"mean of seeds": scores.mean, "std of seeds": scores.std if scores.n > 1 else None}
    return found


def _distribution(found: Distribution | None, titles: Sequence[str]) -> Record:
    if found is None:
        return {}
    return dict(zip(titles, (found.auc, found.auc_chance_std, found.energy, found.shift), strict=True))


def interval(summary: Summary) -> float | None:
    """Half the 95% confidence interval of a mean over networks, by Student's t; None for one network."""
    from scipy.stats import t

    if summary.n == 1:
        return None
    return float(t.ppf(0.975, summary.n - 1)) * summary.std / math.sqrt(summary.n)


def _table(groups: Sequence[tuple[Comparison, Group]], titles: Sequence[str]) -> Table:
    """A row for each group, with those of the measures `titles` that there are."""
    table = Table.of([measures(comparison, group) for comparison, group in groups], DIGITS)
    return table.only([title for title in titles if title in table.columns])


def score_table(comparison: Comparison) -> Table:
    """The paper's statistics of the headline metric over networks, a row per group."""
    return _table([(comparison, group) for group in comparison.groups], ("group", *SCORES))


def similarity_table(comparison: Comparison) -> Table:
    """Likeness to the training checkpoints, a row per group; the row of the originals is the yardstick."""
    return _table([(comparison, group) for group in comparison.groups], ("group", *SIMILARITY, *ALIGNED))


def distribution_table(comparison: Comparison) -> Table:
    """How groups lie beside originals held out, a row per group that is large enough."""
    groups = [(comparison, group) for group in comparison.groups if group.distribution]
    return _table(groups, ("group", *DISTRIBUTION, *DISTRIBUTION_ALIGNED))


def seed_table(comparison: Comparison) -> Table:
    """Means and deviations over seeds, a row per generator that has several."""
    return _table([(comparison, group) for group in comparison.groups if len(group.seeds) > 1], ("group", *SEEDS))


def whole_table(comparisons: Sequence[Comparison]) -> Table:
    """All measures of all groups of all comparisons, a row each."""
    groups = [(comparison, group) for comparison in comparisons for group in comparison.groups]
    return _table(groups, (*WHERE, *SCORES, *SIMILARITY, *ALIGNED, *DISTRIBUTION, *DISTRIBUTION_ALIGNED, *SEEDS))


def tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """The tables of a report with their titles."""
    found = [("Similarity to the training checkpoints", similarity_table(comparison))]
    if scoring := comparison.scoring:
        found.insert(0, (f"Scores: {scoring.headline}, %", score_table(comparison)))
    if any(group.distribution for group in comparison.groups):
        found.append(("Beside originals held out", distribution_table(comparison)))
    if any(len(group.seeds) > 1 for group in comparison.groups):
        found.append(("Over seeds", seed_table(comparison)))
    return found


def summary(comparison: Comparison) -> str:
    """The tables, what was compared, and the verdicts, for the terminal."""
    parts = [f"{title}\n{table.text()}" for title, table in tables(comparison)]
    return "\n\n".join([*parts, "\n".join(notes(comparison)), *_headlines(comparison)])


def notes(comparison: Comparison) -> list[str]:
    """What made each group of generated networks, and from how many runs the training checkpoints come, a line each."""
    count, runs = len(comparison.original.ids), comparison.runs
    origin = f"The {count} training checkpoints come from {runs} runs."
    if runs == 1:
        origin = (
            f"All {count} training checkpoints are of one run, by their record: the yardstick is how far checkpoints "
            "of one training lie apart, so distances over it say little of how new a network is."
        )
    return [*(f"{group.name}: {group.about}." for group in comparison.of_kind("generated")), origin]


def write_report(
    comparison: Comparison,
    losses: Losses,
    provenance: Mapping[str, str],
    out: Path,
    plots: Sequence[str] = (),
    zoos: Mapping[str, Path] = MappingProxyType({}),
    worth: Worth | None = None,
) -> Path:
    """Write `report.json` (the comparison), `report.csv`, `report.md`, `report.html` and `plots/*.svg` into `out`; the
    path of the page. `plots` are further formats of the plots, png or pdf; `provenance` says how and where the numbers
    were made (rpg.reports.page.provenance_of), `zoos` where the groups' zoos are, `worth` what the originals' alignment
    is, where they are aligned.

    Raises ValueError for an unknown format, and when `out` holds the report of other networks or another protocol.
    """
    made_of = {"originals": f"{comparison.originals}, split {comparison.split}"}
    if scoring := comparison.scoring:
        made_of |= {"protocol": f"{scoring.protocol}, {scoring.samples} test samples", "evaluator": scoring.evaluator}
    page = Page(
        title=comparison.originals,
        about="originals, generated networks and baselines",
        headlines=_headlines(comparison),
        notes=notes(comparison),
        sections=_sections(comparison, losses, worth),
        provenance=made_of | dict(provenance),
        marks=marks(comparison.groups),
        strong=frozenset(group.name for group in comparison.of_kind("generated")),
        explained=EXPLAINED,
        links=links_to({f"zoo of {name}": path for name, path in zoos.items()}, out),
    )
    return write_page(page, comparison, comparison.inputs, whole_table([comparison]), out, plots)


def _headlines(comparison: Comparison) -> list[str]:
    verdicts = judge(comparison)
    if not verdicts:
        return ["There are no generated networks among these, so there is no verdict."]
    return [f"{v.group}: {v.headline}" if len(verdicts) > 1 else v.headline for v in verdicts]


def _sections(comparison: Comparison, losses: Losses, worth: Worth | None) -> list[Section]:
    plots, reading = [(distance_plot(comparison), DISTANCE_CAPTION)], [*READING]
    if scoring := comparison.scoring:
        plots.insert(0, (similarity_plot(comparison, scoring), SIMILARITY_CAPTION))
        reading = [*READING_SCORES[:2], *READING, *READING_SCORES[2:]]
    if comparison.original.aligned:
        reading += READING_ALIGNED
    if any(group.distribution for group in comparison.groups):
        reading += READING_DISTRIBUTION
    if any(len(group.seeds) > 1 for group in comparison.groups):
        reading += READING_SEEDS
    verdicts = judge(comparison)
    return [
        *(Section(title, tables=[table]) for title, table in tables(comparison)),
        Section("Networks one by one", plots=plots),
        *(Section(f"Verdict on {v.group}" if len(verdicts) > 1 else "Verdict", v.findings) for v in verdicts),
        *([worth_section(worth)] if worth else []),
        training_section(losses),
        Section("How to read this", _groups(comparison), reading),
    ]


def worth_section(worth: Worth) -> Section:
    """What the originals' alignment is worth, as `rpg-zoo align` measured it."""
    records: list[Record] = [
        {"of the originals": name, "raw": round(pair.raw, digits), "aligned": round(pair.aligned, digits)}
        for name, pair, digits in rows(worth)
    ]
    plots = [(barrier_plot(worth.behaviour), BARRIER_CAPTION)] if worth.behaviour else []
    return Section("What alignment is worth", tables=[Table.of(records)], plots=plots)


def training_section(losses: Losses) -> Section:
    if not losses:
        return Section("Training", text=["No losses of a training run at hand."])
    return Section("Training", plots=[(loss_plot(losses), LOSS_CAPTION if len(losses) > 1 else "")])


def _groups(comparison: Comparison) -> list[tuple[str, str]]:
    """What the groups are; those that are the same but for their settings together."""
    names: dict[str, list[str]] = {}
    for group in comparison.groups:
        names.setdefault(group.about, []).append(group.name)
    return [(", ".join(found), about) for about, found in names.items()]
