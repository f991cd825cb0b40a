"""benchmarks/polish_curve.py: starts and untrained networks after equal steps, and nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import polish_curve
import pytest
from tokenised import digits_zoo

import rpg
import study
from zoo.store import Zoo


def test_every_start_has_a_row_for_each_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    rpg.train(zoo, "gaussian", out=tmp_path / "run", device="cpu")
    start = rpg.generate(tmp_path / "run", n=2, out=tmp_path / "start", device="cpu")
    out = tmp_path / "out"
    call = [str(zoo.path), str(start.path), "--out", str(out), "--steps", "0,3", "-n", "2", "--device", "cpu"]
    call += ["--learning-rate", "0.01"]
    assert polish_curve.main(call) == 0
    rows = json.loads((out / "polish_curve.json").read_text())
    assert [(row["start"], row["steps"], row["samples seen"]) for row in rows] == [
        ("original", None, None),
        ("start", 0, 0),
        ("start", 3, 375),
        ("untrained", 0, 0),
        ("untrained", 3, 375),
    ]
    assert Zoo.open(out / "zoos" / "start-3").manifest.origin.settings["polish"]["learning_rate"] == 0.01
    before, after = (list(Zoo.open(out / "zoos" / name)) for name in ("untrained", "untrained-3"))
    assert not any(a["module.1.weight"].equal(b["module.1.weight"]) for a, b in zip(before, after, strict=True))
    assert not before[0]["module.0.weight"].equal(before[1]["module.0.weight"])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr(study, "plan_report", never)
    written = (out / "polish_curve.json").read_bytes()
    assert polish_curve.main(call) == 0
    assert (out / "polish_curve.json").read_bytes() == written


def test_other_steps_and_starts_are_reported_anew_and_two_of_one_name_refused(tmp_path: Path) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    starts = []
    for method, seed in (("gaussian", 0), ("noise", 0), ("gaussian", 1)):
        run = rpg.train(zoo, method, out=tmp_path / method, device="cpu")
        place = tmp_path / f"start-{len(starts)}"
        starts.append(str(rpg.generate(run, n=2, seed=seed, out=place, device="cpu").path))
    places = ["--out", str(tmp_path / "out"), "-n", "2", "--device", "cpu"]
    rows = []
    for steps, given in (("0", starts[:1]), ("0,2", starts[:1]), ("0", starts[:2])):
        assert polish_curve.main([str(zoo.path), *given, *places, "--steps", steps]) == 0
        found = json.loads((tmp_path / "out" / "polish_curve.json").read_text())
        rows.append([(row["start"], row["steps"]) for row in found if row["steps"] is not None])
    assert rows[0] == [("start-0", 0), ("untrained", 0)]
    assert rows[1] == [("start-0", 0), ("start-0", 2), ("untrained", 0), ("untrained", 2)]
    assert sorted(rows[2]) == [("start-0", 0), ("start-1", 0), ("untrained", 0)]
    with pytest.raises(ValueError, match=r"start-0 and .*start-2 differ in their seeds alone"):
        polish_curve.main([str(zoo.path), starts[0], starts[2], *places, "--steps", "0"])
    with pytest.raises(ValueError, match="two starts are called start-0"):
        polish_curve.main([str(zoo.path), starts[0], starts[0], *places])
    with pytest.raises(ValueError, match="-n is 0"):
        polish_curve.main([str(zoo.path), starts[0], *places, "-n", "0"])
