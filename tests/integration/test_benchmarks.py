"""Every benchmark runs in its quick form, checks that its sides compute the same, and records where it ran."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import Bench, arguments, interleaved, table, watch

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("bench_*.py"))
COLUMNS = {
    "align": {"networks", "kind", "balancing_s", "matching_s", "whole_s", "objective_before", "objective"},
    "tokens": {"zoo", "what", "gb_s", "times_plain", "limit", "limit_gb_s", "share_of_limit"},
    "memory": {"checkpoints", "growth_mb", "growth_over_first", "file_pages_mb"},
    "step": {"case", "precision", "published_s", "project_s", "speedup", "share"},
    "sampling": {"steps", "published_s", "project_s", "speedup"},
    "ensemble": {"model", "plain_per_minute", "ensemble_per_minute", "speedup"},
    "evaluate": {"recipe", "speedup", "scoring_over_forward"},
    "size": {"axis", "factor", "step_ms", "power_of_time", "memory_mb", "power_of_memory"},
}


ALWAYS = ("bench_tokens",)
"""The others, of the same harness, are for longer checks."""


def _all() -> list[Any]:
    return [
        pytest.param(path, id=path.stem, marks=[] if path.stem in ALWAYS else pytest.mark.slow) for path in BENCHMARKS
    ]


@pytest.mark.parametrize("script", _all())
def test_a_benchmark_checks_its_sides_and_records_its_numbers(script, tmp_path):
    run = subprocess.run(
        [sys.executable, str(script), "--quick", "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    name = script.stem.removeprefix("bench_")
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["benchmark"] == name
    assert result["quick"] is True
    assert result["checks"]
    assert {"cpu", "threads", "torch", "commit", "date"} <= result["machine"].keys()
    assert result["machine"]["device"] == "cpu"
    assert result["rows"]
    for row in result["rows"]:
        assert COLUMNS.get(name, set()) <= row.keys()
    assert (tmp_path / f"{name}.md").read_text() in run.stdout
    if name == "size":
        assert "</svg>" in (tmp_path / "size.svg").read_text()


def test_a_device_that_is_not_there_is_refused_in_a_line(tmp_path):
    options = arguments("").parse_args(["--out", str(tmp_path), "--device", "cuda:99"])
    with pytest.raises(SystemExit, match=r"bench_x: --device cuda:99 cannot be used here: .*; try --device auto"):
        Bench("x", options)


def test_sides_that_differ_give_no_result(tmp_path):
    bench = Bench("x", arguments("").parse_args(["--out", str(tmp_path)]))
    bench.check("one is one", True)
    with pytest.raises(SystemExit, match="bench_x: not true: one is two"):
        bench.check("one is two", False)
    assert not list(tmp_path.iterdir())


def test_sides_take_turns_and_ratios_are_of_rounds():
    order = []
    sides = {"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))}
    times = interleaved(sides, rounds=3, warmup=1)
    assert len(order) == 8
    assert "".join(order[2:]) == "abbaab"
    assert [len(timing.seconds) for timing in times.values()] == [3, 3]
    assert times["b"].min >= 0.02
    assert times["a"].speedup_over(times["b"]) > 2
    assert times["a"].speedup_over(times["a"]) == 1


def allocate(megabytes: int) -> int:
    return len(bytes(1) * (megabytes * 10**6))


def fail() -> None:
    raise SystemExit(3)


@pytest.mark.slow
def test_a_watched_process_shows_what_it_allocates():
    (before, peak, result) = watch(allocate, 300)
    assert result == 300_000_000
    assert 290e6 < peak.anonymous - before.anonymous < 400e6
    with pytest.raises(SystemExit, match=r"fail\(\) ended with exit code 3"):
        watch(fail)


def test_a_table_begins_anew_where_columns_change():
    text = table([{"a": 1.23456, "b": None}, {"a": 123456.7, "b": "x"}, {"c": True}])
    blocks = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in b.split("\n")] for b in text.split("\n\n")]
    assert [[block[0], *block[2:]] for block in blocks] == [
        [["a", "b"], ["1.23", ""], ["123457", "x"]],
        [["c"], ["True"]],
    ]
