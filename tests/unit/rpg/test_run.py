"""The directory of a run: who it is of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rpg.run import Run, RunRecord
from zoo.manifest import Origin
from zoo.structure import Structure

ORIGIN = Origin(name="toy", kind="trained", command=("rpg", "train"), versions={})


def test_a_run_that_another_process_begins_meanwhile_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several processes the first writes the record, while the others look whether there is one."""
    record = RunRecord(origin=ORIGIN, structure=Structure.of({"w": torch.zeros(1)}), networks=("a" * 64,), files={})
    listed = Path.glob

    def begun_meanwhile(path: Path, pattern: str) -> Iterator[Path]:
        run = Run(path)
        run.write_json(run.record_path, record)
        return listed(path, pattern)

    monkeypatch.setattr(Path, "glob", begun_meanwhile)
    Run(tmp_path).refuse_another(ORIGIN)
    with pytest.raises(ValueError, match="holds another run: name"):
        Run(tmp_path).refuse_another(ORIGIN.model_copy(update={"settings": {"name": "other"}}))


def test_a_linked_run_has_the_name_of_its_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "mine").symlink_to("other")
    assert Run(tmp_path / "mine").name == "mine"
