"""Several comparisons in one table: rows over originals (tasks) and groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpg.reports.compare import Comparison
from rpg.reports.inputs import REPORT, REPORT_BYTES
from rpg.reports.report import whole_table
from zoo.errors import MissingData
from zoo.files import parse_json, read_limited
from zoo.table import Table

MAIN = (
    *("originals", "metric", "protocol", "group", "networks", "best", "mean", "std", "ensemble of 16"),
    *("seeds", "mean of seeds", "std of seeds"),
    *("error-IoU, median", "distance, median", "spread", "novel and good, %"),
    *("distance aligned, median", "novel and good aligned, %", "AUC", "AUC aligned", "shift aligned"),
)
WHERE_DIFFERENT = ("originals", "metric", "protocol", "seeds", "std of seeds")

BELOW_TITLE = {"table": "\n", "markdown": "\n\n"}
IN_WORDS = {"top1": "accuracy (top1)"}  # of metrics whose names do not say what they are


def read_comparison(place: Path) -> Comparison:
    """The comparison of a report, by its directory. Raises MissingData when there is none, ValueError for a report that
    compares task by task, Corrupt for a damaged one.
    """
    path = place / REPORT
    if not path.is_file():
        raise MissingData(f"no report in {place}: expected {REPORT}; `rpg report` makes one")
    text = read_limited(path, REPORT_BYTES)
    content = parse_json(text, path)
    if isinstance(content, dict) and "groups" not in content and "rows" in content:
        raise ValueError(f"{place} holds a report task by task; expected the report of a comparison of groups")
    return Comparison.parse(text, path)


def comparisons_table(comparisons: Sequence[Comparison], form: str = "table") -> str:
    """All groups of all comparisons, a row each, in a format of zoo.table.FORMATS: CSV and JSON with all measures, the
    others, which are for people, with the main ones; text and Markdown below a line that says what the scores are.

    Raises ValueError for an unknown format.
    """
    table = whole_table(comparisons)
    text = (table if form in ("csv", "json") else main_columns(table)).render(form)
    between, title = BELOW_TITLE.get(form), scores_title(comparisons)
    return text if between is None or not title else f"{title}{between}{text}"


def scores_title(comparisons: Sequence[Comparison]) -> str:
    """Metric and unit of the scores; nothing where there are none."""
    metrics = {comparison.scoring.headline for comparison in comparisons if comparison.scoring}
    if len(metrics) > 1:
        return "Scores: the metric of each row, %"
    return "".join(f"Scores: {IN_WORDS.get(metric, metric)}, %" for metric in metrics)


def main_columns(table: Table) -> Table:
    """The columns of MAIN that there are, without those of WHERE_DIFFERENT in which all rows agree."""
    values = {title: {row[i] for row in table.rows} for i, title in enumerate(table.columns)}
    return table.only([t for t in MAIN if t in values and (t not in WHERE_DIFFERENT or len(values[t]) > 1)])
