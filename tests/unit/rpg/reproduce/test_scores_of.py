"""The scores behind a table: those of the step that made them, whatever else was scored into the same place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenised import digits_task, digits_zoo

from rpg.reproduce.collected import Machine
from rpg.reproduce.measures import scores_of
from rpg.reproduce.steps import Scored
from zoo.errors import MissingData
from zoo.scoring import score


def test_scores_of_another_precision_change_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = digits_zoo(Path("zoos") / "digits", 3)
    of = cast("Any", SimpleNamespace(name="digits", place=zoo.path, done=True))
    step = Scored(of)
    assert not step.on_record
    with pytest.raises(MissingData, match="scores of 0 of 3 networks of zoos/digits; make them with `rpg-zoo score"):
        scores_of(of)
    step.carry_out(Machine("cpu", None))
    full = scores_of(of)
    assert [one.id for one in full] == [entry.id for entry in zoo.entries]
    score(zoo, digits_task(), step.place, zoo.entries[:1], precision="bfloat16")  # interrupted
    assert scores_of(of) == full
    score(zoo, digits_task(), step.place, precision="bfloat16")
    assert scores_of(of) == full
    step.carry_out(Machine("cpu", None))
    assert scores_of(of) == full
    assert step.on_record
