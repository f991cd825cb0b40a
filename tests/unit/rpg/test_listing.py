"""What lies in a directory is listed, whatever state it is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rpg.listing import listing
from rpg.run import Run, read_losses
from zoo.errors import Corrupt


@pytest.mark.parametrize("text", ["[]", '"x"', '{"groups": 5}', "{"])
def test_a_report_that_is_none_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    place = tmp_path / "reports/mine"
    place.mkdir(parents=True)
    (place / "report.json").write_text(text)
    (row,) = listing(tmp_path)
    assert (row["what"], row["name"]) == ("report", "mine")
    assert "report.json" in str(row["state"])


def test_what_cannot_be_read_is_listed_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoos/mine").mkdir(parents=True)
    (tmp_path / "zoos/mine/manifest.json").mkdir()
    (tmp_path / "zoos/mine/journal.jsonl").write_text("")
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/run.json").write_text("{}")

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    looked_at = Path.is_file

    def is_file(path: Path) -> bool:
        return refuse(path) if path.name == "hidden" else looked_at(path)

    (tmp_path / "runs/mine/hidden").write_text("")
    monkeypatch.setattr("rpg.listing.Run", refuse)
    monkeypatch.setattr(Path, "is_file", is_file)
    rows = listing(tmp_path)
    assert [(row["what"], row["name"], row["bytes"]) for row in rows] == [("zoo", "mine", 0), ("run", "mine", None)]
    assert rows[0]["state"] == "unfinished"
    assert "Permission denied" in str(rows[1]["state"])


@pytest.mark.parametrize("line", [{"step": 10**400, "loss": 1.0}, {"step": 1, "loss": 10**400}, {"step": True}])
def test_losses_that_nobody_can_compute_with_are_damage(tmp_path: Path, line: dict[str, object]) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2}) + "\n")
    assert read_losses(Run(tmp_path)) == [(1, 2)]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(Corrupt, match="without step and loss"):
        read_losses(Run(tmp_path))
