"""benchmarks/averages.py: what it says of an aligned zoo is what aligning said of it."""

from __future__ import annotations

import json
from pathlib import Path

import averages
import pytest
from tokenised import digits_zoo

from zoo.derive.on_images import measure_of
from zoo.derive.worth import Pair, worth
from zoo.recipe import task_of


def test_zoos_have_the_numbers_that_aligning_gives_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    call = [str(zoo.path), "--out", str(tmp_path / "found"), "--device", "cpu"]
    assert averages.main(call) == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())
    measure = measure_of(zoo, task_of(zoo.manifest.origin).build(None, "cpu"))
    known = worth(zoo, zoo, Pair(raw=0, aligned=0), measure).behaviour
    assert known is not None
    assert (row["zoo"], row["networks"]) == (str(zoo.path), 4)
    for title, value in (
        ("accuracy", known.accuracy),
        ("midpoint of two", known.midpoint.raw),
        ("mean of all", known.mean.raw),
        ("soup of 4", known.soup.raw),
        ("loss barrier", known.barrier.raw),
    ):
        assert row[title] == pytest.approx(value), title
    assert json.loads((tmp_path / "found.lines.json").read_text()) == {str(zoo.path): pytest.approx(known.raw_line)}
    assert "midpoint of two" in capsys.readouterr().out
