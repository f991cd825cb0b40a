"""A comparison of tasks (rpg.tasks) as a report, in the same three forms as that of one task (rpg.report)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rpg.page import TASKS_PAGE
from rpg.plots import head_plot, loss_plot, picture_plot
from rpg.report import Table, definitions, html_table, markdown_table
from rpg.tasks import BASELINES, TaskComparison
from zoo.files import write_bytes

READING = (
    "Every network is scored on its own task, on the same test images. Original, best, average and std are over the "
    "networks of a task; best is picked on the test data, so compare averages. Gap is the original average less the "
    "generated one. Binary tasks are unequal: `report.json` has the balanced accuracy, too.",
    "Nearest is the network of the seen task that labels the fewest classes differently, neighbours the mean of all "
    "such networks, regression what least squares says from the bits. None needs a generator: it has shown something "
    "only where it beats them.",
    "Flipped is the accuracy, on this task, of networks generated for its complement. It should be near 100 less what "
    "they reach on their own; a generator that ignores its condition has the same accuracy on both.",
    "Class by class: the share of each class's test images that get the task's label, in percent, as a mean over "
    "networks (paper, table 10).",
)
CLASS_TASKS = 10  # in the tables; `report.json` has all


def write_task_report(
    comparison: TaskComparison, losses: Sequence[tuple[int, float]], provenance: Mapping[str, str], out: Path
) -> Path:
    """Write `report.json`, `report.md` and `report.html` into `out`; the path of the page."""
    provenance = {
        "recipe": comparison.recipe,
        "protocol": f"{comparison.protocol}, {comparison.samples} test samples",
        "evaluator": comparison.evaluator,
    } | dict(provenance)
    text = [
        f"# {comparison.recipe}",
        headline(comparison),
        tasks_text(comparison),
        "## How to read this",
        *READING,
        "## Provenance",
        "\n".join(f"- {name}: `{value}`" for name, value in provenance.items()),
    ]
    curve = f"<figure>\n{loss_plot(losses)}</figure>" if losses else "<p>No losses of the training run at hand.</p>"
    page = TASKS_PAGE.substitute(
        recipe=escape(comparison.recipe),
        headline=escape(headline(comparison)),
        gaps=html_table(gap_table(comparison), {}),
        tasks=html_table(task_table(comparison), {}),
        classes=html_table(class_table(comparison), {}),
        head_plot=head_plot(comparison.head),
        picture_plot=picture_plot(comparison.picture),
        training=curve,
        reading="".join(f"<p>{escape(text)}</p>\n" for text in READING),
        provenance=definitions(provenance.items()),
    )
    write_bytes(out / "report.json", (comparison.to_json(indent=1) + "\n").encode())
    write_bytes(out / "report.md", ("\n\n".join(text) + "\n").encode())
    write_bytes(out / "report.html", page.encode())
    return out / "report.html"


def headline(comparison: TaskComparison) -> str:
    """The answer in a sentence: the mean gap on the tasks never seen, and whether a baseline does better."""
    split = comparison.splits[0]
    gaps = comparison.mean_gaps(split)
    count = sum(row.split == split for row in comparison.rows)
    if not gaps:
        return f"Networks for {count} tasks; the zoo has no originals of them to compare with."
    best = min(BASELINES, key=lambda name: gaps[name])
    verdict = "better than" if gaps["generated"] < gaps[best] else "no better than"
    return (
        f"On {count} tasks of split {split} the generated networks lie {gaps['generated']:.2f} points below the "
        f"originals on average: {verdict} the best baseline without a generator ({best}: {gaps[best]:.2f})."
    )


def tasks_text(comparison: TaskComparison) -> str:
    """All tables, for the terminal."""
    tables = task_table(comparison), gap_table(comparison), class_table(comparison)
    return "\n\n".join(map(markdown_table, tables))


def task_table(comparison: TaskComparison) -> Table:
    """Table 14, a row per task, with the baselines beside it."""
    rows = []
    for row in comparison.rows:
        original, generated = row.accuracy.get("original"), row.accuracy["generated"]
        cells = [original.mean if original else None, generated.best, generated.mean, generated.std]
        cells += [row.gaps.get("generated"), *(row.accuracy[name].mean for name in BASELINES)]
        cells.append(row.flipped.mean if row.flipped else None)
        texts = ("-" if value is None else f"{value:.2f}" for value in cells)
        rows.append((row.condition, row.split, *texts, str(generated.n)))
    columns = ("task", "split", "original", "best", "average", "std", "gap", *BASELINES, "flipped", "n")
    return Table(columns, tuple(rows))


def class_table(comparison: TaskComparison) -> Table:
    """Table 10: accuracy class by class, a row per task and group; tasks with a complement among them come first."""
    chosen = sorted(comparison.rows, key=lambda row: row.flipped is None)[:CLASS_TASKS]
    rows = [
        (f"{row.condition} {group}", *(f"{value:.1f}" for value in values))
        for row in chosen
        for group, values in row.classes.items()
    ]
    return Table(("class", *map(str, range(len(rows[0]) - 1))), tuple(rows))


def gap_table(comparison: TaskComparison) -> Table:
    """Mean points below the originals, a row per split."""
    rows = []
    for split in comparison.splits:
        gaps = comparison.mean_gaps(split)
        count = sum(row.split == split and "original" in row.accuracy for row in comparison.rows)
        if gaps:
            rows.append((split, *(f"{gaps[name]:.2f}" for name in ("generated", *BASELINES)), str(count)))
    return Table(("mean gap, points", "generated", *BASELINES, "tasks"), tuple(rows))


def tasks_json(comparison: TaskComparison) -> dict[str, Any]:
    """What `rpg eval --json` and `rpg report --json` print."""
    rows = [row.model_dump(mode="json") | {"gaps": row.gaps} for row in comparison.rows]
    return {
        "task": comparison.recipe,
        "protocol": comparison.protocol,
        "tasks": rows,
        "mean_gaps": {split: comparison.mean_gaps(split) for split in comparison.splits},
    }
