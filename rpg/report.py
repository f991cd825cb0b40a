"""A comparison as a report: JSON for programs, Markdown for terminals and repositories, one HTML page for people.

The page is self-contained: no script, no request, plots as inline SVG. The same input gives the same bytes.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from pathlib import Path

import torch

from evaluators.metrics import summarize
from rpg.compare import Comparison
from rpg.page import PAGE
from rpg.plots import distance_plot, label, loss_plot, marks, similarity_plot
from rpg.verdict import Verdict, headline_metric, judge, standard_error
from zoo.files import write_bytes
from zoo.manifest import versions
from zoo.recipe import Recipe

GROUPS = {
    "original": "the training checkpoints, each compared with the others; with several runs, with those of other runs",
    "heldout": "originals that the generator never saw",
    "generated": "networks from the generator",
    "noised": "a training checkpoint plus Gaussian noise, so many standard deviations of each tensor",
    "mean_of_all": "the mean of the weights of all training checkpoints, one network",
    "average": "means of that many training checkpoints drawn at random",
    "gaussian": "draws from independent Gaussians fitted to every weight over the training checkpoints",
}

READING = (
    "Every network is scored on the same test samples; the toolkit chooses, calibrates and stops nothing on them. "
    "Best and min are picked on the test data, so the best of many networks flatters; compare means. The column ± is "
    "the standard error of one network's score because the test set is finite; std is the spread between networks.",
    "Error-IoU: of the test samples that either of two networks gets wrong, the share that both get wrong. A network's "
    "value is its largest with any training checkpoint: 1 is the same behaviour, lower is more different.",
    "Distance is the Euclidean distance of all weights to the nearest training checkpoint, divided by the median of "
    "the same distance among the training checkpoints, the yardstick; with several runs (seeds), to those of other "
    "runs. At 1 a network lies as far away as they lie from one another; well below 1 it is a near-copy. By definition "
    "about half of the originals lie below 1.",
    "Spread is how far a group's networks scatter around one another, in the same unit. Novel and good is the share "
    "that lies above 1 and scores at most 2 points below the median original. Noise can reach it too, so a generator "
    "has shown something only where no trivial baseline does as well.",
)


@dataclass(frozen=True)
class Table:
    """Cells as text. The first of each row is a group's name, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(
    comparison: Comparison, losses: Sequence[tuple[int, float]], provenance: Mapping[str, str], out: Path
) -> Path:
    """Write `report.json` (the comparison), `report.md` and `report.html` into `out`; the path of the page.

    `losses` are (step, training loss), possibly none; `provenance` says how and where the numbers were made.
    """
    verdict = judge(comparison)
    provenance = {
        "recipe": comparison.recipe,
        "protocol": f"{comparison.protocol}, {comparison.samples} test samples",
        "evaluator": comparison.evaluator,
    } | dict(provenance)
    write_bytes(out / "report.json", (comparison.to_json(indent=1) + "\n").encode())
    write_bytes(out / "report.md", _markdown(comparison, verdict, provenance).encode())
    write_bytes(out / "report.html", _html(comparison, verdict, losses, provenance).encode())
    return out / "report.html"


def table(comparison: Comparison) -> str:
    """Scores, similarity and the verdict, for the terminal."""
    return "\n\n".join(
        [
            markdown_table(score_table(comparison)),
            markdown_table(similarity_table(comparison)),
            judge(comparison).headline,
        ]
    )


def score_table(comparison: Comparison) -> Table:
    """The paper's statistics of the headline metric, a row per group."""
    rows = []
    for group in comparison.groups:
        s = headline_metric(comparison, group)
        error = standard_error(s.mean, comparison.samples)
        numbers = (s.best, s.mean, s.median, s.min, s.std, error)
        rows.append((group.name, *(f"{number:.2f}" for number in numbers), str(s.n)))
    return Table((f"{comparison.headline}, %", "best", "mean", "median", "min", "std", "±", "n"), tuple(rows))


def similarity_table(comparison: Comparison) -> Table:
    """Likeness to the training checkpoints, a row per group; the row of the originals is the yardstick."""
    rows = []
    for group in comparison.groups:
        iou, ratio = summarize(group.max_error_iou), summarize(group.nearest_ratio)
        cells = (f"{iou.median:.3f}", f"{iou.best:.3f}", f"{ratio.median:.2f}", f"{group.spread:.2f}")
        rows.append((group.name, *cells, f"{group.novel_and_good:.0f}"))
    columns = ("similarity", "error-IoU, median", "max", "distance, median", "spread", "novel and good, %")
    return Table(columns, tuple(rows))


def provenance_of(recipe: Recipe, command: Sequence[str]) -> dict[str, str]:
    """How and where this process makes a report, for `write_report`."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(command),
        "recipe hash": recipe.sha256,
        "commit": _commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "hardware": ", ".join([f"{os.cpu_count()} CPUs", platform.machine(), *devices]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    """The commit of this checkout, with `-dirty` where it was changed; an installed package has none."""
    root = Path(__file__).resolve().parents[1]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return "not a git checkout"
    describe = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit yet"


def _present(comparison: Comparison) -> list[tuple[str, str]]:
    """What the groups of this comparison are, each kind once."""
    kinds = [kind for kind in GROUPS if any(group.name.startswith(kind) for group in comparison.groups)]
    return [(label(kind), GROUPS[kind]) for kind in kinds]


def _markdown(comparison: Comparison, verdict: Verdict, provenance: Mapping[str, str]) -> str:
    parts = [
        f"# {comparison.recipe}: originals, generated networks and baselines",
        verdict.headline,
        "## Scores",
        markdown_table(score_table(comparison)),
        "## Similarity to the training checkpoints",
        markdown_table(similarity_table(comparison)),
        "## Verdict",
        "\n".join(f"- **{topic}.** {text}" for topic, text in verdict.findings),
        "## How to read this",
        "\n".join(f"- **{name}**: {text}" for name, text in _present(comparison)),
        *READING,
        "## Provenance",
        "\n".join(f"- {name}: `{value}`" for name, value in provenance.items()),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    rows = [table.columns, *((label(name), *cells) for name, *cells in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|-" + "-" * widths[0] + "-|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([lines[0], rule, *lines[1:]])


def _html(
    comparison: Comparison, verdict: Verdict, losses: Sequence[tuple[int, float]], provenance: Mapping[str, str]
) -> str:
    colours = {name: mark.colour for name, mark in marks(comparison.groups).items()}
    return PAGE.substitute(
        recipe=escape(comparison.recipe),
        headline=escape(verdict.headline),
        scores=html_table(score_table(comparison), colours),
        similarity=html_table(similarity_table(comparison), colours),
        findings=definitions(verdict.findings),
        similarity_plot=similarity_plot(comparison),
        distance_plot=distance_plot(comparison),
        training=f"<figure>\n{loss_plot(losses)}</figure>"
        if losses
        else "<p>No losses of the training run at hand.</p>",
        groups=definitions(_present(comparison)),
        reading="".join(f"<p>{escape(text)}</p>\n" for text in READING),
        provenance=definitions(provenance.items()),
    )


def html_table(table: Table, colours: Mapping[str, str]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(
        f'<tr class="{name}"><th>{_dot(colours.get(name))}{escape(label(name))}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, *cells in table.rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _dot(colour: str | None) -> str:
    return f'<i style="background:{colour}"></i>' if colour else ""


def definitions(items: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in items)
