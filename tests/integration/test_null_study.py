"""benchmarks/null_study.py: a row for each form and zoo, forms that do not fit named, and nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import null_study
import pytest
from tokenised import digits_networks, digits_zoo

import study
from rpg.reports.comparisons import read_comparison
from zoo.api import from_state_dicts
from zoo.files import write_bytes
from zoo.recipe import load_method
from zoo.tasks.classification import ClassificationTask, Config


def test_every_form_that_fits_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    monkeypatch.setattr(
        null_study, "FORMS", {name: null_study.FORMS[name] for name in ("gaussian-0.5", "soup-of-2", "pca-99")}
    )
    call = [str(zoo.path), "--out", str(tmp_path / "out"), "-n", "2", "--device", "cpu"]
    assert null_study.main(call) == 0
    said = capsys.readouterr()
    assert "digits: no pca-99: it needs 100 networks, and there are 4" in said.err
    rows = json.loads((tmp_path / "out" / "null_study.json").read_text())
    assert [(row["zoo"], row["networks"], row["form"]) for row in rows] == [
        ("digits", 4, "original"),
        ("digits", 4, "gaussian-0.5"),
        ("digits", 4, "soup-of-2"),
    ]
    comparison = read_comparison(tmp_path / "out" / "digits" / "report")
    assert rows[1]["mean"] == pytest.approx(comparison.groups[1].scored.metrics["top1"].mean, abs=0.01)
    assert "gaussian-0.5" in said.out
    drawn = (tmp_path / "out" / "null_study.svg").read_text()
    for row in rows:
        assert f"<title>digits, {row['form']}: {row['mean']:.2f} at" in drawn

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done twice")

    with pytest.raises(ValueError, match=r"has 2 networks, not -n 3; choose another place with --out"):
        null_study.main([*call, "-n", "3"])
    other = digits_zoo(tmp_path / "others" / "digits", 3)
    with pytest.raises(ValueError, match=r"learnt other networks than those of .*others"):
        null_study.main([str(other.path), *call[1:]])
    with pytest.raises(ValueError, match="two zoos are called digits"):
        null_study.main([call[0], str(other.path), *call[1:]])
    monkeypatch.setattr(study, "plan_report", never)
    written = (tmp_path / "out" / "null_study.json").read_bytes()
    assert null_study.main(call) == 0
    assert (tmp_path / "out" / "null_study.json").read_bytes() == written


def test_a_form_that_fails_stops_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    monkeypatch.setattr(null_study, "FORMS", {"gaussian-1": null_study.FORMS["gaussian-1"]})
    write_bytes(tmp_path / "out" / "digits" / "runs" / "gaussian-1" / "of-mine.txt", b"x")
    with pytest.raises(ValueError, match=r"gaussian-1 exists and is not a run"):
        null_study.main([str(zoo.path), "--out", str(tmp_path / "out"), "--device", "cpu"])
    with pytest.raises(ValueError, match="-n is 0; expected 1 or more"):
        null_study.main([str(zoo.path), "--out", str(tmp_path / "out"), "-n", "0"])
    bare = from_state_dicts(digits_networks(3), "bare", out=tmp_path / "bare")
    with pytest.raises(ValueError, match="bare does not say what its networks do"):
        null_study.main([str(bare.path), "--out", str(tmp_path / "bare-out"), "--device", "cpu"])
    assert not (tmp_path / "bare-out").exists()


def test_a_report_on_other_test_data_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = digits_zoo(tmp_path / "zoos" / "digits", 4)
    monkeypatch.setattr(null_study, "FORMS", {"gaussian-1": null_study.FORMS["gaussian-1"]})
    call = [str(zoo.path), "--out", str(tmp_path / "out"), "-n", "2", "--device", "cpu"]
    assert null_study.main(call) == 0
    report = tmp_path / "out" / "digits" / "report"
    before = read_comparison(report).inputs["protocol"]
    build = Config.build

    def on_others(self: Config, *given: Any) -> ClassificationTask:
        task = build(self, *given)
        task.protocol = "other digits"
        return task

    monkeypatch.setattr(Config, "build", on_others)
    assert null_study.main(call) == 0
    assert read_comparison(report).inputs["protocol"] == "other digits" != before


def test_every_form_is_one_that_its_method_takes() -> None:
    for name, (method, settings) in null_study.FORMS.items():
        config, _ = load_method(method, [f"method.{key}={'null' if v is None else v}" for key, v in settings.items()])
        assert {key: getattr(config, key) for key in settings} == settings, name
