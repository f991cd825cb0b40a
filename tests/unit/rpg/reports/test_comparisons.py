"""Several reports in one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from test_report import comparison, weights_alone, with_seeds, write

from rpg.reports.compare import Comparison
from rpg.reports.comparisons import comparisons_table, read_comparison
from rpg.reports.report import measures, write_report
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
    assert one[0].split()[:5] == ["group", "networks", "best", "mean", "std"]
    several = comparisons_table([with_seeds(comparison()), other(comparison())]).splitlines()
    assert several[0].startswith("originals")
    assert "std of seeds" in several[0]
    assert several[-1].startswith("other")
    latex = comparisons_table([comparison()], "latex")
    assert r"novel and good, \%" in latex
    assert "noised\\_0.01" in latex


def test_weights_alone_stand_beside_scores() -> None:
    lines = comparisons_table([comparison(), other(weights_alone(comparison()))]).splitlines()
    assert len(lines) == 17
    assert lines[1].count("  -") == 0
    assert lines[9].count("  -") >= 4


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no table format named 'html'"):
        comparisons_table([comparison()], "html")


def test_a_report_without_generated_networks_says_so(tmp_path: Path) -> None:
    made = comparison()
    bare = made.model_copy(update={"groups": (made.groups[0], *made.groups[3:])})
    write_report(bare, {}, {}, tmp_path)
    assert "no generated networks" in (tmp_path / "report.md").read_text()
