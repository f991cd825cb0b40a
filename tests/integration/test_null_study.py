"""benchmarks/null_study.py: a row for each form and zoo, forms that do not fit named, and nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import null_study
import pytest
from tokenised import digits_zoo

import study
from rpg.reports.comparisons import read_comparison
from zoo.recipe import load_method


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
    assert "digits: no pca-99: method.rank = 99, but 4 networks have 3 components" in said.err
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


def test_every_form_is_one_that_its_method_takes() -> None:
    for name, (method, settings) in null_study.FORMS.items():
        config, _ = load_method(method, [f"method.{key}={'null' if v is None else v}" for key, v in settings.items()])
        assert {key: getattr(config, key) for key in settings} == settings, name
