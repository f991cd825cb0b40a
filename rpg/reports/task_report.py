"""A comparison of tasks as tables and as a report, in the same forms as that of one task (rpg.reports.report)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

from rpg.reports.page import Page, Section, links_to, write_page
from rpg.reports.report import Losses, training_section
from rpg.reports.task_plots import head_plot, picture_plot
from rpg.reports.tasks import TaskComparison
from zoo.health import works_from
from zoo.table import Record, Table

READING = (
    "Every network is scored on its own task, on the same test images. Original, best, average and std are over the "
    "networks of a task; best is picked on the test data, so compare averages. Gap is the original average less the "
    "generated one, error the standard error of a mean over tasks. Binary tasks are unequal, so look at the balanced "
    "accuracy, too (task by task in report.json). Tasks of split new are those that the zoo has no originals of.",
    "Made of the seen tasks' networks, without a generator: nearest is the network of the seen task that labels the "
    "fewest classes differently, neighbours the mean of all such networks, vote what most of them answer (several "
    "networks, not one; where they tie, the nearest one's answer, so that two voters are the nearest), regression "
    "what least squares says from the bits, ridge the same with a penalty, chosen by leaving tasks out, arithmetic "
    "the start that all share plus or minus a task vector for every class. A generator has shown something only "
    "where it beats these.",
    "Classifier is one network that tells all classes apart: it answers 1 where the probabilities of the classes "
    "labelled 1 sum to more than those of the others. It solves every such task, and no network per task is needed.",
    "Random is the generated networks of all other tasks, asked this one: a generator that does no better does not "
    "listen to its condition.",
    "Slope: how much larger the share of a class's images is that are answered with 1 where its bit is 1, over tasks. "
    "Networks that do as they are told have 1, those that do not listen 0; there is none where all tasks label the "
    "class alike.",
    "Classes that no task learnt labels 1, where there are any: the accuracy on their images in the tasks that label "
    "them 1, and on all other images. Networks made of those of seen tasks can know them only as what is labelled 0.",
    "Flipped is the accuracy, on this task, of networks generated for its complement. It should be near 100 less what "
    "they reach on their own; a generator that ignores its condition has the same accuracy on both.",
    "Class by class: the share of each class's test images that get the task's label, in percent, as a mean over "
    "networks (paper, table 10).",
)
HEAD_CAPTION = (
    "A point per network, along the two directions in which the networks of seen tasks vary most; below some "
    "unseen tasks, a colour for each (paper, figure 10)."
)
PICTURE_CAPTION = (
    "A row per network, a column per weight, in units of its spread over the seen tasks (paper, figure 6)."
)
EXPLAINED = {
    "task": "the label, 0 or 1, of each class",
    "split": "whether networks of this task were learnt from",
    "original": "the mean accuracy of the networks that were trained for the task",
    "best": "the best generated network, picked on the test data",
    "average": "the mean accuracy of the generated networks",
    "std": "the standard deviation between the generated networks",
    "gap": "points that the generated networks lie below the originals on average",
    "nearest": "the network of the seen task that labels the fewest classes differently",
    "neighbours": "the mean of all networks of such tasks",
    "vote": "what most networks of such tasks answer",
    "regression": "what least squares says from the bits of the task",
    "ridge": "what ridge regression says from the bits of the task",
    "arithmetic": "the start that all networks share, plus or minus a task vector for every class",
    "classifier": "one network for all classes, its probabilities summed as the task labels them",
    "random": "the networks that were generated for the other tasks, asked this one",
    "top1": "the mean accuracy, a mean over tasks",
    "balanced": "the mean of the accuracies on the two labels, a mean over tasks",
    "error": "the standard error of the gap, over tasks",
    "lead": "points that the generated networks lie above this on average",
    "lead, error": "the standard error of the lead, over tasks",
    "all": "the mean over classes",
    "all others": "the accuracy on the images of all other classes",
    "flipped": "the accuracy here of networks generated for the complement: near 100 less their own, if they listen",
    "networks": "how many networks were generated for the task",
    "group": "whose networks: originals, generated, or generated for the complement",
    "generated": "the generated networks",
    "tasks": "how many tasks",
}
CLASS_TASKS = 10  # in the tables; `report.json` has all
SURE = 2  # standard errors, over tasks, that a lead has to be above 0


def write_task_report(
    comparison: TaskComparison,
    losses: Losses,
    provenance: Mapping[str, str],
    out: Path,
    plots: Sequence[str] = (),
    zoos: Mapping[str, Path] = MappingProxyType({}),
) -> Path:
    """Write the same files as `rpg.reports.report.write_report`; the path of the page. `report.csv` has a row per task.

    Raises ValueError as it does.
    """
    page = Page(
        title=comparison.originals,
        about="networks for binary tasks: trained, generated, predicted",
        headlines=[headline(comparison)],
        sections=[
            *(Section(title, tables=[table]) for title, table in _tables(comparison)),
            Section(
                "Weights of the classification head",
                plots=[
                    (head_plot(comparison.head), HEAD_CAPTION),
                    (picture_plot(comparison.picture), PICTURE_CAPTION),
                ],
            ),
            training_section(losses),
            Section("How to read this", text=[*READING, *_absences(comparison)]),
        ],
        provenance={
            "originals": comparison.originals,
            "protocol": f"{comparison.protocol}, {comparison.samples} test samples",
            "evaluator": comparison.evaluator,
        }
        | dict(provenance),
        explained=EXPLAINED,
        links=links_to({f"zoo of {name}": path for name, path in zoos.items()}, out),
    )
    return write_page(page, comparison, comparison.inputs, task_table(comparison), out, plots)


def headline(comparison: TaskComparison) -> str:
    """The answer in a few sentences: whether the networks work at all; the mean gap on the tasks never seen (their mean
    accuracy where the zoo has no originals of them), whether a baseline that makes networks per task does better, and
    what needs none, or no condition.
    """
    if dead := _dead(comparison):
        return dead
    split = comparison.splits[0]
    gaps, rows = comparison.mean_gaps(split), [row for row in comparison.rows if row.split == split]
    best = comparison.best(split)
    lead, error = comparison.lead(split, best)
    verdict = "better than" if lead > SURE * (error or 0) else "no better than"
    ahead = f"{lead:+.2f}" + (f" ± {error:.2f}" if error is not None else "")
    tasks = f"On {len(rows)} task{'s' * (len(rows) > 1)} of split {split}"
    if not gaps:
        own, its = (mean(row.accuracy[name].mean for row in rows) for name in ("generated", best))
        return (
            f"{tasks}, of which the zoo has no originals, the generated networks reach {own:.2f}: {verdict} the best "
            f"baseline without a generator ({best}: {its:.2f}; lead {ahead})."
        )
    found = (
        f"{tasks} the generated networks lie {gaps['generated']:.2f} points below the originals on average: {verdict} "
        f"the best baseline without a generator ({best}: {gaps[best]:.2f}; lead {ahead})."
    )
    if "classifier" in gaps:
        found += f" One network for all classes, its probabilities summed, lies {gaps['classifier']:.2f} points below."
    if "random" in gaps:
        found += f" Asked for other tasks than these, the generator lies {gaps['random']:.2f} points below."
    return found


def _dead(comparison: TaskComparison) -> str:
    """The headline where the originals, or the generated networks, are no better than guessing; else nothing."""
    if comparison.chance is None:
        return ""
    least = works_from(comparison.chance, comparison.samples * len(comparison.rows))  # each task asks anew
    for group, who in (("original", "The originals"), ("generated", "The generated networks")):
        score = comparison.balanced(group)
        if score is not None and score <= least:
            return (
                f"{who} do not work: their balanced accuracy is {score:.2f} on average, chance "
                f"{comparison.chance:.2f}. Gaps and similarity say nothing."
            )
    return ""


def tasks_text(comparison: TaskComparison) -> str:
    """All tables, for the terminal, and which baselines are not there."""
    tables = [f"{title}\n{table.text()}" for title, table in _tables(comparison)]
    return "\n\n".join([*tables, *_absences(comparison)])


def _absences(comparison: TaskComparison) -> list[str]:
    return [f"Not here: {name}. {why[:1].upper()}{why[1:]}." for name, why in comparison.absent.items()]


def _tables(comparison: TaskComparison) -> list[tuple[str, Table]]:
    told = any(slope is not None for found in comparison.slopes.values() for slope in found)
    return [
        ("Means over tasks", gap_table(comparison).filled()),
        *([("Classes that no task learnt labels 1", new_classes_table(comparison))] if comparison.new.classes else []),
        ("Tasks", task_table(comparison).filled()),
        *([("Slope of the answer against the bit that was asked for", slope_table(comparison))] if told else []),
        (f"Class by class{_some(comparison)}", class_table(comparison)),
    ]


def _some(comparison: TaskComparison) -> str:
    count = len(comparison.rows)
    return f", {CLASS_TASKS} of {count} tasks (all are in report.json)" if count > CLASS_TASKS else ""


def new_classes_table(comparison: TaskComparison) -> Table:
    """A row per group: its accuracy on classes that nothing learnt from labels 1, and on all others."""
    title = f"classes {', '.join(map(str, comparison.new.classes))}"
    records: list[Record] = [
        {"group": group, title: new, "all others": others} for group, (new, others) in comparison.new.accuracy.items()
    ]
    return Table.of(records)


def task_table(comparison: TaskComparison) -> Table:
    """Table 14, a row per task, with the baselines beside it."""
    records: list[Record] = []
    for row in comparison.rows:
        original, generated = row.accuracy.get("original"), row.accuracy["generated"]
        record: Record = {"task": row.condition, "split": row.split}
        record |= {"original": original.mean if original else None}
        record |= {"best": generated.best, "average": generated.mean, "std": generated.std}
        record |= {"gap": row.gaps.get("generated")} | {name: row.accuracy[name].mean for name in comparison.baselines}
        record |= {"flipped": row.flipped.mean if row.flipped else None, "networks": generated.n}
        records.append(record)
    return Table.of(records)


def class_table(comparison: TaskComparison) -> Table:
    """Table 10: accuracy class by class, a row per task and group; tasks with a complement among them come first."""
    chosen = sorted(comparison.rows, key=lambda row: row.flipped is None)[:CLASS_TASKS]
    records: list[Record] = [
        {"task": row.condition, "group": group} | {str(k): value for k, value in enumerate(values)}
        for row in chosen
        for group, values in row.classes.items()
    ]
    return Table.of(records, {title: 1 for record in records for title in record})


def gap_table(comparison: TaskComparison) -> Table:
    """Means over the tasks of each split, a row per group: accuracies, points below the originals, where there are any,
    and points that the generated networks lie above a baseline, both with standard errors.
    """
    records: list[Record] = []
    for split in comparison.splits:
        rows = [row for row in comparison.rows if row.split == split]
        for name in ("original", "generated", *comparison.baselines):
            if own := [row for row in rows if name in row.accuracy]:
                gaps = [row.gaps[name] for row in own if name in row.gaps]
                record: Record = {"split": split, "group": name, "top1": mean(row.accuracy[name].mean for row in own)}
                record |= {"balanced": mean(row.balanced[name].mean for row in own)}
                record |= {"gap": mean(gaps) if gaps else None}
                record |= {"error": stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None}
                lead, uncertain = comparison.lead(split, name) if name in comparison.baselines else (None, None)
                record |= {"lead": lead, "lead, error": uncertain, "tasks": len(own)}
                records.append(record)
    return Table.of(records)


def slope_table(comparison: TaskComparison) -> Table:
    """How each group's answers follow the bits: a row per group, a column per class, and the mean of these."""
    records: list[Record] = []
    for group, found in comparison.slopes.items():
        values = [slope.value if slope else None for slope in found]
        known = [value for value in values if value is not None]
        record: Record = {"group": group, "all": mean(known) if known else None}
        records.append(record | {str(k): value for k, value in enumerate(values)})
    return Table.of(records, {title: 2 for record in records for title in record})


def tasks_json(comparison: TaskComparison) -> dict[str, Any]:
    """What `rpg eval --json` and `rpg report --json` print."""
    rows = [row.model_dump(mode="json") | {"gaps": row.gaps} for row in comparison.rows]
    return {
        "task": comparison.originals,
        "protocol": comparison.protocol,
        "tasks": rows,
        "mean_gaps": {split: comparison.mean_gaps(split) for split in comparison.splits},
        "leads": {
            split: {name: comparison.lead(split, name) for name in comparison.baselines} for split in comparison.splits
        },
        "slopes": comparison.model_dump(mode="json", include={"slopes"})["slopes"],
        "new_classes": comparison.new.model_dump(mode="json"),
        "absent": comparison.absent,
    }
