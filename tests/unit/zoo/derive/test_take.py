"""Taking the first training seeds of a zoo: the same checkpoints, what is held out stays, the old zoo is as it was."""

import pytest
import torch

from killing import check_kills, content
from zoo import writer
from zoo.derive.take import take
from zoo.errors import Corrupt
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
NEW = ("rpg-zoo", "take")


def network(seed):
    return {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}


@pytest.fixture
def zoo(tmp_path) -> Zoo:
    """Two checkpoints of each of four seeds, as workers may leave them: not in the order of seeds; one is held out."""
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in (7, 5, 6, 9):
            for k in range(2):
                split = "heldout" if seed == 9 else "train"
                writer.add(f"seed{seed}-{k}", network(10 * seed + k), seed=seed, split=split)
        return writer.finish()


def test_the_first_seeds_and_what_is_held_out_stay(zoo, tmp_path):
    before = content(zoo.path)
    made = take(zoo, 2, NEW, tmp_path / "two")
    kept = [entry for entry in zoo.entries if entry.seed in (5, 6, 9)]
    assert list(made.entries) == kept
    assert [len(made.select(split)) for split in ("train", "heldout")] == [4, 2]
    assert list(made.problems()) == []
    assert made.manifest.origin.parents == (zoo.sha256,)
    assert content(zoo.path) == before
    for entry in made.entries:
        torch.testing.assert_close(made.load(entry), zoo.load(entry), rtol=0, atol=0)


def test_it_appears_whole_or_not_at_all(zoo, tmp_path):
    whole = content(take(zoo, 1, NEW, tmp_path / "whole").path)
    check_kills(lambda path: take(zoo, 1, NEW, path), tmp_path / "kills", whole)


def test_all_seeds_are_another_zoo_with_the_same_checkpoints(zoo, tmp_path):
    made = take(zoo, 3, NEW, tmp_path / "all")
    assert made.entries == zoo.entries
    assert made.sha256 != zoo.sha256


@pytest.mark.parametrize("seeds", [0, 4, -1])
def test_more_than_there_are_is_refused(zoo, tmp_path, seeds):
    with pytest.raises(ValueError, match=f"has 3 training seeds, so it cannot give {seeds}; take 1 to 3"):
        take(zoo, seeds, NEW, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_choice_in_the_same_place_is_refused(zoo, tmp_path):
    take(zoo, 1, NEW, tmp_path / "new")
    with pytest.raises(ValueError, match=r"holds another zoo: .*take"):
        take(zoo, 2, NEW, tmp_path / "new")


def test_a_checkpoint_that_is_gone_is_found(zoo, tmp_path):
    zoo.file(zoo.entries[0].file).unlink()
    with pytest.raises(Corrupt, match="is missing or has not"):
        take(zoo, 1, NEW, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_that_nothing_needs_any_more_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "STACK_BELOW", 1)
    with ZooWriter(tmp_path / "large", ORIGIN, Structure.of(network(0))) as large_writer:
        for seed in range(3):
            large_writer.add(f"seed{seed}", network(seed), seed=seed, split="train")
        large = large_writer.finish()
    made = take(large, 1, NEW, tmp_path / "one")
    assert [path.name for path in sorted((made.path / "checkpoints").iterdir())] == ["seed0.safetensors"]
    assert list(made.problems()) == []
