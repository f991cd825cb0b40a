"""Which binary tasks there are, and which are held out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.conditions import (
    BITS,
    PUBLISHED,
    Holdout,
    all_conditions,
    bits,
    check_condition,
    distance,
    flipped,
    neighbours,
    splits,
)
from zoo.training.collect import CollectConfig, jobs

CONDITIONS = st.sampled_from(all_conditions())
SETTINGS = {"optimizer": "sgd", "learning_rate": 0.1, "save_learning_rate": 0.01, "batch_size": 5, "epochs": 1}


def test_all_labellings_but_two() -> None:
    everything = all_conditions()
    assert len(set(everything)) == 1022
    assert {"0" * BITS, "1" * BITS}.isdisjoint(everything)
    assert [int(condition, 2) for condition in everything] == list(range(1, 1023))


@given(CONDITIONS, CONDITIONS)
def test_distances(a: str, b: str) -> None:
    assert distance(a, b) == bits(a).sub(bits(b)).abs().sum() == (int(a, 2) ^ int(b, 2)).bit_count()
    assert (distance(a, b) == 1) == (b in neighbours(a))
    assert distance(a, b) + distance(a, flipped(b)) == BITS
    assert flipped(flipped(a)) == a


@pytest.mark.parametrize("wrong", ["0" * 10, "1" * 10, "010", "01000101110", "010001011x", "", "٠1٠٠٠1٠111"])
def test_no_condition(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected 10 digits") as caught:
        check_condition(wrong)
    assert "\n" not in str(caught.value)


def test_published_holdout_is_table_14() -> None:
    found = splits(all_conditions(), Holdout(kind="published"))
    unseen = {condition for condition, split in found.items() if split == "unseen"}
    assert len(PUBLISHED) == len(unseen) == 20
    # The first and last rows of Table 14, and the flipped embedding of Table 10.
    assert {"0100010111", "0111110110", "0010000000", "1001010000", "0011000101"} <= unseen
    assert set(found.values()) == {"train", "unseen"}


@given(st.integers(0, 2**40), st.integers(1, 30).map(lambda half: 2 * half))
def test_no_neighbours_leaves_two_bits_between(seed: int, n: int) -> None:
    found = splits(all_conditions(), Holdout(kind="no-neighbours", n=n, seed=seed))
    members = {split: {c for c in found if found[c] == split} for split in ("train", "unseen", "excluded")}
    assert len(members["unseen"]) == n
    assert {flipped(c) for c in members["unseen"]} == members["unseen"]
    near = {other for c in members["unseen"] for other in neighbours(c)}
    assert members["excluded"] == near - members["unseen"]
    assert not near & members["train"]


@given(st.integers(0, 2**40), st.integers(1, 100))
def test_random_holdout(seed: int, n: int) -> None:
    found = splits(all_conditions(), Holdout(kind="random", n=n, seed=seed))
    assert list(found.values()).count("unseen") == n
    assert found == splits(all_conditions(), Holdout(kind="random", n=n, seed=seed))


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ({"kind": "published", "n": 5}, "leave n out"),
        ({"kind": "no-neighbours", "n": 3}, "must be even"),
    ],
)
def test_bad_holdout(holdout: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Holdout.model_validate(holdout)


def test_holdout_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="leaves none for split unseen"):
        splits(["0000011111"], Holdout(kind="published"))
    with pytest.raises(ValueError, match="leaves none for split train"):
        splits(["0100010111"], Holdout(kind="published"))
    with pytest.raises(ValueError, match=r"lower zoo\.holdout\.n"):
        splits(all_conditions(), Holdout(kind="random", n=1023))


def test_jobs_of_conditions() -> None:
    config = CollectConfig(**SETTINGS, seed=7, holdout=Holdout(kind="published"), init="shared")
    made = jobs(config, all_conditions())
    assert len({job.name for job in made}) == 1022
    assert {(job.seed, job.start) for job in made} == {(7, 7)}
    assert [job.condition for job in made if job.split == "unseen"] == [f"{k:010b}" for k in PUBLISHED]
    apart = jobs(CollectConfig(**SETTINGS, seed=7), all_conditions())
    assert {job.seed for job in apart} == {7}
    assert len({job.start for job in apart}) == 1022
    alone = jobs(CollectConfig(**SETTINGS, seed=7, conditions=("0100010111",)), all_conditions())
    assert alone == [job for job in apart if job.condition == "0100010111"]


def test_jobs_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="are for tasks with conditions"):
        jobs(CollectConfig(**SETTINGS, conditions=("0100010111",)))
    with pytest.raises(ValueError, match=r"with zoo\.holdout"):
        jobs(CollectConfig(**SETTINGS, regime="independent", seeds=4, heldout=0.5), all_conditions())
