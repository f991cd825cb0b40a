"""What networks start from goes on a zoo's record, and is no part of what the zoo is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from zoo.api import collection
from zoo.checkpoint import content_hash
from zoo.errors import MissingData
from zoo.formats.weights import hash_of
from zoo.plugins import changed
from zoo.recipe import load_recipe
from zoo.training.engines import Plan, _recorded


def plan(place: Path, pretrained: object) -> Plan:
    recipe = load_recipe("digits", [f"task.pretrained={pretrained}"])
    return collection(recipe, ("rpg-zoo", "collect"), place / "zoo")


def test_a_file_of_weights_is_recorded_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3)}, file)
    begun = plan(tmp_path, file)
    recorded = _recorded(begun)
    name = f"pretrained {file}"
    assert recorded.origin.versions[name] == f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert recorded.origin.fingerprint == begun.origin.fingerprint
    assert begun.origin.versions == {k: v for k, v in recorded.origin.versions.items() if k != name}

    torch.save({"a": torch.zeros(3)}, file)
    assert changed(recorded.origin.versions, _recorded(begun).origin.versions) == [name]
    assert _recorded(plan(tmp_path, False)).origin == plan(tmp_path, False).origin


def test_a_network_in_several_files_by_its_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    for number, name in enumerate(tensors):
        torch.save({name: tensors[name]}, tmp_path / f"x-{number}.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "x-0.bin", "b": "x-1.bin"}}')
    assert hash_of(index) == f"tensors {content_hash(tensors)}"


def test_who_continues_a_zoo_may_lack_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = plan(tmp_path, tmp_path / "w.pth")

    def gone(_: object) -> dict[str, str]:
        raise MissingData("gone")

    monkeypatch.setattr(type(begun.task), "started_from", gone)
    with pytest.raises(MissingData):
        _recorded(begun)
    begun.path.mkdir()
    (begun.path / "journal.jsonl").touch()
    assert _recorded(begun) == begun
