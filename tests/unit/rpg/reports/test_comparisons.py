"""Several reports in one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from test_report import comparison, weights_alone, with_seeds, write

from made_up import replaced
from rpg.reports.compare import Comparison
from rpg.reports.comparisons import comparisons_table, read_comparison
from rpg.reports.report import measures, write_report
from rpg.reports.stage import comparisons_of
from rpg.reports.together import together
from zoo.api import PYTHON
from zoo.errors import Corrupt, MissingData


def other(made: Comparison) -> Comparison:
    return made.model_copy(update={"originals": "other"})


def test_a_report_is_read_back(tmp_path: Path) -> None:
    made = with_seeds(comparison())
    write(made, tmp_path)
    assert read_comparison(tmp_path) == made
    with pytest.raises(MissingData, match=r"no report in .*nowhere"):
        read_comparison(tmp_path / "nowhere")
    (tmp_path / "report.json").write_text(json.dumps({"rows": [], "inputs": {}}))
    with pytest.raises(ValueError, match="task by task"):
        read_comparison(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(Corrupt, match="not a Comparison"):
        read_comparison(tmp_path)


def test_rows_are_originals_by_groups_with_all_measures() -> None:
    made = [with_seeds(comparison()), other(comparison())]
    rows = list(csv.DictReader(comparisons_table(made, "csv").splitlines()))
    known = [measures(one, group) for one in made for group in one.groups]
    assert len(rows) == len(known) == 16
    for row, expected in zip(rows, known, strict=True):
        assert row == {title: "" if value is None else str(value) for title, value in expected.items()}
    assert json.loads(comparisons_table(made, "json"))[10] == known[10]


def test_text_shows_the_main_measures_and_only_what_differs() -> None:
    one = comparisons_table([comparison()]).splitlines()
    assert one[1].split()[:5] == ["group", "networks", "best", "mean", "std"]
    several = comparisons_table([with_seeds(comparison()), other(comparison())]).splitlines()
    assert several[1].startswith("originals")
    assert "std of seeds" in several[1]
    assert several[-1].startswith("other")
    latex = comparisons_table([comparison()], "latex")
    assert r"novel and good, \%" in latex
    assert "noised\\_0.01" in latex


def test_weights_alone_stand_beside_scores() -> None:
    lines = comparisons_table([comparison(), other(weights_alone(comparison()))]).splitlines()
    assert len(lines) == 18
    assert lines[2].count("  -") == 0
    assert lines[10].count("  -") >= 4
    assert not comparisons_table([weights_alone(comparison())]).startswith("Scores")


def test_text_and_markdown_say_metric_and_unit_once() -> None:
    made = comparison()
    assert made.scoring
    boxes = {"scoring": made.scoring.model_copy(update={"headline": "box_AP"})}
    boxes["groups"] = tuple(
        group.model_copy(
            update={"behaviour": group.scored.model_copy(update={"metrics": {"box_AP": group.scored.metrics["top1"]}})}
        )
        for group in made.groups
    )
    for form, between in (("table", "\n"), ("markdown", "\n\n")):
        text = comparisons_table([made, other(made)], form)
        assert text.startswith(f"Scores: accuracy (top1), %{between}")
        assert text.count("top1") == 1
    assert comparisons_table([other(made).model_copy(update=boxes)]).startswith("Scores: box_AP, %\n")
    both = comparisons_table([made, other(made).model_copy(update=boxes)])
    assert both.startswith("Scores: the metric of each row, %\n")
    assert both.splitlines()[1].split()[1] == "metric"
    for form in ("csv", "json", "latex"):
        assert "accuracy (top1)" not in comparisons_table([made], form)


def generated(name: str, ratio: float, codec: bool = False) -> Comparison:
    """A comparison whose only generated networks are called `generated`, so far from the originals."""
    made = replaced(comparison((97.0, 0.6, ratio)), "mine", name="generated")
    rows = [made.group("generated").model_copy(update={"kind": "reconstructed", "name": name})] * codec
    return made.model_copy(update={"groups": (*made.groups, *rows)})


def test_runs_of_several_reports_are_told_apart_by_their_reports() -> None:
    """What is the same in both stands once; the others are called as their reports, the rows of codecs, too."""
    reports = [
        ("digits-small", generated("reconstructed", 2.0, codec=True)),
        ("digits-large", generated("reconstructed heldout by generated and noisy", 3.0, codec=True)),
    ]
    (merged,) = together(reports)
    assert [group.name for group in merged.groups] == [
        *("original", "heldout", "digits-small", "digits-large"),
        *("reconstructed by digits-small", "reconstructed heldout by digits-large and noisy"),
        *("noised_0.01", "noised_0.1", "mean_of_all", "average_of_16", "gaussian"),
    ]
    assert merged.group("digits-large").nearest == reports[1][1].group("generated").nearest


def test_names_that_are_taken_have_their_reports_behind_them() -> None:
    """Of a report that is called as a baseline, and of a method that two reports have."""
    (merged,) = together([("gaussian", generated("", 2.0)), ("other", generated("", 3.0))])
    assert [group.name for group in merged.of_kind("generated")] == ["generated (gaussian)", "other"]
    (merged,) = together([("a", comparison()), ("b", comparison((97.0, 0.6, 3.0)))])
    assert [group.name for group in merged.of_kind("generated")] == ["mine (a)", "mine (b)"]


def test_without_baselines_a_report_that_has_them_is_shown_without(tmp_path: Path) -> None:
    write(generated("reconstructed", 2.0, codec=True), tmp_path / "report")
    (shown,) = comparisons_of([str(tmp_path / "report")], False, (), None, "cpu", PYTHON)
    assert [group.name for group in shown.groups] == ["original", "heldout", "report"]
    (whole,) = comparisons_of([str(tmp_path / "report")], True, (), None, "cpu", PYTHON)
    assert len(whole.groups) == 9


def test_reports_of_the_same_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    for place, ratio in (("a", 2.0), ("b", 3.0)):
        write(generated("", ratio), tmp_path / place / "report")
    write(generated("", 4.0), tmp_path / "third")
    places = [str(tmp_path / place) for place in ("a/report", "b/report", "third")]
    (merged,) = comparisons_of(places, True, (), None, "cpu", PYTHON)
    assert [group.name for group in merged.of_kind("generated")] == [*places[:2], "third"]
    (merged,) = comparisons_of([places[0]] * 2, True, (), None, "cpu", PYTHON)
    assert [group.name for group in merged.of_kind("generated")] == ["report"]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no table format named 'html'"):
        comparisons_table([comparison()], "html")


def test_a_report_without_generated_networks_says_so(tmp_path: Path) -> None:
    made = comparison()
    bare = made.model_copy(update={"groups": (made.groups[0], *made.groups[3:])})
    write_report(bare, {}, {}, tmp_path)
    assert "no generated networks" in (tmp_path / "report.md").read_text()
