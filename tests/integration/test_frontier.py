"""benchmarks/frontier.py: the rows of other studies in one drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import frontier
import pytest

NULL = [
    {"zoo": "seeds", "form": "original", "mean": 47.5, "distance, median": 1.0, "distance aligned, median": 1.0},
    {"zoo": "seeds", "form": "noise-0.1", "mean": 43.5, "distance, median": 0.09, "distance aligned, median": 0.1},
]
TABLE8 = [
    {"method": None, "group": "mean_of_all", "mean": 25.0, "distance aligned, median": 0.67},
    {"method": "settings/mine.yaml", "group": "mine", "mean": 38.9, "distance aligned, median": 0.71},
    {"method": "broken", "group": "seed 0", "mean": None, "distance aligned, median": None, "failed": "train: no"},
]
POLISH = [
    {"start": "original", "steps": None, "mean": 47.5, "distance aligned, median": 1.0},
    {"start": "soup", "steps": 0, "mean": 14.1, "distance aligned, median": 0.99},
    {"start": "soup", "steps": 500, "mean": 38.5, "distance aligned, median": 1.02},
]


def write(path: Path, rows: Any) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def test_forms_methods_and_steps_of_polish_are_drawn_and_baselines_are_not(tmp_path: Path) -> None:
    tables = [write(tmp_path / f"{k}.json", rows) for k, rows in enumerate((NULL, TABLE8, POLISH))]
    assert frontier.main([*tables, "--out", str(tmp_path / "all.svg")]) == 0
    drawn = (tmp_path / "all.svg").read_text()
    for text in (
        *("original, seeds: 47.50 at 1.00", "closed forms, noise-0.1: 43.50 at 0.10", "mine, mine: 38.90 at 0.71"),
        *("polished soup, 0 steps: 14.10 at 0.99", "polished soup, 500 steps: 38.50 at 1.02"),
    ):
        assert text in drawn
    assert "mean_of_all" not in drawn
    assert "broken" not in drawn


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    other = write(tmp_path / "run.json", {"rows": []})
    with pytest.raises(ValueError, match=r"run\.json is no table"):
        frontier.main([other, "--out", str(tmp_path / "all.svg")])
    bare = write(tmp_path / "bare.json", [{"form": "original", "mean": 1.0}])
    with pytest.raises(ValueError, match="has no networks with a distance aligned"):
        frontier.main([bare, "--out", str(tmp_path / "all.svg")])
