"""One network for all classes on binary tasks: its answers by hand, where it may come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpg.reports.all_classes import AllClasses, classifier_of
from rpg.reports.tasks import shared_start
from zoo.conditions import flipped
from zoo.formats.exporting import export_checkpoint
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks import binary, classification
from zoo.writer import ZooWriter

CPU = torch.device("cpu")
NETWORK = {"model": "cnn_digits", "data": "digits"}
TENS = classification.Config(name="classification", **NETWORK)  # type: ignore[arg-type]  # literals
BINARY = binary.Config(name="binary", **NETWORK)  # type: ignore[arg-type]  # literals
CONDITION = "0100010111"


def zoo_of(path: Path, config: Any, settings: dict[str, Any] | None = None) -> Zoo:
    task = config.build(None, CPU)
    origin = Origin(
        name="tens",
        kind="collected",
        task=config.model_dump(mode="json", exclude_defaults=True),
        settings=settings or {},
        command=("x",),
        versions={},
    )
    with ZooWriter(path, origin, Structure.of(task.weights(task.build(0)))) as writer:
        for seed in (1, 2):
            writer.add(f"n{seed}", task.weights(task.build(seed)), seed=seed, split="train", step=0)
        return writer.finish()


def found_by(config: Any, place: Path | None = None) -> AllClasses:
    found = classifier_of(config, None, CPU, place)
    assert isinstance(found, AllClasses), found
    return found


def test_probabilities_are_summed_for_the_bits(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "tens", TENS)
    found = found_by(BINARY, zoo.path)
    assert found.sha256 == tuple(entry.sha256 for entry in zoo.entries)
    task = TENS.build(None, CPU)
    images = torch.cat(list(task.test_images()))
    assert found.classes.tolist() == task.images.test_labels.tolist()
    chosen = [k for k, bit in enumerate(CONDITION) if bit == "1"]
    for entry, answers in zip(zoo.entries, found.answers(CONDITION), strict=True):
        model = task.build(0)
        task.load(model, zoo.load(entry))
        with torch.no_grad():
            shares = model.eval()(images).softmax(1)[:, chosen].sum(1).numpy()
        sure = abs(shares - 0.5) > 1e-4
        assert sure.mean() > 0.9
        assert np.array_equal(answers[sure], shares[sure] > 0.5)
        assert 0 < answers.mean() < 1
    for one, other in zip(found.answers(CONDITION), found.answers(flipped(CONDITION)), strict=True):
        assert not np.any(one & other)


def test_what_the_tasks_started_from_is_found(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path / "tens", TENS)
    export_checkpoint(zoo, zoo.entries[0], "timm", tmp_path / "exported")
    started = BINARY.model_copy(update={"pretrained": str(tmp_path / "exported")})
    named = found_by(BINARY, zoo.path)
    for found in (found_by(started), found_by(BINARY, tmp_path / "exported")):
        assert found.sha256 == named.sha256[:1]
        np.testing.assert_allclose(found.probabilities, named.probabilities[:1], atol=1e-6)


def test_networks_of_another_width_are_found(tmp_path: Path) -> None:
    about: dict[str, Any] = {"model": "cnn_medium", "data": "digits", "image_size": 32, "options": {"width": 0.25}}
    zoo = zoo_of(tmp_path / "tens", classification.Config(name="classification", **about))
    export_checkpoint(zoo, zoo.entries[0], "timm", tmp_path / "exported")
    config = binary.Config(name="binary", **about)
    assert found_by(config, tmp_path / "exported").sha256 == found_by(config, zoo.path).sha256[:1]
    wide = config.model_copy(update={"options": {}})  # what the tasks' networks are like is another matter
    assert found_by(wide, tmp_path / "exported").sha256 == found_by(config, zoo.path).sha256[:1]


def test_what_is_not_there_is_said_and_what_is_named_must_fit(tmp_path: Path) -> None:
    said = classifier_of(BINARY, None, CPU)
    assert isinstance(said, str)
    assert "name one with --classifier" in said
    gone = classifier_of(BINARY.model_copy(update={"pretrained": str(tmp_path / "gone")}), None, CPU)
    assert isinstance(gone, str)
    assert "config.json" in gone
    export_checkpoint(zoo_of(tmp_path / "two", BINARY), Zoo.open(tmp_path / "two").entries[0], "timm", tmp_path / "of2")
    with pytest.raises(ValueError, match=r"for 2 classes; expected a network for the 10 of digits"):
        classifier_of(BINARY, None, CPU, tmp_path / "of2")
    with pytest.raises(ValueError, match=r"expected a zoo of networks for all classes"):
        classifier_of(BINARY, None, CPU, tmp_path / "two")


def test_the_shared_start_is_what_the_task_starts_from(tmp_path: Path) -> None:
    task = BINARY.build(None, CPU)
    zoo = zoo_of(tmp_path / "shared", BINARY, {"zoo": {"init": "shared", "seed": 3}})
    start = shared_start(zoo, task)
    assert not isinstance(start, str)
    expected = task.weights(task.build(3))
    assert all(start[name].equal(tensor) for name, tensor in expected.items())
    assert "same weights (zoo.init: shared)" in str(shared_start(zoo_of(tmp_path / "own", BINARY, {"zoo": {}}), task))
    gone = BINARY.model_copy(update={"pretrained": str(tmp_path / "gone")}).build(None, CPU)
    assert "the shared start is not at hand" in str(shared_start(zoo, gone))
