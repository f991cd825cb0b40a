"""Splitting a zoo anew: same checkpoints, other splits, nothing trained and nothing changed in the old one."""

import os

import pytest
import torch

from killing import content
from zoo.conditions import PUBLISHED, Holdout, all_conditions, flipped, neighbours, splits
from zoo.derive import split as split_module
from zoo.derive.split import plan_split, split_zoo
from zoo.errors import Corrupt
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
NEW = ("rpg-zoo", "split")
CONDITIONS = [f"{number:010b}" for number in (1, 2, 3, 511, 512, 1022, *PUBLISHED[:3])]


def network(seed):
    return {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}


def make(path, conditions):
    with ZooWriter(path, ORIGIN, Structure.of(network(0))) as writer:
        for seed, condition in enumerate(conditions):
            for k in range(2):
                id = f"{condition or 'none'}-{k}"
                writer.add(id, network(9 * seed + k), seed=seed, split="train", condition=condition)
        return writer.finish()


@pytest.fixture
def zoo(tmp_path):
    return make(tmp_path / "zoo", CONDITIONS)


def test_the_published_tasks_go_to_unseen_and_all_else_stays(zoo, tmp_path):
    before = content(zoo.path)
    made = split_zoo(zoo, Holdout(kind="published"), NEW, tmp_path / "new")
    unseen = {f"{number:010b}" for number in PUBLISHED}
    assert [e.split for e in made.entries] == ["unseen" if e.condition in unseen else "train" for e in zoo.entries]
    assert [e.model_copy(update={"split": "train"}) for e in made.entries] == list(zoo.entries)
    assert list(made.problems()) == []
    assert made.manifest.origin.parents == (zoo.sha256,)
    assert made.manifest.origin.settings["holdout"]["kind"] == "published"
    assert plan_split(zoo, Holdout(kind="published")) == {"train": 12, "unseen": 6}
    assert content(zoo.path) == before
    again = split_zoo(zoo, Holdout(kind="published"), ("another", "call"), tmp_path / "new")
    assert again.sha256 == made.sha256


def test_neighbours_of_what_is_held_out_are_excluded(tmp_path):
    holdout = Holdout(kind="no-neighbours", n=2)
    held = min(c for c, name in splits(all_conditions(), holdout).items() if name == "unseen")
    zoo = make(tmp_path / "zoo", [held, flipped(held), neighbours(held)[0], "0000000111"])
    made = split_zoo(zoo, holdout, NEW, tmp_path / "new")
    found = {entry.condition: entry.split for entry in made.entries}
    assert found == {held: "unseen", flipped(held): "unseen", neighbours(held)[0]: "excluded", "0000000111": "train"}


def test_files_are_linked_or_copied(zoo, tmp_path, monkeypatch):
    stack = zoo.entries[0].file
    linked = split_zoo(zoo, Holdout(kind="published"), NEW, tmp_path / "linked")
    assert (linked.path / stack).samefile(zoo.path / stack)

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    copied = split_zoo(zoo, Holdout(kind="published"), NEW, tmp_path / "copied")
    assert not (copied.path / stack).samefile(zoo.path / stack)
    assert content(copied.path) == content(linked.path)


def test_what_a_kill_left_goes(zoo, tmp_path, monkeypatch):
    whole = split_zoo(zoo, Holdout(kind="published"), NEW, tmp_path / "whole")
    (tmp_path / ".new.tmp" / "checkpoints").mkdir(parents=True)
    (tmp_path / ".new.tmp" / "checkpoints" / "stack-00007.safetensors").write_bytes(b"half")
    made = split_zoo(zoo, Holdout(kind="published"), NEW, tmp_path / "new")
    assert content(made.path) == content(whole.path)

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(split_module, "write_index", fails)
    with pytest.raises(KeyboardInterrupt):
        split_zoo(zoo, Holdout(kind="random", n=500), NEW, tmp_path / "newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "whole", "zoo"]


def test_bad_input_is_refused_and_writes_nothing(zoo, tmp_path):
    with pytest.raises(ValueError, match="leaves none for split unseen"):
        split_zoo(zoo, Holdout(kind="random", n=1, seed=5), NEW, tmp_path / "new")
    bare = make(tmp_path / "bare", [None])
    with pytest.raises(ValueError, match="expected a zoo of binary tasks"):
        plan_split(bare, Holdout(kind="published"))
    (tmp_path / "other").mkdir()
    for other in (zoo.path, tmp_path / "other"):
        with pytest.raises(ValueError, match="choose another place with --out"):
            split_zoo(zoo, Holdout(kind="published"), NEW, other)
    (zoo.path / zoo.entries[0].file).write_bytes(b"short")
    with pytest.raises(Corrupt, match="rpg-zoo verify"):
        split_zoo(Zoo.open(zoo.path), Holdout(kind="published"), NEW, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "other", "zoo"]
